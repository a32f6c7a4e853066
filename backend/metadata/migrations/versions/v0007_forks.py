"""Forks: whether another history goes back to one is found without looking at all others."""

from alembic import op
from sqlalchemy import text

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make an index of the histories that are forks."""
    forked = text("parent_lineage IS NOT NULL")
    op.create_index(
        "lineages_by_parent", "lineages", ["account", "parent_lineage"], sqlite_where=forked, postgresql_where=forked
    )
