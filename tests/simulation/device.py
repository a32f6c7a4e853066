"""A device of a simulation: the parts of a real mount, but for the kernel, on a disk that crashes.

Owns its processes, one after the other; the way to the server; and the calls that programs make, by path. A call that
is under way when the process dies never returns.
"""

from collections.abc import Callable
from pathlib import Path

import httpx
import trio

from cache.check import check
from cache.findings import Finding
from cache.workspace import LocalState
from drivefs.assembly import Assembly, Ground, Options
from drivefs.fs.filesystem import FileSystem
from drivefs.fs.ownership import Owner
from drivefs.fuse.attributes import Translation
from drivefs.protocol.ids import InodeId
from drivefs.remote.client import Remote
from drivefs.sync.guard import Question
from tests.simulation.calls import Calls
from tests.simulation.disk import SimDisk
from tests.simulation.lives import Life
from tests.simulation.network import QUIET, Mood, Server, Way
from tests.simulation.server import FIRST_NS, account
from tests.simulation.streams import RandomBytes, Streams

URL = "http://127.0.0.1:1"
CACHE_BYTES = 2**28
OWNER = Owner(1000, 1000)


class Kernel:
    """Forgets nothing, since it keeps nothing; but it knows inodes by its own numbers, as the real one does."""

    def __init__(self, filesystem: FileSystem, owner: Owner) -> None:
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
            self.translation.take_over(inode, into)
        else:
            self.translation.merge(inode, into)


class Device:
    """See the module; `note` hears what belongs to the trace."""

    def __init__(
        self, name: str, disk: SimDisk, server: Server, *, streams: Streams, note: Callable[..., None]
    ) -> None:
        self.name = name
        self.disk = disk
        self.mood = QUIET
        self.is_cut = False
        self.skew_ns = streams.of(name, "clock").choice([0, 0, 10**9, -(10**9), 86_400 * 10**9, -86_400 * 10**9])
        self.life: Life
        self.local: LocalState
        self.drive: Assembly
        self.calls: Calls
        self._way: Way
        self._server = server
        self._streams = streams
        self._note = note
        self._ticks = 0
        self._lives = 0
        self._random_bytes = RandomBytes(streams.of(name, "bytes"))
        self._jitter = streams.of(name, "jitter")

    def now_ns(self) -> int:
        self._ticks += 1
        return FIRST_NS + 10**12 + self.skew_ns + int(trio.current_time() * 10**9) + self._ticks * 1000

    @property
    def is_mounted(self) -> bool:
        return self._lives > 0 and not self.life.is_dead

    # -- processes ---------------------------------------------------------------------------------------------------

    async def mount(self, nursery: trio.Nursery) -> None:
        """Start a process; returns when its drive answers."""
        self._lives += 1
        self.life = Life(self.name, self._streams.of(self.name, "threads", self._lives))
        await nursery.start(self.life.run, self._run)

    async def _run(self, life: Life) -> None:
        self._way = Way(life, self._server, self._streams.of(self.name, "network", self._lives), self._note)
        self.set_network(self.mood, is_cut=self.is_cut)
        with self.disk.booted():
            root = self.disk.root
            self.local = LocalState(root / "state", root / "cache", offload=life.offload, cache_limit_bytes=CACHE_BYTES)
        client = httpx.AsyncClient(transport=self._way)
        remote = Remote(URL, account().tokens[self.name], client=client, jitter=self._jitter.random)
        self.drive = Assembly(
            self._ground(life),
            self._options(),
            local=self.local,
            remote=remote,
            make_kernel=lambda fs: Kernel(fs, OWNER),
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
            workspace=account().workspace,
            root=account().root,
            owner=OWNER,
            device=self.name,
            ahead_limit_bytes=0,
            guarded_share=0.0,
            asked=self._asked,
            files={},
        )

    def _asked(self, question: Question) -> None:
        raise AssertionError("a guard that is off asks nobody")

    async def die(self, *, power: bool) -> None:
        """The process is killed, or the machine loses power; returns when nothing of it runs any more."""
        self.life.die()
        if power:
            self.disk.crash()
        else:
            self.disk.kill()
        await self.life.ended()
        self.local.close()

    async def unmount(self) -> None:
        """End in order."""
        await self.local.barrier()
        self.life.die()
        await self.life.ended()
        self.local.close()

    # -- the way to the server ---------------------------------------------------------------------------------------

    def set_network(self, mood: Mood, *, is_cut: bool, one_way: str = "") -> None:
        """How messages fare from now on; `one_way` names the direction in which none arrives."""
        self.mood, self.is_cut = mood, is_cut
        self._way.mood = mood
        self._way.can_send = not is_cut and one_way != "to server"
        self._way.can_receive = not is_cut and one_way != "to device"

    # -- what is to be asked of it -----------------------------------------------------------------------------------

    @property
    def has_unsent(self) -> bool:
        """Whether anything is here that the server does not have."""
        journal = self.local.journal
        return bool(journal.pending_count) or next(journal.drafts.draft_inodes(), None) is not None

    @property
    def seq(self) -> int:
        cursor = self.local.replica.cursor(account().workspace)
        return -1 if cursor is None else cursor.seq

    def lost_and_found(self) -> list[Path]:
        """The files that recovery put aside."""
        return sorted(path for path in (self.disk.root / "state" / "lost+found").rglob("*") if path.is_file())

    def check(self) -> list[Finding]:
        """What the local check finds once the process has ended."""
        return check(self.disk.root / "state", self.disk.root / "cache")
