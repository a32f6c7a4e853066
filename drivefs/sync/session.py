"""A device's standing with the backend: its epoch, its nonce, its inode ids and the workspace that it shows.

Owns the exchange that begins each mount, and the durable facts that it leaves in the journal's database. Invariant: the
nonce to come is durable here before it is offered, so that a lost reply never looks like a cloned disk.
"""

from collections.abc import Callable

from cache.workspace import LocalState
from drivefs.protocol.ground import RandomBytes
from drivefs.protocol.ids import ID_RANGE_LENGTH, Epoch, WorkspaceId
from drivefs.protocol.messages import IdRangesRequest, SessionReply, SessionRequest
from drivefs.remote import errors
from drivefs.remote.client import Remote

NONCE_BYTES = 16
RESERVE_RANGES = 2


async def exchange(local: LocalState, remote: Remote, random_bytes: RandomBytes) -> SessionReply:
    """Swap nonces, and take a new epoch if the backend demands one; durable on return.

    Raises:
        RemoteError: no session.
    """
    journal = local.journal
    next_nonce = journal.meta("next_nonce")
    if next_nonce is None:
        next_nonce = random_bytes(NONCE_BYTES)
        journal.set_meta("next_nonce", next_nonce)
        await local.barrier()
    request = SessionRequest(epoch=journal.epoch, last_nonce=journal.meta("nonce") or b"", next_nonce=next_nonce)
    reply = await remote.session(request)
    with journal.transaction():
        journal.set_meta("nonce", next_nonce)
        journal.set_meta("next_nonce", None)
        if reply.epoch != journal.epoch:
            journal.begin_epoch(reply.epoch)
    await local.barrier()
    return reply


class Session:
    """The standing of this device; `opened` hears each reply."""

    def __init__(
        self,
        local: LocalState,
        remote: Remote,
        workspace: WorkspaceId,
        *,
        random_bytes: RandomBytes,
        opened: Callable[[SessionReply], None],
    ) -> None:
        self._local = local
        self._remote = remote
        self._workspace = workspace
        self._random_bytes = random_bytes
        self._opened = opened

    @property
    def epoch(self) -> Epoch:
        """The epoch of the journal; 0 before the first session."""
        return self._local.journal.epoch

    async def open(self) -> None:
        """Swap nonces, take a new epoch if the backend demands one, and see that there are inode ids in reserve.

        Raises:
            RemoteError: no session.
        """
        reply = await exchange(self._local, self._remote, self._random_bytes)
        self._set_cursor(reply)
        await self.refill_ids()
        await self._local.journal.log_barrier()
        self._opened(reply)

    def _set_cursor(self, reply: SessionReply) -> None:
        """A new replica starts at the head: what lies before is listed on demand."""
        for info in reply.workspaces:
            if info.workspace == self._workspace:
                if self._local.replica.cursor(self._workspace) is None:
                    self._local.replica.set_cursor(self._workspace, info.head)
                return
        raise errors.Offline("the server no longer lists this drive among those that this device may use")

    async def refill_ids(self) -> None:
        """See that the reserve of inode ids is full.

        Raises:
            RemoteError: it could not be filled.
        """
        missing = RESERVE_RANGES - self._local.journal.ids_left() // ID_RANGE_LENGTH
        if missing > 0:
            reply = await self._remote.id_ranges(IdRangesRequest(epoch=self.epoch, count=missing))
            with self._local.journal.transaction():
                for start in reply.starts:
                    self._local.journal.add_id_range(start)
