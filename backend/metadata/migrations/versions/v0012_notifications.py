"""Notifications: what each user is told of, how far, and which folders are muted."""

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, LargeBinary, Text

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def _key(name: str) -> "Column[int]":
    return Column(name, BigInteger, primary_key=True, autoincrement=False)


def _number(name: str) -> "Column[int]":
    return Column(name, BigInteger, nullable=False)


def upgrade() -> None:
    """Add three empty tables."""
    op.create_table("notified", _key("user"), _number("newest"), _number("seq"))
    op.create_table(
        "notifications",
        _key("user"),
        _key("number"),
        _number("time_ns"),
        Column("kind", Text, nullable=False),
        Column("path", LargeBinary, nullable=False),
        Column("folder", LargeBinary, nullable=False),
        _number("inode"),
        Column("things", Integer, nullable=False),
        _number("by_user"),
        _number("by_device"),
        Column("text", Text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table("mutes", _key("user"), _key("inode"))
