"""What befalls devices and the server while programs work, as the profile says.

Owns when a fault comes, how long it lasts, and how it ends; what it is, is the node's own. Each kind of fault has a
task and a stream of its own. What is down is started again after a while, at the latest when there is peace.
"""

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import trio
from sqlalchemy.exc import OperationalError

from cache.errors import Poisoned
from drivefs.control.errors import Refused
from tests.simulation.device import Device
from tests.simulation.lives import Dead
from tests.simulation.looking_back import LookingBack
from tests.simulation.network import QUIET
from tests.simulation.oracle import Oracle
from tests.simulation.profiles import Profile, drawn_mood
from tests.simulation.programs import Program
from tests.simulation.server import USERS, ServerProcess
from tests.simulation.sharers import Sharer
from tests.simulation.streams import Streams
from tests.simulation.turns import REFUSALS

FLAP_SECONDS = 2.0
QUOTAS = (1, 500, 2_000, 80_000, None)
FILE_LIMITS = (250, 10_000, None, None, None)
"""Bytes; None: as much as ever."""
Fault = Callable[[random.Random], Awaitable[None]]


class Fates:
    """All that goes wrong in a run."""

    def __init__(self, profile: Profile, streams: Streams, oracle: Oracle, note: Callable[..., None]) -> None:
        self._profile = profile
        self._streams = streams
        self._oracle = oracle
        self._note = note

    def start(self, working: trio.Nursery, processes: trio.Nursery, server: ServerProcess) -> None:
        """Let faults befall the server for as long as `working` is open; processes are started in the other nursery."""
        self._processes = processes
        profile = self._profile
        faults: list[tuple[float, object, Fault]] = [
            (profile.server_kills_seconds, False, partial(self._crash_server, server, False)),
            (profile.server_power_seconds, True, partial(self._crash_server, server, True)),
            (profile.restores_seconds, "restore", partial(self._put_back, server)),
            (profile.quotas_seconds, "quota", partial(self._limit, server)),
        ]
        for seconds, name, fault in faults:
            if seconds:
                working.start_soon(self._befall, seconds, self._streams.of("server", "fate", name), fault)

    def start_device(self, working: trio.Nursery, device: Device, program: Program) -> None:
        """Let faults befall a device for as long as `working` is open."""
        profile = self._profile
        faults: list[tuple[float, str, Fault]] = [
            (profile.moods_seconds, "mood", partial(self._change_mood, device)),
            (profile.cuts_seconds, "cut", partial(self._cut, device)),
            (profile.kills_seconds, "kill", partial(self._crash, device, program, False)),
            (profile.power_seconds, "power", partial(self._crash, device, program, True)),
            (profile.unmounts_seconds, "unmount", partial(self._unmount, device, program)),
            (profile.disk_faults_seconds, "disk", partial(self._spoil, device, program)),
            (profile.rollbacks_seconds, "rollback", partial(self._go_back, device, program)),
            (profile.pins_seconds, "pin", partial(self._pin, device)),
            (profile.backs_seconds, "back", self._looking_back(device)),
            (profile.shares_seconds, "share", Sharer(device, self._note).act),
        ]
        for seconds, name, fault in faults:
            if seconds:
                working.start_soon(self._befall, seconds, self._streams.of(device.name, "fate", name), fault)
        if profile.flaps_seconds:
            working.start_soon(self._flap, device, profile.flaps_seconds, self._streams.of(device.name, "fate", "flap"))

    async def _befall(self, seconds: float, chance: random.Random, fault: Fault) -> None:
        while True:
            await trio.sleep(chance.expovariate(1 / seconds))
            await fault(chance)

    # -- the network -------------------------------------------------------------------------------------------------

    async def _change_mood(self, device: Device, chance: random.Random) -> None:
        device.mood = drawn_mood(chance)
        self._note(device.name, device.mood)
        device.tell_way()
        await trio.sleep(chance.expovariate(1 / 4.0))
        device.mood = QUIET
        device.tell_way()

    async def _cut(self, device: Device, chance: random.Random) -> None:
        kind = chance.choice(["both", "both", "to server", "to device", "flapping"])
        seconds = chance.expovariate(1 / chance.choice([3.0, 10.0, 60.0]))
        self._note(device.name, "is cut off", kind, f"for {seconds:.1f}")
        until = trio.current_time() + seconds
        while trio.current_time() < until:
            device.cut = "both" if kind == "flapping" else kind
            device.tell_way()
            await trio.sleep(min(FLAP_SECONDS, seconds) if kind == "flapping" else seconds)
            device.cut = ""
            device.tell_way()
            if kind == "flapping":
                await trio.sleep(FLAP_SECONDS)

    async def _flap(self, device: Device, seconds: float, chance: random.Random) -> None:
        while True:
            for device.cut in ("", "both"):
                if device.is_mounted:
                    device.tell_way()
                await trio.sleep(chance.expovariate(1 / seconds))

    # -- what people want to have here -------------------------------------------------------------------------------

    async def _pin(self, device: Device, chance: random.Random) -> None:
        """Somebody pins a file or a directory, or one of those that are pinned no longer."""
        if not device.is_mounted or device.has_failed:
            return
        pinned = sorted(device.local.pins.roots)
        with suppress(*REFUSALS, Refused, Dead):
            if pinned and chance.random() < 0.3:
                inode = chance.choice(pinned)
            else:
                tree = await device.calls.tree()
                inode = tree[chance.choice(sorted(tree))].inode
            await device.pin(inode)
            self._note(device.name, "pins", inode)

    def _looking_back(self, device: Device) -> Fault:
        """Somebody does something with the past."""
        return LookingBack(device, self._oracle.ledger, self._oracle.promises, self._note).act

    # -- processes ---------------------------------------------------------------------------------------------------

    async def _crash(self, device: Device, program: Program, power: bool, chance: random.Random) -> None:
        if device.is_mounted:
            await self._restart(device, program, power=power, after_seconds=chance.expovariate(1 / 2.0))

    async def _restart(
        self,
        device: Device,
        program: Program,
        *,
        power: bool,
        after_seconds: float = 0.0,
        rot: str = "",
    ) -> None:
        if device.is_ending:
            # Another fate has ended it, and brings it back.
            return
        self._note(device.name, "loses power" if power else "is killed")
        device.is_ending = True
        program.end()
        await device.die(power=power)
        if power:
            self._oracle.lost_power(device)
        if rot:
            device.disk.rot(rot, 2)
        await trio.sleep(after_seconds)
        await self._mount(device, program)

    async def _spoil(self, device: Device, program: Program, chance: random.Random) -> None:
        """The disk of a device is full for a while, or fails to sync once, or what is cached on it rots."""
        kind = chance.choice(["full", "full", "sync", "rot"])
        self._note(device.name, "has a disk with", kind)
        if kind == "full":
            device.disk.room_bytes = chance.choice([0, 5_000, 200_000])
            await trio.sleep(chance.expovariate(1 / 5.0))
            device.disk.room_bytes = None
        elif kind == "sync" and device.is_mounted:
            device.disk.failing_syncs = 1
            await device.ended_by_disk(5.0)
            device.disk.failing_syncs = 0
            await self._restart(device, program, power=chance.random() < 0.5)
        elif kind == "rot" and device.is_mounted:
            # What was verified once in the life of a process is believed from then on.
            await self._restart(device, program, power=False, rot="cache/blocks/*/*")

    async def _go_back(self, device: Device, program: Program, chance: random.Random) -> None:
        """A device is put back to an older state of its disk, as from a backup or a snapshot of its machine."""
        if not device.is_mounted:
            return
        snapshot, kept = device.disk.snapshot(), self._oracle.ledger.written_by(device.name)
        self._note(device.name, "is copied")
        await trio.sleep(chance.expovariate(1 / 6.0))
        if not device.is_mounted:
            return
        self._note(device.name, "goes back")
        program.end()
        await device.die(power=False, back_to=snapshot)
        self._oracle.went_back(device, kept)
        await trio.sleep(chance.random())
        await self._mount(device, program)

    async def _mount(self, device: Device, program: Program) -> None:
        self._note(device.name, "is mounted")
        await device.mount(self._processes)
        program.begin()

    async def _unmount(self, device: Device, program: Program, chance: random.Random) -> None:
        if not device.is_mounted:
            return
        self._note(device.name, "is unmounted")
        # A sync that is to fail may be one of the end.
        with suppress(Poisoned):
            program.close_all()
        program.end()
        with suppress(Poisoned):
            await device.unmount()
        await trio.sleep(chance.expovariate(1 / 10.0))
        await self._mount(device, program)

    async def _crash_server(self, server: ServerProcess, power: bool, chance: random.Random) -> None:
        if not server.is_up:
            return
        self._note("the server", "loses power" if power else "is killed")
        await server.die(power=power)
        await trio.sleep(chance.expovariate(1 / 3.0))
        self._note("the server is started")
        await server.start(self._processes)

    async def _put_back(self, server: ServerProcess, chance: random.Random) -> None:
        """The server's data is copied, and some time later it has that again, as from a backup."""
        if not server.is_up:
            return
        copied = server.disk.snapshot()
        self._note("the server is copied")
        await trio.sleep(chance.expovariate(1 / 5.0))
        if not server.is_up:
            return
        self._note("the server is put back")
        with trio.CancelScope(shield=True):
            await server.die(power=False, back_to=copied)
        self._oracle.server_went_back()
        await trio.sleep(chance.expovariate(1 / 3.0))
        self._note("the server is started")
        await server.start(self._processes)

    async def _limit(self, server: ServerProcess, chance: random.Random) -> None:
        """A user may have less than there is, or as much as ever again."""
        user = chance.choice(USERS[: self._profile.users])
        quota_bytes, file_bytes = chance.choice(QUOTAS), chance.choice(FILE_LIMITS)
        if server.is_up:
            with suppress(OperationalError, Dead):
                await server.limit(user, quota_bytes, file_bytes)
                self._note(user, "may have", quota_bytes, "bytes, and files of", file_bytes)
