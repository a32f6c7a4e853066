"""Operations: what devices were answered that had something done, for when the answer is lost."""

from alembic import op
from sqlalchemy import BigInteger, Column, LargeBinary

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "operations",
        Column("device", BigInteger, primary_key=True, autoincrement=False),
        Column("request", LargeBinary, primary_key=True),
        Column("done_ns", BigInteger, nullable=False),
        Column("answer", LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
