"""Removed: users who were removed are kept for a time, in which they can be brought back."""

from alembic import op
from sqlalchemy import BigInteger, Column

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Have a place for the time."""
    op.add_column("users", Column("removed_ns", BigInteger))
