"""A device of a simulation: the parts of a real mount, but for the kernel, on a disk that crashes.

Owns its processes, one after the other; the way to the server; and the calls that programs make, by path. A call that
is under way when the process dies never returns.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import httpx
import trio

from cache.check import check
from cache.errors import DiskFull, Poisoned, ReplicaCorrupt
from cache.findings import Finding
from cache.workspace import LocalState
from drivefs.assembly import Assembly, Ground, Options
from drivefs.control.pins import Pinning
from drivefs.fs.filesystem import FileSystem
from drivefs.fs.ownership import Owner
from drivefs.fuse.attributes import Translation
from drivefs.protocol.ids import InodeId
from drivefs.remote.client import Remote
from drivefs.sync.guard import Question
from tests.simulation.calls import Calls
from tests.simulation.disk import Image, SimDisk
from tests.simulation.lives import Life
from tests.simulation.network import QUIET, Server, Way
from tests.simulation.server import FIRST_NS, Login
from tests.simulation.streams import RandomBytes, Streams

URL = "http://127.0.0.1:1"
OWNER = Owner(1000, 1000)


async def _unheard(_: Any) -> None:
    """Nobody waits for the progress of a command."""


class Kernel:
    """Forgets nothing, since it keeps nothing; but it knows inodes by its own numbers, as the real one does."""

    def __init__(self, filesystem: FileSystem, owner: Owner, came_of: dict[InodeId, InodeId]) -> None:
        self._came_of = came_of
        self.translation = Translation(filesystem.root, owner)
        self.calls = Calls(filesystem, self.translation)
        self.told = self
        self.swap = self.translation.swap

    def call_count(self) -> int:
        return self.calls.count

    def inode(self, inode: InodeId, *, content: bool) -> None:
        pass

    def entry(self, parent: InodeId, name: bytes) -> None:
        pass

    def merged(self, inode: InodeId, into: InodeId, *, is_new: bool) -> None:
        if is_new:
            self._came_of[into] = inode
            self.translation.take_over(inode, into)
        else:
            self.translation.merge(inode, into)

    def parted(self, inode: InodeId) -> None:
        self.translation.part(inode)


class Device:
    """See the module; `note` hears what belongs to the trace."""

    def __init__(
        self, login: Login, disk: SimDisk, server: Server, *, streams: Streams, note: Callable[..., None]
    ) -> None:
        name = self.name = login.name
        self.login = login
        self.disk = disk
        self.mood = QUIET
        self.cache_bytes = 2**28
        self.temporary: Sequence[str] = ()
        """Patterns of files that stay here."""
        self.came_of: dict[InodeId, InodeId] = {}
        """What was made here to stand for what could not go on under its own id, with that."""
        self.cut = ""
        """The direction in which no message arrives, or `both`; empty: all arrive."""
        self.skew_ns = streams.of(name, "clock").choice([0, 0, 10**9, -(10**9), 86_400 * 10**9, -86_400 * 10**9])
        self.life: Life
        self.local: LocalState
        self.drive: Assembly
        self.calls: Calls
        self._way: Way
        self._server = server
        self._streams = streams
        self._note = note
        self.is_ending = False
        """Whether somebody ends it, or brings it back, and nobody else may."""
        self._ticks = 0
        self._lives = 0
        self._random_bytes = RandomBytes(streams.of(name, "bytes"))
        self._jitter = streams.of(name, "jitter")

    def now_ns(self) -> int:
        self._ticks += 1
        return FIRST_NS + 10**12 + self.skew_ns + int(trio.current_time() * 10**9) + self._ticks * 1000

    @property
    def is_mounted(self) -> bool:
        return self._lives > 0 and not self.life.is_dead and not self.is_ending

    # -- processes ---------------------------------------------------------------------------------------------------

    async def mount(self, nursery: trio.Nursery) -> None:
        """Start a process; returns when its drive answers."""
        self.life = self._new_life()
        self.is_ending = True
        while True:
            try:
                await nursery.start(self.life.run, self._run)
                self.is_ending = False
                return
            except* (DiskFull, apsw.FullError):
                # People have to free some space, and try again.
                self._note(self.name, "has no room to be mounted")
            await trio.sleep(1.0)
            self.life = self._new_life()

    def _new_life(self) -> Life:
        self._lives += 1
        life = Life(self.name, self._streams.of(self.name, "threads", self._lives))
        life.expected = (Poisoned, ReplicaCorrupt)
        return life

    async def _run(self, life: Life) -> None:
        self._way = Way(life, self._server, self._streams.of(self.name, "network", self._lives), self._note)
        self.tell_way()
        with self.disk.booted():
            root = self.disk.root
            places = (root / "state", root / "cache")
            self.local = LocalState(*places, offload=life.offload, cache_limit_bytes=self.cache_bytes)
        client = httpx.AsyncClient(transport=self._way, trust_env=False)
        remote = Remote(URL, self.login.token, client=client, jitter=self._jitter.random)
        self.drive = Assembly(
            self._ground(life),
            self._options(),
            local=self.local,
            remote=remote,
            make_kernel=lambda fs: Kernel(fs, OWNER, self.came_of),
        )
        assert isinstance(self.drive.kernel, Kernel)
        self.calls = self.drive.kernel.calls
        for task in self.drive.tasks():
            life.nursery.start_soon(task)

    def _ground(self, life: Life) -> Ground:
        return Ground(
            offload=life.offload,
            now_ns=self.now_ns,
            random_bytes=self._random_bytes,
            jitter=self._jitter.random,
            today=lambda: "2026-11-22",
        )

    def _options(self) -> Options:
        return Options(
            workspace=self.login.workspace,
            root=self.login.root,
            owner=OWNER,
            device=self.name,
            ahead_limit_bytes=0,
            guarded_share=0.0,
            asked=self._asked,
            files={},
            temporary=self.temporary,
        )

    def _asked(self, question: Question) -> None:
        raise AssertionError("a guard that is off asks nobody")

    async def die(self, *, power: bool, back_to: Image | None = None) -> None:
        """The process is killed, or the machine loses power; returns when nothing of it runs any more."""
        self.life.die()
        # What still runs on its way to the next checkpoint is told that nothing is accepted.
        self.local.journal._database.poison(OSError("the process is dead"))
        if back_to is not None:
            self.disk.go_back(back_to)
        elif power:
            self.disk.crash()
        else:
            self.disk.kill()
        with trio.CancelScope(shield=True):
            await self.life.ended()
        self._close()

    def _close(self) -> None:
        """Give back what the process of an ended life had open; it may be done twice."""
        with suppress(apsw.Error):
            self.local.close()

    @property
    def has_failed(self) -> bool:
        """Whether the disk has failed, or with it the process: nothing more is accepted, or synchronised."""
        databases = (self.local.journal._database, self.local.replica.database)
        return self.life.is_dead or any(database.poisoned is not None for database in databases)

    async def ended_by_disk(self, seconds: float) -> None:
        """Return when the process has ended because its disk failed, or after so long."""
        with trio.move_on_after(seconds):
            await self.life.ended()

    async def unmount(self) -> None:
        """End in order; a machine that is about to be killed may be, meanwhile.

        Raises:
            Poisoned: its disk has failed; it has ended all the same.
        """
        self.is_ending = True
        with trio.CancelScope(shield=True):
            try:
                await self.local.barrier()
            finally:
                self.life.die()
                await self.life.ended()
                self._close()

    async def pin(self, inode: InodeId) -> None:
        """What `drivefs pin` asks for, and for what is pinned `drivefs unpin`."""
        pinning = Pinning(self.local, self.drive.trees, self.drive.prefetcher)
        change = pinning.unpin if inode in self.local.pins.roots else pinning.pin
        await change({"inodes": [inode]}, _unheard)

    # -- the way to the server ---------------------------------------------------------------------------------------

    def tell_way(self) -> None:
        """Let `mood` and `cut` hold for what is sent from now on, and for what is on its way."""
        self._way.mood = self.mood
        self._way.can_send = self.cut not in ("both", "to server")
        self._way.can_receive = self.cut not in ("both", "to device")

    # -- what is to be asked of it -----------------------------------------------------------------------------------

    @property
    def is_online(self) -> bool:
        """Whether it can ask the server for what it lacks."""
        return self.drive.connection.reach.online

    @property
    def has_unsent(self) -> bool:
        """Whether anything is here that the server does not have, or has refused."""
        journal = self.local.journal
        has_changes = bool(journal.pending_count or journal.failed(1) or journal.rejected(1))
        drafts = (inode for inode in journal.drafts.draft_inodes() if not journal.ignored.has(inode))
        return has_changes or next(drafts, None) is not None

    @property
    def seq(self) -> int:
        cursor = self.local.replica.cursor(self.login.workspace)
        return -1 if cursor is None else cursor.seq

    def lost_and_found(self) -> list[Path]:
        """The files that recovery put aside."""
        return sorted(path for path in (self.disk.root / "state" / "lost+found").rglob("*") if path.is_file())

    def check(self) -> list[Finding]:
        """What the local check finds once the process has ended."""
        return check(self.disk.root / "state", self.disk.root / "cache")
