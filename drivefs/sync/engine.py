"""Runs synchronisation: the tasks, when each works, and how they wait for each other.

Owns the nursery of all background work on the network; what each task does is in `publisher`, `commits` and
`follower`. Every task waits out an offline time and a full disk, and goes on where it was. When the local disk fails,
nothing is sent or heard any more, and what is here goes on being shown. Invariant: a task that fails with anything but
a `RemoteError`, `DiskFull` or `Poisoned` ends the mount: that is a defect, and the journal has everything.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import trio

from cache.errors import Corrupt, DiskFull, OutOfIds, Poisoned
from cache.workspace import LocalState
from drivefs.protocol.changes import OpResult, Store
from drivefs.protocol.ids import InodeId, OpNumber
from drivefs.protocol.messages import FeedPage, FeedStatus, Room, Usage
from drivefs.remote import errors
from drivefs.sync import walker
from drivefs.sync.commits import Committer
from drivefs.sync.connection import SESSION_ENDING, Connection
from drivefs.sync.contents import Contents
from drivefs.sync.follower import POLL_SECONDS, Follower
from drivefs.sync.giving_up import GivingUp
from drivefs.sync.guard import Guard
from drivefs.sync.healing import HEAL_SECONDS, Healing
from drivefs.sync.prefetch import Prefetcher
from drivefs.sync.publications import Publications
from drivefs.sync.publisher import Publisher
from drivefs.sync.refusals import Refusals
from drivefs.sync.relisting import Relisting
from drivefs.sync.session import Session
from drivefs.sync.signal import Signal

log = logging.getLogger(__name__)

BARRIER_SECONDS = 1.0
POLL_PAUSE_SECONDS = 0.02
IDLE_SECONDS = 30.0
WAITING_SECONDS = 1.0
"""How often it is looked whether what has to wait to be given up can be."""
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What the engine runs; `used` hears what the account uses after each commit."""

    local: LocalState
    session: Session
    connection: Connection
    contents: Contents
    publications: Publications
    publisher: Publisher
    guard: Guard
    committer: Committer
    refusals: Refusals
    giving_up: GivingUp
    follower: Follower
    relisting: Relisting
    walker: walker.Walker
    prefetcher: Prefetcher
    healing: Healing
    used: Callable[[Usage, Sequence[Room]], None]


@dataclass(slots=True)
class _Trouble:
    """A task that has failed, how often in a row, and why the last time."""

    failure_count: int = 0
    reason: str = ""


class Engine:
    """All background synchronisation of one mount."""

    def __init__(self, parts: Parts, jitter: Callable[[], float]) -> None:
        self._parts = parts
        self.connection = parts.connection
        parts.committer.resend = self.resend
        self._jitter = jitter
        self._troubles: dict[str, _Trouble] = {}
        self.caught_up = trio.Event()
        """Set once the replica has been as new as the backend, and not known since to have missed something."""
        self._polling = trio.CancelScope()
        self._has_stood_still = False
        self._settled = trio.Event()
        self._awaited: list[set[InodeId]] = []
        """The contents for which people wait."""
        self._covered = Signal()
        self._resends: list[tuple[Store, OpResult]] = []
        self._begun_again = Signal()

    @property
    def given_up(self) -> list[str]:
        """What people should know of changes that gave way to those of other devices, or that nobody takes."""
        return [*self._parts.committer.given_up, *self._parts.giving_up.notes, *self._parts.relisting.notes]

    @property
    def refused_count(self) -> int:
        """Of how many files, directories and links the server did not take something, since the mount began."""
        return self._parts.giving_up.count

    async def run(self) -> None:
        """Synchronise until cancelled; cancellation loses nothing, the journal has it all."""
        try:
            await self._synchronise()
        except* Poisoned as failed:
            # Ending the mount would take away what can still be read; the next one looks at what the disk really has.
            error: BaseException = failed
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            self.connection.end(error)
        await trio.sleep_forever()

    async def _synchronise(self) -> None:
        self._offer_drafts()
        self._parts.giving_up.look()
        self._covered.raise_()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.connection.run)
            nursery.start_soon(self._parts.guard.scan)
            nursery.start_soon(self._barriers)
            nursery.start_soon(self._publish, nursery)
            nursery.start_soon(self._publish_urgent, nursery)
            nursery.start_soon(self._commit)
            nursery.start_soon(self._commit_urgent)
            nursery.start_soon(self._give_up)
            nursery.start_soon(self._follow)
            nursery.start_soon(self._let_go)
            nursery.start_soon(self._walk)
            nursery.start_soon(self._prefetch)
            nursery.start_soon(self._heal)
            nursery.start_soon(self._list_again)

    def _offer_drafts(self) -> None:
        """What an earlier mount left unpublished is due; nothing is open yet."""
        for inode in self._parts.local.journal.drafts.draft_inodes():
            self._parts.publications.closed(inode)
        self._parts.publications.stored()

    def send_now(self, inodes: list[InodeId]) -> None:
        """Have all that is not committed go on its way, with these contents, open or not; waits for nothing."""
        self._parts.publications.forced(inodes)
        self._parts.giving_up.look()
        self.connection.retry_now()

    async def settle(self, inodes: list[InodeId]) -> None:
        """Return when all that the journal and the drafts hold now is committed, open files included, or held.

        `inodes` are those with unpublished content. Gives no deadline of its own; cancellation changes nothing.
        """
        journal, publications = self._parts.local.journal, self._parts.publications
        target = journal.next_op()
        self.send_now(inodes)
        waiting = set(inodes)
        self._awaited.append(waiting)
        try:
            while True:
                waiting.intersection_update([inode for inode in waiting if publications.is_on_its_way(inode)])
                if not waiting and self._is_settled_below(target):
                    return
                self._settled = trio.Event()
                with trio.move_on_after(1.0):
                    await self._settled.wait()
        finally:
            self._awaited = [each for each in self._awaited if each is not waiting]

    def _is_settled_below(self, op: OpNumber) -> bool:
        return self._parts.guard.is_settled_below(op) and self._parts.giving_up.is_done

    async def _begin_again(self, page: FeedPage) -> None:
        """The feed cannot go on from where the replica is: the replica begins again, the journal stays."""
        session = self._parts.session
        async with session.undisturbed:
            await self._parts.relisting.begin(page)
            # The ranges of ids may be handed out once more by a server that was put back to an older state.
            session.has_void_ids = session.has_void_ids or page.status is FeedStatus.DIVERGED
            self._resends.clear()
            self._parts.committer.begin_again()
        self._begun_again.raise_()
        self.connection.begin_again()
        self.connection.lost(
            errors.Offline("the server's history is not the one known here, so the drive is listed again")
        )

    def resend(self, store: Store, result: OpResult) -> None:
        """The backend lacks blocks of a store that is already sent: send them again, then the store."""
        self._resends.append((store, result))
        self._parts.publications.stored()

    async def _barriers(self) -> None:
        """Mutations are durable within a second, asked for or not; staged bytes when an fsync asks."""
        while True:
            await trio.sleep(BARRIER_SECONDS)
            local = self._parts.local
            with suppress(DiskFull):  # what was accepted is kept: tried again in a second
                if local.staging.has_retired:
                    await local.barrier()
                elif local.journal.is_log_dirty:
                    await local.journal.log_barrier()
                await local.checkpoint()

    async def _publish(self, nursery: trio.Nursery) -> None:
        worked_seconds = 0.0
        while True:
            await self._parts.publications.wait(IDLE_SECONDS)
            await self._parts.publications.lull(worked_seconds)
            await self.connection.wait_online()
            began = trio.current_time()
            await self._parts.publications.give_way()
            await self._parts.publisher.publish_due(nursery, self.connection.lost)
            worked_seconds = trio.current_time() - began

    async def _publish_urgent(self, nursery: trio.Nursery) -> None:
        """What goes ahead of a burst waits for no lull."""
        while True:
            await self._parts.publications.wait_urgent(IDLE_SECONDS)
            await self.connection.wait_online()
            await self._parts.publisher.publish_due(nursery, self.connection.lost, urgent=True)

    async def _commit_urgent(self) -> None:
        publications = self._parts.publications
        while True:
            await publications.urgent_changed.wait(IDLE_SECONDS)
            await publications.urgent_lull()
            await self.connection.wait_online()
            await self._guarded(self._commit_ahead)

    async def _commit(self) -> None:
        parts, worked_seconds = self._parts, 0.0
        while True:
            longest = 0.2 if parts.committer.has_deferred() else IDLE_SECONDS
            await parts.publications.journal_changed.wait(longest)
            await parts.publications.lull(worked_seconds)
            await self.connection.wait_online()
            began = trio.current_time()
            await self._guarded(self._commit_all)
            worked_seconds = trio.current_time() - began

    async def _commit_all(self) -> None:
        while self._resends:
            first = self._resends[0]
            await self._resend(*first)
            # Meanwhile all that there was may have become void, and others may have come.
            self._resends = [each for each in self._resends if each is not first]
        await self._parts.publications.give_way()
        while await self._commit_batch(urgent=False):
            await self._parts.publications.give_way()
        self._covered.raise_()

    async def _resend(self, store: Store, result: OpResult) -> None:
        """Let a store go out again, unless what it says can be sent no more: that keeps nothing else waiting."""
        try:
            is_here = await self._parts.publisher.resend(store, result)
        except Corrupt as error:
            self._parts.publisher.keep_damaged(store.inode, str(error))
            return
        except errors.BlockLost as error:
            self._parts.publisher.keep_lacking(store.inode, error)
            self._parts.committer.postpone(store.n)
            return
        except (OSError, MemoryError) as error:
            self._parts.publisher.keep_unreadable(store.inode, error)
            self._parts.committer.postpone(store.n)
            return
        except errors.Refused as error:
            if error.code in SESSION_ENDING:
                raise
            self.connection.lost(error)
            self._parts.committer.postpone(store.n)
            return
        if is_here:
            self._parts.committer.resent(store.n)
        else:
            self._parts.committer.lacks(store)
            self._parts.giving_up.look()

    async def _commit_ahead(self) -> None:
        while await self._commit_batch(urgent=True):
            self._covered.raise_()

    async def _commit_batch(self, *, urgent: bool) -> bool:
        """Commit one batch; whether there was one to go."""
        session = self._parts.session
        async with session.undisturbed:
            try:
                reply = await self._parts.committer.commit_next(session.epoch, urgent=urgent)
            except OutOfIds:
                # A conflict copy needs one; nothing was changed, and it is tried again once there are more.
                await session.refill_ids()
                return True
        if reply is None:
            return False
        self._settled.set()
        self._parts.giving_up.look()
        self._parts.used(reply.usage, reply.rooms)
        await session.refill_ids()
        return True

    async def _give_up(self) -> None:
        """What the backend will never take does not wait for ever."""
        giving_up = self._parts.giving_up
        while True:
            await giving_up.wait(WAITING_SECONDS if giving_up.is_waiting else IDLE_SECONDS)
            await self.connection.wait_online()
            await self.caught_up.wait()
            if self._parts.refusals.is_behind:
                await trio.sleep(POLL_PAUSE_SECONDS)
                giving_up.look()
            else:
                await self._guarded(self._give_up_all)

    async def _give_up_all(self) -> None:
        await self._parts.giving_up.work(self._parts.session.undisturbed)
        self._settled.set()
        self._parts.publications.stored()

    async def _follow(self) -> None:
        while True:
            await self.connection.wait_online()
            await self._guarded(self._poll)
            await trio.sleep(POLL_PAUSE_SECONDS)

    def poll_afresh(self) -> None:
        """The next poll asks for something else than the one under way."""
        self._polling.cancel()

    async def catch_up(self) -> None:
        """This process stood still: ask at once, over a new connection, what happened meanwhile, and wait for that.

        Returns at once when offline. Cancellation leaves the asking to go on.
        """
        if self.connection.reach.online:
            self._has_stood_still = True
            self.caught_up = caught_up = trio.Event()
            self._polling.cancel()
            await caught_up.wait()

    async def _let_go(self) -> None:
        """The overlay gives up what the replica has, after each commit and each page: either may come first."""
        while True:
            await self._covered.wait(IDLE_SECONDS)
            with suppress(DiskFull):  # it is tried again with the next page
                await self._parts.follower.let_go()

    async def _poll(self) -> None:
        is_behind = not self.caught_up.is_set()
        is_anew, self._has_stood_still = self._has_stood_still, False
        with trio.CancelScope() as self._polling:
            polled = await self._parts.follower.poll(0.0 if is_behind else POLL_SECONDS, is_anew=is_anew)
        if self._polling.cancelled_caught:
            self._has_stood_still = self._has_stood_still or is_anew
            return
        if polled.lost is not None:
            await self._begin_again(polled.lost)
            return
        if polled.has_moved:
            self._covered.raise_()
            if self._parts.committer.has_deferred():
                self._parts.publications.journal_changed.raise_()
        if not polled.has_more:
            self.caught_up.set()
        # Every device is told the same when a server stops: they should not come back as one.
        await trio.sleep(polled.retry_seconds * (0.5 + self._jitter()))

    async def _list_again(self) -> None:
        """After a new beginning, what programs were told is looked at again before the rest of the drive."""
        while True:
            await self._begun_again.wait(IDLE_SECONDS)
            while self._parts.relisting.is_needed:
                await self.connection.wait_online()
                await self._guarded(self._parts.relisting.run)

    def renumbered(self, fresh: Mapping[InodeId, InodeId]) -> None:
        """Inodes have new ids, by the old ones, and what was sent counts as not sent."""
        self._parts.publications.renumber(fresh)
        self._parts.giving_up.renumber(fresh)
        for waiting in self._awaited:
            waiting.update([fresh[inode] for inode in waiting & fresh.keys()])
        self._resends.clear()
        self._parts.committer.offer_deferred()

    async def _walk(self) -> None:
        """What is known of the drive here becomes complete, when there is nothing better to do."""
        while True:
            await self.connection.wait_online()
            await self.caught_up.wait()
            await self._guarded(self._parts.walker.walk)
            await trio.sleep(walker.IDLE_SECONDS)

    async def _heal(self) -> None:
        """What the backend has lost and this device has goes there again."""
        while True:
            await self.connection.wait_online()
            await self.caught_up.wait()
            await self._guarded(self._parts.healing.heal)
            await trio.sleep(HEAL_SECONDS * (0.5 + self._jitter()))

    async def _prefetch(self) -> None:
        """What is pinned comes here, and what others changed of what is used here."""
        while True:
            await self._parts.prefetcher.wait()
            await self.connection.wait_online()
            await self.caught_up.wait()
            await self._guarded(self._parts.prefetcher.work)

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do what needs the backend and room on the disk; on failure say so once and go on after a growing delay."""
        try:
            await work()
        except (errors.RemoteError, DiskFull) as error:
            trouble = self._troubles.setdefault(work.__name__, _Trouble())
            if str(error) != trouble.reason:
                log.warning("synchronising stopped for now: %s", error)
            trouble.reason = str(error)
            if isinstance(error, errors.RemoteError):
                self.connection.lost(error)
            self._parts.publications.stored()
            delay = min(FIRST_PAUSE_SECONDS * 2**trouble.failure_count, LONGEST_PAUSE_SECONDS)
            trouble.failure_count += 1
            await trio.sleep(delay * (0.5 + self._jitter() / 2))
        else:
            self._troubles.pop(work.__name__, None)
