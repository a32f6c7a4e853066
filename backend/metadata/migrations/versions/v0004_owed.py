"""Owed: copies that cannot be read are found without looking at all others."""

from alembic import op
from sqlalchemy import text

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make an index of the few rows that are owed."""
    owed = text("state = 1")
    op.create_index("block_copies_owed", "block_copies", ["account", "block"], sqlite_where=owed, postgresql_where=owed)
