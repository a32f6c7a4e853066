"""Looking back: revisions that are kept for good, and an index that lists the trash."""

from alembic import op
from sqlalchemy import BigInteger, Column, text

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add an empty table, and an index of the few rows that lie in the trash."""
    op.create_table(
        "kept",
        *(Column(name, BigInteger, primary_key=True, autoincrement=False) for name in ("account", "lineage", "number")),
        Column("user", BigInteger, nullable=False),
        Column("kept_ns", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    held = text("trash = 1")
    op.create_index(
        "dentry_versions_held", "dentry_versions", ["account", "to_seq"], sqlite_where=held, postgresql_where=held
    )
