"""A device's standing with the backend: its epoch, its nonce, its inode ids and the workspace that it shows.

Owns the exchange that begins each mount and each login, and the durable facts that it leaves in the journal's database.
Invariants: a nonce to come is durable here before it is offered, so that a lost reply never looks like a cloned disk;
each process offers one of its own, so that a cloned disk never looks like a lost reply.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

import trio

from cache.journal import Journal
from cache.workspace import LocalState
from drivefs.protocol import wire
from drivefs.protocol.ground import RandomBytes
from drivefs.protocol.ids import ID_RANGE_LENGTH, Epoch, InodeId, WorkspaceId
from drivefs.protocol.messages import MAX_ASKED_NONCES, IdRangesRequest, Limits, SessionReply, SessionRequest
from drivefs.remote import errors
from drivefs.remote.client import Remote
from drivefs.sync import sent

log = logging.getLogger(__name__)

NONCE_BYTES = 16
DEFAULT_FILE_BYTES = 10 * 10**9
RESERVE_RANGES = 2
ASKED = "next_nonce"
"""The fact that keeps the nonces asked for since the last answer, one behind the other."""
LIMITS = "limits"
"""The fact under which the account's limits are remembered."""

MOST_RANGES = 8
"""So many ranges of inode ids can be asked for at once."""


async def _ask(local: LocalState, remote: Remote, next_nonce: bytes) -> SessionReply:
    """Offer a nonce to come, drawn by this process; nothing else changes here."""
    journal = local.journal
    earlier = [nonce for nonce in _asked(journal) if nonce != next_nonce][-MAX_ASKED_NONCES:]
    asked = b"".join([*earlier, next_nonce])
    if journal.meta(ASKED) != asked:
        journal.set_meta(ASKED, asked)
        await local.barrier()
    request = SessionRequest(
        epoch=journal.epoch,
        last_nonce=nonce(journal),
        next_nonce=next_nonce,
        asked=earlier,
        sent=sent.count(journal),
    )
    return await remote.session(request)


def nonce(journal: Journal) -> bytes:
    """What the present session is known by."""
    return journal.meta("nonce") or b""


def _asked(journal: Journal) -> list[bytes]:
    """The nonces that were asked for since the last answer that was heard, the latest last."""
    nonces = journal.meta(ASKED) or b""
    return [nonces[at : at + NONCE_BYTES] for at in range(0, len(nonces), NONCE_BYTES)]


def _take_over(journal: Journal, reply: SessionReply) -> None:
    """Note, in the caller's transaction, that the nonce asked for last is the present one; begin a new epoch."""
    journal.set_meta("nonce", _asked(journal)[-1])
    journal.set_meta(ASKED, None)
    journal.set_meta(LIMITS, wire.encode(reply.limits))
    if reply.epoch != journal.epoch:
        journal.begin_epoch(reply.epoch)


def known_limits(journal: Journal) -> Limits:
    """What the backend allowed the account the last time it was heard, so that it holds offline too."""
    known = journal.meta(LIMITS)
    return Limits(file_bytes=DEFAULT_FILE_BYTES, quota_bytes=0) if known is None else wire.decode(known, Limits)


class Beginning(NamedTuple):
    """What a device that logs in got: its first session and its ranges of inode ids. `begin` takes them over."""

    reply: SessionReply
    starts: list[InodeId]


async def ask_to_begin(local: LocalState, remote: Remote, random_bytes: RandomBytes) -> Beginning:
    """Open a first session of a device that has just logged in, and ask for its inode ids.

    The journal stays as it is but for the nonce to come: an earlier login goes on with it as before.

    Raises:
        RemoteError: no session, or no ids.
    """
    reply = await _ask(local, remote, random_bytes(NONCE_BYTES))
    if reply.epoch == local.journal.epoch:
        return Beginning(reply, [])
    ranges = await remote.id_ranges(IdRangesRequest(epoch=reply.epoch, count=ranges_for(local.journal)))
    return Beginning(reply, ranges.starts)


def ranges_for(journal: Journal) -> int:
    """How many ranges of inode ids an epoch begins with: all that is pending may need new ones."""
    return min(MOST_RANGES, RESERVE_RANGES + journal.pending_count // ID_RANGE_LENGTH)


async def begin(local: LocalState, beginning: Beginning) -> None:
    """Let a state that is not mounted be that of the device that logged in; durable on return.

    In a new epoch, what an earlier device made and never committed gets ids of this one. A crash leaves the state of
    the earlier login, or that of the new one, whole.

    Raises:
        CacheError: nothing was changed.
    """
    journal = local.journal
    with journal.transaction():
        is_new = beginning.reply.epoch != journal.epoch
        _take_over(journal, beginning.reply)
        for start in beginning.starts:
            journal.add_id_range(start)
        if is_new:
            local.renumber_creations()
    await local.barrier()


def set_cursor(local: LocalState, reply: SessionReply, workspace: WorkspaceId) -> None:
    """A new replica starts at the head: what lies before is listed on demand.

    Raises:
        Offline: the drive is not there any more.
    """
    for info in reply.workspaces:
        if info.workspace == workspace:
            if local.replica.cursor(workspace) is None:
                local.replica.set_cursor(workspace, info.head)
            return
    raise errors.Offline("the server no longer lists this drive among those that this device may use")


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
        self._next_nonce = b""
        self.renumbered: Callable[[dict[InodeId, InodeId]], None] = lambda fresh: None
        """Hears of inodes that have new ids, by the old ones, right after the databases have them."""
        self.undisturbed = trio.Lock()
        """Held by whoever needs the epoch and all ids to stay as they are."""
        self.has_void_ids = False
        """Whether the ids that this device has were given by a server that does not remember it."""

    @property
    def epoch(self) -> Epoch:
        """The epoch of the journal; 0 before the first session."""
        return self._local.journal.epoch

    async def open(self) -> None:
        """Swap nonces, take a new epoch if the backend demands one, and see that there are inode ids in reserve.

        In a new epoch, what was never committed has ids of it before anything else is heard from the backend. Durable
        on return; a crash leaves the old epoch whole, or the new one.

        Raises:
            RemoteError: no session.
        """
        async with self.undisturbed:
            reply = await self._open()
        self._opened(reply)

    async def _open(self) -> SessionReply:
        if not self._next_nonce:
            self._next_nonce = self._random_bytes(NONCE_BYTES)
        reply = await _ask(self._local, self._remote, self._next_nonce)
        if self.epoch and (reply.epoch != self.epoch or self.has_void_ids):
            await self._begin_epoch(reply)
        else:
            with self._local.journal.transaction():
                _take_over(self._local.journal, reply)
        self._next_nonce = b""
        set_cursor(self._local, reply, self._workspace)
        await self.refill_ids()
        await self._local.journal.log_barrier()
        return reply

    async def _begin_epoch(self, reply: SessionReply) -> None:
        journal = self._local.journal
        count = ranges_for(journal)
        ranges = await self._remote.id_ranges(IdRangesRequest(epoch=reply.epoch, count=count))
        with journal.transaction():
            _take_over(journal, reply)
            journal.begin_epoch(reply.epoch)
            for start in ranges.starts:
                journal.add_id_range(start)
            fresh = self._local.renumber_creations()
        self.has_void_ids = False
        if journal.pending_count:
            log.warning(
                "the server does not know this copy of the device's state: it was restored from a backup, or another"
                " copy was mounted since. The %d changes that wait are sent as changes of a new device",
                journal.pending_count,
            )
        self.renumbered(fresh)

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
