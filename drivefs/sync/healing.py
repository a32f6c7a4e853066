"""Sends again what the backend has lost and this device still has in its cache.

Owns the question and the rhythm; whether a block is what its id says is found out by the cache when it is read. Nothing
is asked of blocks that this device has not: another one may have them.
"""

import logging
from typing import Protocol

from cache.blocks import BlockCache
from drivefs.protocol.ids import BlockId, WorkspaceId
from drivefs.protocol.messages import LostReply

log = logging.getLogger(__name__)

HEAL_SECONDS = 600.0
"""How often it is asked: almost always the answer is that nothing is lost."""


class Loser(Protocol):
    """The part of the backend that says what it has lost."""

    async def lost(self, workspace: WorkspaceId, after: bytes) -> LostReply:
        """A page of lost blocks, behind a given one."""
        ...


class Sender(Protocol):
    """What sends one block that the backend has lost."""

    async def store_again(self, block: BlockId, plaintext: bytes) -> None:
        """Send it."""
        ...


class Healing:
    """Heals what the backend has lost in one workspace."""

    def __init__(self, backend: Loser, cache: BlockCache, sender: Sender, workspace: WorkspaceId) -> None:
        self._backend = backend
        self._cache = cache
        self._sender = sender
        self._workspace = workspace

    async def heal(self) -> None:
        """Send all lost blocks that are here. Cancellation leaves out the rest, until the next time.

        Raises:
            RemoteError: the backend does not answer, or refuses.
        """
        after, has_more = b"", True
        while has_more:
            reply = await self._backend.lost(self._workspace, after)
            for block in reply.blocks:
                plaintext = await self._cache.get(block)
                if plaintext is not None:
                    await self._sender.store_again(block, plaintext)
                    log.warning("sent block %s again, which the server had lost", block.hex()[:16])
            has_more = reply.more and bool(reply.blocks)
            after = reply.blocks[-1] if reply.blocks else b""
