"""Lives: each copy of a device's state goes on in an epoch of its own, beside the others."""

from alembic import op
from sqlalchemy import BigInteger, Column, LargeBinary

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Move the one life that was known of each device into a table."""
    op.create_table(
        "lives",
        *(Column(name, BigInteger, primary_key=True, autoincrement=False) for name in ("device", "epoch")),
        Column("nonce", LargeBinary, nullable=False),
        Column("begun_ns", BigInteger, nullable=False),
    )
    op.execute("INSERT INTO lives SELECT device, epoch, nonce, coalesce(last_seen_ns, 0) FROM devices WHERE epoch != 0")
    op.drop_column("devices", "epoch")
    op.drop_column("devices", "nonce")
