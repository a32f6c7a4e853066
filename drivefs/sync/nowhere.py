"""Finds out whether a block that the backend asks for again, and that is not here either, is nowhere any more.

Owns since when each is missed. After a power cut a content on its way may be here as its store alone, with its blocks
at the backend, which lets go of them when the device stays away for longer than they are pinned.
"""

import trio

from drivefs.protocol.changes import Store
from drivefs.protocol.errors import Code
from drivefs.protocol.ids import BlockId
from drivefs.protocol.messages import ContentRequest
from drivefs.protocol.model import unpack_blocks
from drivefs.remote import errors
from drivefs.sync.ends import Ends

MISSED_SECONDS = 60.0
"""So long the backend says that it does not have a block before it is given up: its store may be slow to find it."""


class Nowhere:
    """What nobody has any more, as far as one device can know."""

    def __init__(self, ends: Ends) -> None:
        self._ends = ends
        self._drafts = ends.local.journal.drafts
        self._since: dict[BlockId, float] = {}

    async def is_nowhere(self, store: Store, block: BlockId) -> bool:
        """Whether a block that the content of a store lacks will not be had any more.

        What the revision has on which the content was made, another device may have and send again.

        Raises:
            RemoteError: what the backend has of that revision cannot be had now.
        """
        since = self._since.setdefault(block, trio.current_time())
        draft = self._drafts.draft(store.inode)
        if trio.current_time() < since + MISSED_SECONDS or draft is None or draft.base.revision_op:
            return False
        if not draft.base.revision:
            return True
        request = ContentRequest(inode=store.inode, revision=draft.base.revision)
        try:
            reply = await self._ends.remote.content(self._ends.workspace, request)
        except errors.Refused as error:
            return error.code in (Code.NOT_FOUND, Code.FORBIDDEN)
        return all(ref.block != block for ref in unpack_blocks(reply.blocks))
