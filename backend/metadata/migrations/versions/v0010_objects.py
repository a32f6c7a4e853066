"""Objects: what lies in one is found without looking at all copies."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make an index of copies by the object that they lie in."""
    op.create_index("block_copies_by_object", "block_copies", ["account", "object"])
