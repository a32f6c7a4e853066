"""Commits: a batch of mutations becomes one step of its workspace's history, or part of it does, or nothing.

Owns the turns, what a request must be like, and who is woken after it; what becomes of a batch is `batches`. Invariant:
one transaction for each request.
"""

from weakref import WeakValueDictionary

import anyio
from sqlalchemy import Connection

from backend.notify import hub
from backend.service import cursors, ids, membership, sessions, workspaces
from backend.service.batches import Batch
from backend.service.caller import Caller
from backend.service.commit import validity
from backend.service.ground import Ground
from backend.service.workspaces import Access
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import MAX_ID, Incarnation, WorkspaceId
from drivefs.protocol.messages import MAX_BATCH_BLOCKS, CommitReply, CommitRequest, Cursor, FeedStatus, Usage


class Commits:
    """Takes commits of all workspaces, one at a time for each."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._turns: WeakValueDictionary[WorkspaceId, anyio.Lock] = WeakValueDictionary()

    async def commit(self, caller: Caller, workspace: WorkspaceId, request: CommitRequest) -> CommitReply:
        """Apply what can be applied of a batch; durable on return.

        Cancelled while it waits for its turn it leaves nothing; once begun it runs to its end, and those who wait for
        changes are woken.

        Raises:
            ProtocolError: `malformed`, `too_large`, `not_found`, `stale_epoch`, `diverged`; nothing was applied.
        """
        _check_request(request)
        turn = self._turns.setdefault(workspace, anyio.Lock())
        async with turn:
            with anyio.CancelScope(shield=True):
                reply, changed = await self._ground.database.write(self._commit, caller, workspace, request)
                self._ground.hub.wake(*map(hub.of_workspace, changed))
        return reply

    def _commit(
        self, connection: Connection, caller: Caller, workspace: WorkspaceId, request: CommitRequest
    ) -> tuple[CommitReply, list[WorkspaceId]]:
        access = workspaces.require(connection, caller.user, workspace, lock=True)
        if access.kind == workspaces.SHARE:
            raise ProtocolError(Code.FORBIDDEN, "What is in a share is changed by way of the drive that it hangs in.")
        sessions.require_epoch(connection, caller, request.epoch, request.nonce)
        incarnation = ids.incarnation(connection)
        _require_history(connection, access, incarnation, request.seen)
        batch = Batch(connection, self._ground, caller, access, request)
        batch.judge()
        usage = Usage(stored_bytes=batch.figures.stored_bytes, pinned_bytes=batch.figures.pinned_bytes)
        head = workspaces.head_cursor(connection, batch.home, incarnation)
        told = membership.rooms(connection, caller.user, self._ground.limits) if batch.is_abroad else []
        return CommitReply(results=batch.results, head=head, usage=usage, rooms=told), batch.changed


def _check_request(request: CommitRequest) -> None:
    numbers = [mutation.n for mutation in request.mutations]
    if len(set(numbers)) < len(numbers) or not all(0 < n <= MAX_ID for n in numbers):
        raise ProtocolError(Code.MALFORMED, "The numbers of a batch are out of bounds, or one is there twice.")
    if not (0 <= request.watermark <= MAX_ID and 0 <= request.epoch <= MAX_ID):
        raise ProtocolError(Code.MALFORMED, "The epoch or the watermark is out of bounds.")
    if sum(map(validity.block_references, request.mutations)) > MAX_BATCH_BLOCKS:
        raise ProtocolError(Code.TOO_LARGE, f"A batch may name {MAX_BATCH_BLOCKS} blocks. Send it in several.")


def _require_history(connection: Connection, access: Access, incarnation: Incarnation, seen: Cursor | None) -> None:
    """See that what the device has seen last is part of the history: else its bases are not those meant here.

    Raises:
        ProtocolError: `diverged`.
    """
    if seen is None or cursors.judge(connection, access, incarnation, seen).status is not FeedStatus.DIVERGED:
        return
    raise ProtocolError(
        Code.DIVERGED,
        "The server was put back to an older state than this device knows. Nothing was changed, and what the device "
        "has is kept; it looks at the drive anew before it sends more.",
    )
