"""Presence: which devices are here, what they have still to send, and the large uploads that are under way."""

from alembic import op
from sqlalchemy import BigInteger, Column, LargeBinary

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, all of which may be unknown, and an empty table."""
    for name in ("online_until_ns", "pending_mutations", "pending_bytes"):
        op.add_column("devices", Column(name, BigInteger))
    op.create_table(
        "device_uploads",
        *(
            Column(name, BigInteger, primary_key=True, autoincrement=False)
            for name in ("account", "workspace", "device")
        ),
        Column("stamp", BigInteger, nullable=False),
        Column("reported_ns", BigInteger, nullable=False),
        Column("uploads", LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
