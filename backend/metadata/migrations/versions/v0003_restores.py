"""Restores: what the history of each workspace had in common before and after each of them; and the data's own mark."""

from alembic import op
from sqlalchemy import BigInteger, Column, Text

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add an empty table, and a mark that is not known yet."""
    op.add_column("deployment", Column("mark", Text))
    op.create_table(
        "restores",
        *(
            Column(name, BigInteger, primary_key=True, autoincrement=False)
            for name in ("account", "workspace", "number")
        ),
        Column("ended", BigInteger, nullable=False),
        Column("head_seq", BigInteger, nullable=False),
    )
