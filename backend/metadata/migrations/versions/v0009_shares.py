"""Shares: which of their commits each member's own drive has taken in, and what blocks members may ask for."""

from alembic import op
from sqlalchemy import BigInteger, Column, LargeBinary

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add two empty tables."""
    op.create_table(
        "followed",
        *(
            Column(name, BigInteger, primary_key=True, autoincrement=False)
            for name in ("account", "workspace", "share", "seq")
        ),
        Column("share_seq", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "share_blocks",
        *(Column(name, BigInteger, primary_key=True, autoincrement=False) for name in ("account", "workspace")),
        Column("block", LargeBinary, primary_key=True),
        sqlite_with_rowid=False,
    )
