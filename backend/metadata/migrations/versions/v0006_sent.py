"""Sent: how many batches of each epoch have come, so that a device that was rolled back is known."""

from alembic import op
from sqlalchemy import BigInteger, Column

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Begin to count: what came before is not known."""
    op.add_column("device_epochs", Column("sent", BigInteger, nullable=False, server_default="0"))
