"""Snapshots: moments of a workspace that have a name."""

from alembic import op
from sqlalchemy import BigInteger, Column, Text

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make an empty table."""
    op.create_table(
        "snapshots",
        *(Column(name, BigInteger, primary_key=True, autoincrement=False) for name in ("account", "workspace")),
        Column("name", Text, primary_key=True),
        *(Column(name, BigInteger, nullable=False) for name in ("seq", "time_ns", "user", "device", "created_ns")),
    )
