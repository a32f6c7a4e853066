"""What is done when the feed cannot go on: the backend has forgotten that part of its history, or has another one.

Owns the order of steps. What this device shows stays readable all the while:

1. If the history is another one: what the backend had acknowledged, and may have lost, is pending again; and what it
   has lost of what the feed had brought is a change of this device (`salvage`).
2. The replica is set aside, and a new one begins at the backend's head with the next session.
3. Every directory of whose names programs were told something is listed again, the root first, and what is different is
   told: to the caches, and to the kernel. The rest of the drive is listed as in any new replica.
4. What was set aside is dropped.

A crash leaves the old replica and cursor, and all begins again, or a new replica in a mount that has told nobody
anything. Invariant: a mutation that was acknowledged leaves the journal only with a history that has it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from cache.journal import JournalRow
from drivefs.protocol.changes import Base, Store
from drivefs.protocol.errors import Code
from drivefs.protocol.ids import InodeId, OpNumber, Seq
from drivefs.protocol.messages import FeedPage, FeedStatus, InodesRequest
from drivefs.remote import errors
from drivefs.sync import planner, seen
from drivefs.sync.contents import Shown
from drivefs.sync.ends import Ends
from drivefs.sync.follower import Follower
from drivefs.sync.lister import Lister
from drivefs.sync.salvage import Offered, Salvage

TOGETHER = 100
"""So many directories, or open files, are asked for at once."""


class Told(Protocol):
    """Directories."""

    @property
    def is_all(self) -> bool:
        """Whether they are so many that nobody remembers which."""
        ...

    def __iter__(self) -> Iterator[InodeId]:
        """Those that are remembered."""
        ...


class Files(Protocol):
    """What programs were told and have open."""

    @property
    def offering(self) -> Offered:
        """What makes lost contents and inodes changes of this device."""
        ...

    @property
    def told(self) -> "Told":
        """The directories of whose names they were told something."""
        ...

    def begin_again(self) -> None:
        """The databases are not what they were: drop all that is cached of them."""
        ...

    def remember_open(self) -> list[InodeId]:
        """Have the states of all open files in memory, as they are known now; gives those files."""
        ...


class Relisting:
    """Brings a device from one history of a workspace to another one."""

    def __init__(self, ends: Ends, shown: Shown, files: Files, *, lister: Lister, follower: Follower) -> None:
        self._offered = files.offering
        self._salvage = Salvage(ends, files.offering, lister)
        self._local = ends.local
        self._remote = ends.remote
        self._workspace = ends.workspace
        self._shown = shown
        self._files = files
        self._lister = lister
        self._follower = follower
        self.publishable: Callable[[InodeId], None] = lambda inode: None
        """Hears of files whose content is a change again: nothing of them is on its way any more."""

    @property
    def notes(self) -> list[str]:
        """What people should know of what a backend has lost."""
        return list(self._salvage.notes)

    @property
    def is_needed(self) -> bool:
        """Whether programs may still be shown what was known before."""
        return self._local.replica.earlier is not None

    async def begin(self, page: FeedPage) -> None:
        """The feed cannot go on, as a page of it says: set aside what is known. Nothing may be committed meanwhile.

        Raises:
            DiskFull: there is no room to keep what the backend has lost; nothing was set aside.
            RemoteError: it cannot be asked what it has lost; nothing was set aside.
        """
        if page.status is FeedStatus.DIVERGED:
            await self._follower.let_go()
            await self._offer_acknowledged(page.shared)
            for inode in await self._salvage.run(page.shared):
                self.publishable(inode)
        self._local.replica.set_aside()
        self._files.begin_again()

    async def _offer_acknowledged(self, shared: Seq) -> None:
        """What was acknowledged after a commit is pending again: contents as drafts, all else as what it was."""
        journal = self._local.journal
        stores: dict[InodeId, list[OpNumber]] = {}
        bases: dict[InodeId, Base] = {}
        for store in (row.mutation for row in journal.acknowledged(shared) if isinstance(row.mutation, Store)):
            stores.setdefault(store.inode, []).append(store.n)
            bases.setdefault(store.inode, Base(revision=store.base.revision))
        taken_over: list[OpNumber] = []
        for inode, numbers in stores.items():
            state = journal.overlay.inode(inode)
            if state is None or not state.nlink or await self._offered.offer_again(state, bases[inode]):
                taken_over += numbers
                self.publishable(inode)
        with journal.transaction():
            acknowledged = journal.acknowledged(shared)
            journal.offer_again(taken_over, shared)
            for row in acknowledged:
                if isinstance(row.mutation, Store):
                    is_gone = row.n in taken_over
                    self._restand(row, bases[row.mutation.inode] if is_gone else Base(revision_op=row.n))
            seen.forget(journal)

    def _restand(self, store: JournalRow, base: Base) -> None:
        """What was made on the outcome of a lost store is made on `base`: that number will be another content's."""
        inode, old = store.mutation.inode, Base(revision=store.revision)
        waiting = [row.mutation for row in self._local.journal.touching(inode) if row.n > store.n]
        for mutation in planner.rebase(waiting, inode=inode, old=old, new=base):
            self._local.journal.say_anew(mutation)

    async def run(self) -> None:
        """List again what programs know, and tell what is different. Cancellation leaves the rest for the next time.

        Raises:
            RemoteError: the backend cannot be had now; call it again.
            DiskFull: there is no room to keep what is listed.
        """
        replica, earlier = self._local.replica, self._local.replica.earlier
        for together in self._directories():
            await self._list(together)
            if replica.earlier is not earlier:
                return
            for directory in together:
                self._follower.relisted(directory)
        await self._find_open()
        if replica.earlier is not earlier:
            return
        open_now = self._files.remember_open()
        replica.drop_earlier()
        self._shown.views.forget_cached(open_now, [])
        for inode in open_now:
            self._shown.invalidator.inode(inode, content=True)

    def _directories(self) -> Iterator[Sequence[InodeId]]:
        """The directories that programs know, some at a time: those that are remembered, or all that were known."""
        told = self._files.told
        yield from _parts(sorted(told))
        layer = self._local.replica.earlier if told.is_all else None
        while layer is not None:
            yield from layer.complete_directories(TOGETHER)
            layer = layer.earlier

    async def _list(self, directories: Sequence[InodeId]) -> None:
        """Have these directories complete; those that are not there stay as they are."""
        replica, overlay = self._local.replica, self._local.journal.overlay
        made = {state.inode for state in overlay.inodes(directories) if not state.seq}
        own = {inode for inode in made if self._local.journal.made_in(inode) == 0}
        missing = [each for each in directories if each not in own and not replica.is_complete(each)]
        if missing:
            await self._lister.list_many(missing)
        for directory in missing:
            if not replica.is_complete(directory):
                try:
                    await self._lister.list_directory(directory)
                except errors.Refused as error:
                    if error.code is not Code.NOT_FOUND:
                        raise

    async def _find_open(self) -> None:
        """Learn of open files that are in none of those directories any more."""
        replica, overlay = self._local.replica, self._local.journal.overlay
        for together in _parts(self._files.remember_open()):
            known = {state.inode for state in [*replica.inodes(together), *overlay.inodes(together)]}
            missing, cursor = [each for each in together if each not in known], replica.cursor(self._workspace)
            if missing and cursor is not None:
                request = InodesRequest(inodes=missing, as_of=cursor.seq)
                reply = await self._remote.inodes(self._workspace, request)
                replica.put_inodes([state for state in reply.inodes if state.nlink], cursor.seq)


def _parts(inodes: Sequence[InodeId]) -> Iterator[Sequence[InodeId]]:
    for start in range(0, len(inodes), TOGETHER):
        yield inodes[start : start + TOGETHER]
