"""Replays for inotify what other devices did: programs that watch the mount notice it as if it had been done here.

The kernel tells a change to watchers when a program makes it through the mount, and tells them nothing when a file
system says that something has changed. So a process of our own, the player, makes the change once more through the
mount and is answered from a stage (`replay_stage`), after the kernel has been told to forget what is no longer true.

Owns the queue of what is to be replayed, which of it anybody watches, and how fast. Invariants: nothing waits for a
replay; the kernel has been told of a change before its events come; what concerns one directory comes in order; what
nobody watches is not replayed; whatever fails costs events, and never what the mount shows.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

import trio

from drivefs.fuse.replay_process import Lost, PlayerProcess
from drivefs.fuse.replay_scenes import Order, Present, Told, Waiting, Way, concerns, orders
from drivefs.fuse.replay_stage import Name, Scene, Stage
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind, InodeState

log = logging.getLogger(__name__)

CAPACITY = 4096
CHUNK = 64
TRIES = 3
"""How often a name is replayed when somebody looks it up in the moment between being forgotten and being made."""
LEAST_SCAN_SECONDS = 0.25
SCAN_SHARE = 20.0
"""Looking who watches takes at most one part in so many of the time, of another process."""
IDLE_SHARE = 2.0
"""How many times as long as a replay took nothing is replayed, while more waits: it takes turns with system calls."""
FORGET_SECONDS = 10.0
LOST_SECONDS = 2.0
IDLE_SECONDS = 60.0
"""When nothing has come from elsewhere for so long the player ends, and what it takes is free: 12 MiB."""
END_SECONDS = 1.0
PROBE = InodeId(2**63 + 2**32)


@dataclass(frozen=True, slots=True)
class Mounted:
    """What a replay needs of the mount: how to start a player, the tree as it is, and the kernel's forgetting."""

    root: InodeId
    start: Callable[[], Awaitable[PlayerProcess]]
    present: Present
    way_to: Callable[[InodeId], Way | None]
    forget: Callable[[InodeId, bytes], None]
    forgotten: Callable[[], Awaitable[None]]


class Replay:
    """Satisfies `drivefs.sync.announcer.Replayer`."""

    def __init__(self, mounted: Mounted, stage: Stage, probe: bytes) -> None:
        """`probe` is a name that nobody else can know: whoever sees it in the root is answered from the stage."""
        self._mounted = mounted
        self._stage = stage
        self._probe = probe
        self._player: PlayerProcess | None = None
        self._waiting = Waiting(CAPACITY)
        self._undecided: list[Told] = []
        self._filled = trio.Event()
        self._watched: frozenset[InodeId] = frozenset()
        self._next_scan = 0.0
        self._lost_by = ""
        self.wants = True
        """False once it is known that it does not work here."""

    def replay(self, told: Sequence[Told]) -> None:
        """Queue what happened elsewhere; what does not fit is told as one change of its directory."""
        if told:
            self._waiting.add(told)
            self._filled.set()

    async def run(self) -> None:
        """Replay until cancelled, or until it is known that it does not work here."""
        try:
            while self.wants:
                with trio.move_on_after(IDLE_SECONDS):
                    await self._filled.wait()
                if not self._filled.is_set():
                    await self._end()
                    await self._filled.wait()
                self._filled = trio.Event()
                try:
                    await self._replay_all()
                except Lost as error:
                    # Where it cannot even be started it will not be a moment later: that is said once.
                    say = log.debug if str(error) == self._lost_by else log.warning
                    say("programs that watch the drive miss events: the process that replays them: %s", error)
                    self._lost_by = str(error)
                    await self._end()
                    await trio.sleep(LOST_SECONDS)
                    self._filled.set()
        finally:
            with trio.move_on_after(END_SECONDS, shield=True):
                await self._end()

    async def _end(self) -> None:
        if self._player is not None:
            await self._player.end()
            self._player = None

    async def _replay_all(self) -> None:
        """Replay what waits and whatever comes meanwhile, as far as it is watched.

        What nobody is known to watch waits for a look that begins after it happened: whoever watched then is found.
        Until then all that happened in its directory waits with it, so the order stays.
        """
        player = await self._started()
        while player is not None and (self._waiting or self._undecided or self._waiting.dropped):
            with trio.move_on_after(FORGET_SECONDS):
                await self._mounted.forgotten()
            self._undecided += await self._replay_watched(player, self._waiting.take(CHUNK))
            if len(self._undecided) > CAPACITY or trio.current_time() >= self._next_scan:
                await trio.sleep_until(self._next_scan)
                await self._scan(player)
                undecided, self._undecided = self._undecided, []
                await self._replay_watched(player, undecided)
                await self._replay_dropped(player)
            elif not self._waiting:
                self._filled = trio.Event()
                with trio.move_on_at(self._next_scan):
                    await self._filled.wait()

    async def _replay_watched(self, player: PlayerProcess, told: Sequence[Told]) -> list[Told]:
        """Replay what is known to be watched; gives the rest. If the player is lost, its directories have changed."""
        rest = []
        for number, each in enumerate(told):
            if not self._is_watched(concerns(each)):
                rest.append(each)
                continue
            try:
                await self._paced(player, orders(each, self._mounted.present))
            except Lost:
                self._waiting.drop(told[number:])
                self._undecided += rest
                raise
        return rest

    async def _replay_dropped(self, player: PlayerProcess) -> None:
        """Tell of each directory in which more happened than there was room for that it has changed."""
        dropped, self._waiting.dropped = self._waiting.dropped, set()
        for directory in dropped & self._watched:
            await self._paced(player, self._of_dropped(directory))

    def _is_watched(self, inodes: Iterable[InodeId]) -> bool:
        return not self._watched.isdisjoint(inodes)

    async def _started(self) -> PlayerProcess | None:
        if self._player is None:
            self._player = await self._mounted.start()
            state = InodeState(inode=PROBE, kind=InodeKind.FILE, mode=0)
            self._stage.scene = Scene({(self._mounted.root, self._probe): state}, "")
            try:
                found = await self._player.ask("find", self._probe)
            except OSError:
                found = 0
            self._stage.scene = None
            if found != PROBE:
                log.warning("programs that watch the drive do not notice changes from elsewhere: replaying fails here")
                await self._end()
                self.wants = False
        return self._player

    async def _scan(self, player: PlayerProcess) -> None:
        began = trio.current_time()
        # The root has a number of its own in the kernel until somebody has asked for its attributes.
        found = {self._mounted.root if inode == 1 else InodeId(inode) for inode in await player.ask("watched")}
        self._watched = frozenset(found)
        ended = trio.current_time()
        self._next_scan = ended + max(LEAST_SCAN_SECONDS, (ended - began) * SCAN_SHARE)

    def _of_dropped(self, directory: InodeId) -> list[Order]:
        """More happened in a directory than could be told."""
        way, state = self._mounted.way_to(directory), self._mounted.present(directory)
        if way is None or state is None:
            return []
        place = ([step.name for step in way], directory)
        times = (state.atime_ns, state.mtime_ns)
        return [Order("touch", (place, b".", directory, times, False), Scene({}, "", touches=directory))]

    async def _paced(self, player: PlayerProcess, wanted: Sequence[Order]) -> None:
        began = trio.current_time()
        for order in wanted:
            await self._play(player, order)
        if self._waiting:
            await trio.sleep((trio.current_time() - began) * IDLE_SHARE)

    async def _play(self, player: PlayerProcess, order: Order) -> None:
        for _ in range(TRIES):
            self._stage.scene = order.scene
            try:
                await player.ask(order.call, *order.arguments)
            except OSError as error:
                log.debug("%s is not replayed: %s", order.call, error)
            finally:
                self._stage.scene = None
            if order.scene.is_done or not order.scene.about:
                return
            # The kernel answered for a name itself: somebody has looked it up since it was told to forget it.
            await self._forget(order.scene.about)

    async def _forget(self, names: Iterable[Name]) -> None:
        for parent, name in names:
            self._mounted.forget(parent, name)
        with trio.move_on_after(FORGET_SECONDS):
            await self._mounted.forgotten()
