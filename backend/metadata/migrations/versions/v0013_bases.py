"""Bases: since when a device that came back may have changes that it has not sent."""

from alembic import op
from sqlalchemy import BigInteger, Column

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Begin to note it: who is here has been here."""
    op.add_column("devices", Column("based_ns", BigInteger))
