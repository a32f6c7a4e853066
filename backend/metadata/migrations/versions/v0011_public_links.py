"""Public links: files that whoever has the address may download."""

from alembic import op
from sqlalchemy import BigInteger, Column, LargeBinary, Text

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add an empty table."""
    op.create_table(
        "public_links",
        Column("link", BigInteger, primary_key=True, autoincrement=False),
        Column("token_hash", LargeBinary, nullable=False, unique=True),
        *(Column(name, BigInteger, nullable=False) for name in ("user", "inode", "lineage", "created_ns")),
        Column("expires_ns", BigInteger),
        Column("password_hash", Text),
    )
