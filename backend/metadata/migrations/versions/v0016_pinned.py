"""Pinned: the room of uploads that were given up, and deleted before all of their pins, is free again."""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Drop pins of blocks that are gone, and count anew what the others take."""
    op.execute(
        "DELETE FROM pins WHERE NOT EXISTS"
        " (SELECT 1 FROM blocks WHERE blocks.account = pins.account AND blocks.block = pins.block)"
    )
    op.execute(
        "UPDATE accounts SET pinned_bytes = (SELECT coalesce(sum(size_bytes), 0) FROM blocks"
        " WHERE blocks.account = accounts.account AND refs = 0 AND EXISTS"
        " (SELECT 1 FROM pins WHERE pins.account = blocks.account AND pins.block = blocks.block))"
    )
