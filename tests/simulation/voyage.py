"""One run of a simulation: some devices and their server, what happens to them, and the peace in which all rests.

Owns the order of a run. While it lasts, programs work and faults come as the profile says; then all faults end, what
was down is started, and within a bound of virtual time nothing may be left to do. That bound is a phase of its own,
since among faults a livelock looks like bad luck.
"""

import functools
import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from tests.simulation import scheduler
from tests.simulation.device import Device
from tests.simulation.disk import SimDisk
from tests.simulation.fates import Fates
from tests.simulation.interception import hasty_collector, small_sizes, watching
from tests.simulation.kept_here import TEMPORARY, unruled
from tests.simulation.network import QUIET, Server
from tests.simulation.oracle import Oracle, Violated
from tests.simulation.profiles import Profile, drawn
from tests.simulation.programs import Program
from tests.simulation.scheduler import Trace
from tests.simulation.server import NAMES, USERS, ServerProcess, account
from tests.simulation.server_faults import Faults
from tests.simulation.streams import Streams
from tests.simulation.turns import Turn, shown
from tests.support import statements

REST_LOOK_SECONDS = 0.5
MEMORY = Path("/dev/shm")


@dataclass
class Outcome:
    """What became of a run; `failure` is empty if all was right."""

    seed: int
    trace: int = 0
    steps: int = 0
    commits: int = 0
    let_go: int = 0
    """Revisions."""
    deleted: int = 0
    """Blocks."""
    virtual_seconds: float = 0.0
    rest_seconds: float = 0.0
    failure: str = ""
    log: list[str] = field(default_factory=list)


class Voyage:
    """One run under one seed."""

    def __init__(self, seed: int, profile: Profile, trace: Trace) -> None:
        self._streams = Streams(seed)
        self._profile = drawn(profile, self._streams.of("profile"))
        self._trace = trace
        self.outcome = Outcome(seed)
        self._account = account(self._profile.users)
        self._oracle = Oracle(self._account)
        self._address = Server()

    def _say(self, what: str) -> None:
        self._trace.note(what)
        self.outcome.log.append(what)

    def _note(self, *what: object) -> None:
        self._say(" ".join([f"{trio.current_time():.3f}", *map(str, what)]))

    async def run(self, place: Path) -> None:
        """Sail; raises what was wrong."""
        names = NAMES[: self._profile.clients]
        disks = {name: SimDisk(place / name, self._streams.of(name, "disk")) for name in ("server", *names)}
        profile = self._profile
        with (
            watching(*disks.values()),
            small_sizes(),
            hasty_collector(profile.forgets_seconds),
            self._oracle.hearing(),
        ):
            faults = Faults(profile.database_faults, profile.store_faults, self._streams.of("server", "faults"))
            self._address.may_fail = faults.are_possible
            self._server = ServerProcess(
                self._account.data, disks["server"], self._address, streams=self._streams, faults=faults
            )
            self._server.dressed = self._oracle.dress
            self._server.tidies_seconds = profile.tidies_seconds
            self._server.forgets_seconds = profile.forgets_seconds
            self._server.pass_seconds = profile.pass_seconds
            logins = self._account.logins
            self._devices = [
                Device(logins[name], disks[name], self._address, streams=self._streams, note=self._note)
                for name in names
            ]
            for device in self._devices:
                device.cache_bytes = profile.cache_bytes
                device.temporary = TEMPORARY if profile.has_rules else ()
            async with trio.open_nursery() as nursery:
                await self._sail(nursery)
                nursery.cancel_scope.cancel()

    async def _sail(self, nursery: trio.Nursery) -> None:
        await self._server.start(nursery)
        programs = [
            Program(device, self._oracle.ledger, self._streams.of(device.name, "programs"), self._say)
            for device in self._devices
        ]
        for device, program in zip(self._devices, programs, strict=True):
            program.has_rules = self._profile.has_rules
            program.has_sizes = self._profile.has_sizes
            program.has_asides = self._profile.has_asides
            program.has_tools = self._profile.has_tools
            program.shares_often = self._profile.shares_seconds > 0
            await device.mount(nursery)
        try:
            if self._profile.turns:
                await self._take_turns(programs, nursery)
            else:
                async with trio.open_nursery() as working:
                    await self._all_work(working, programs, nursery)
                    working.cancel_scope.cancel()
            self.outcome.virtual_seconds = trio.current_time()
            await self._rest(programs, nursery)
            await self._oracle.look_at_rest(self._server, self._devices)
            for device in self._devices:
                await device.unmount()
                self._check(device)
            self.outcome.commits = self._oracle.sequence.seq
            self.outcome.let_go, self.outcome.deleted = self._server.let_go_count, self._server.deleted_count
        finally:
            for device in self._devices:
                device.life.die()
            self._server.ground.database.close()

    async def _take_turns(self, programs: list[Program], nursery: trio.Nursery) -> None:
        """One device works at a time, among faults; then all come to rest, and show what it was shown."""
        for number in range(self._profile.turns):
            device, program = list(zip(self._devices, programs, strict=True))[number % len(programs)]
            self._note("it is the turn of", device.name)
            program.has_more = True
            turn = Turn(device)
            async with trio.open_nursery() as working:
                fates = Fates(self._profile, self._streams, self._oracle, self._note)
                fates.start(working, nursery, self._server)
                for each, its in zip(self._devices, programs, strict=True):
                    fates.start_device(working, each, its)
                working.start_soon(self._look)
                await self._work(device, program, turn)
                working.cancel_scope.cancel()
            await self._rest(programs, nursery)
            for each in self._devices:
                if changed := turn.differs(await shown(each)):
                    raise Violated(
                        f"I12: at rest, {each.name} shows it otherwise than {device.name} made it: {changed}"
                    )

    async def _all_work(self, working: trio.Nursery, programs: list[Program], nursery: trio.Nursery) -> None:
        """Programs work, and faults come meanwhile; returns when the work is done."""
        fates = Fates(self._profile, self._streams, self._oracle, self._note)
        fates.start(working, nursery, self._server)
        for device, program in zip(self._devices, programs, strict=True):
            fates.start_device(working, device, program)
        working.start_soon(self._look)
        async with trio.open_nursery() as users:
            for device, program in zip(self._devices, programs, strict=True):
                users.start_soon(self._work, device, program)

    async def _work(self, device: Device, program: Program, turn: Turn | None = None) -> None:
        chance = self._streams.of(device.name, "pauses")
        for _ in range(self._profile.operations):
            # Programs do much at once, and then nothing for a while.
            is_busy = chance.random() < self._profile.business
            await trio.sleep(chance.random() * 0.02 if is_busy else chance.expovariate(1 / self._profile.pause_seconds))
            if device.is_mounted and turn is None:
                await program.step()
            elif device.is_mounted:
                await self._step_of(turn, device, program)
        self._note(device.name, "has done its work")

    async def _step_of(self, turn: Turn, device: Device, program: Program) -> None:
        """One step of a device that is alone at work, between two looks at what it shows."""
        if changed := await program.look(turn):
            raise Violated(f"I12: nobody but {device.name} did anything, and it shows another drive: {changed}")
        turn.forget()
        if await program.step():
            await program.look(turn)

    async def _look(self) -> None:
        """Look at all that has to hold at any time."""
        while True:
            await trio.sleep(self._profile.look_seconds)
            await self._oracle.look(self._server, self._devices)

    async def _rest(self, programs: list[Program], nursery: trio.Nursery) -> None:
        """All faults end: everything comes to rest in time."""
        self._note("peace")
        began = trio.current_time()
        self._server.faults.end()
        if not self._server.is_up:
            await self._server.start(nursery)
        for user in USERS[: self._profile.users] if self._profile.quotas_seconds else ():
            await self._server.limit(user)
        for device, program in zip(self._devices, programs, strict=True):
            device.mood, device.cut = QUIET, ""
            device.disk.room_bytes, device.disk.failing_syncs = None, 0
            if device.is_mounted and not device.has_failed:
                device.tell_way()
                program.close_all()
        while not await self._is_at_rest():
            for device, program in zip(self._devices, programs, strict=True):
                if not device.is_mounted or device.has_failed:
                    self._note(device.name, "is mounted again")
                    await device.die(power=False)
                    await device.mount(nursery)
                    program.begin()
            if trio.current_time() - began > self._profile.rest_seconds:
                raise Violated(f"I10: {self._unrest()}")
            await trio.sleep(REST_LOOK_SECONDS)
        self.outcome.rest_seconds = trio.current_time() - began

    async def _is_at_rest(self) -> bool:
        if self._address.failures:
            raise Violated(f"the server answered 500: {self._address.failures}")
        await self._server.ground.database.read(self._oracle.catch_up)
        orders = self._oracle.orders
        if any(not device.is_mounted or device.has_failed for device in self._devices):
            return False
        if any(orders.lags(home) for home in orders.homes):
            return False
        heads = [orders.heads[device.login.workspace] for device in self._devices]
        if not all(
            d.is_online and d.seq == head and not d.has_unsent and not d.local.journal.acknowledged()
            for d, head in zip(self._devices, heads, strict=True)
        ):
            return False  # what was acknowledged hides what came after it until it is let go of
        if not all(self._oracle.fits(device) for device in self._devices):
            return False
        return not (
            self._profile.has_rules and any([await unruled(d, orders.last(d.login.workspace)) for d in self._devices])
        )

    def _unrest(self) -> str:
        return "; ".join(
            f"{device.name} is {'' if device.is_mounted else 'not '}mounted"
            f" at {device.seq} of {self._oracle.orders.heads[device.login.workspace]},"
            f" has {device.local.journal.pending_count} changes: {device.local.journal.unsettled(5)},"
            f" refused {device.local.journal.failed(5)}, and drafts"
            f" {list(device.local.journal.drafts.draft_inodes())[:5]}"
            for device in self._devices
        )

    @staticmethod
    def _check(device: Device) -> None:
        found = device.check()
        if found:
            raise Violated(f"the check of {device.name}'s state found {found}")


@functools.cache
def prepare() -> None:
    """What all runs of a process need, made once."""
    for users in (1, 2):
        account(users)
    # What is there before the first run stays: looking through it after each one took longer than small runs.
    gc.freeze()


def sail(seed: int, profile: Profile, note: Callable[[str], None] | None = None) -> Outcome:
    """Make one run; what was wrong is in the outcome."""
    prepare()
    place = TemporaryDirectory(prefix="drivefs-simulation-", dir=MEMORY if MEMORY.is_dir() else None)
    with place as directory, statements.shared():

        async def main(trace: Trace) -> Outcome:
            voyage = Voyage(seed, profile, trace)
            try:
                await voyage.run(Path(directory))
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                voyage.outcome.failure = said(error)
            voyage.outcome.trace, voyage.outcome.steps = trace.value, trace.steps
            return voyage.outcome

        return scheduler.run(seed, main)


def said(error: BaseException) -> str:
    """The first error of those in a group, with where it was raised."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f" ({place.tb_frame.f_code.co_filename.rsplit('/', 2)[-1]}:{place.tb_lineno})" if place else ""
    return f"{type(error).__name__}: {error}{where}"
