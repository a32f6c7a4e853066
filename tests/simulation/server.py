"""The server of a simulation: the real application on a disk that crashes, in a process that can die.

Owns the process and the data below its disk's root. A first data directory, with a user and his devices logged in, is
made once in each process and copied, since hashing a password and making tables take longer than a whole run.
"""

import functools
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import trio
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from backend import app
from backend.api.services import Services
from backend.blockstore import sealed
from backend.blockstore.local import LocalStore
from backend.metadata.sqlite import Database
from backend.notify.hub import InProcessHub
from backend.service import block_rows, garbage, ids, passwords
from backend.service.caller import Caller
from backend.service.devices import FLUSH_SECONDS
from backend.service.ground import Ground, Limits
from backend.service.keys import AccountKeys, MasterKey
from backend.service.retention import Rules
from drivefs.protocol import messages
from drivefs.protocol.ids import InodeId, WorkspaceId
from tests.simulation.disk import Image, SimDisk
from tests.simulation.lives import Life
from tests.simulation.network import Server as Address
from tests.simulation.server_faults import Faults, FaultyStore, fail_transactions
from tests.simulation.streams import RandomBytes, Streams

USERS, PASSWORD = ("ann", "ben"), "correct horse"
MASTER = MasterKey(bytes(range(32)))
LIMITS = Limits(quota_bytes=2**30, file_bytes=2**30)
HASTY = replace(
    LIMITS,
    retention=Rules(
        burst_seconds=1, all_seconds=10, hourly_seconds=10, daily_seconds=10, weekly_seconds=10, lag_seconds=20
    ),
)
"""Little is kept but what files have now; a power cut may take a device back by seconds from where it was heard of."""
NAMES = ("anna", "bert", "carl", "dora")
FIRST_NS = 1_700_000_000 * 10**9


@dataclass(frozen=True)
class Login:
    """What a device knows of itself: its token, and the drive of its user."""

    name: str
    user: str
    token: str
    caller: Caller
    workspace: WorkspaceId
    root: InodeId


@dataclass(frozen=True)
class Account:
    """What a first data directory has: the devices that are logged in, by name."""

    data: Image
    logins: dict[str, Login]

    @property
    def roots(self) -> dict[WorkspaceId, InodeId]:
        """Those of the drives of all users."""
        return {login.workspace: login.root for login in self.logins.values()}


async def _at_once(work: Callable[..., Any], /, *args: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return work(*args)


def _ground(data: Path, offload: Any, now_ns: Callable[[], int], random_bytes: Any, limits: Limits = LIMITS) -> Ground:
    database = Database(data / "metadata.db", offload)
    return Ground(database, LocalStore(data / "blocks"), InProcessHub(), offload, now_ns, random_bytes, limits)


async def _make_account(disk: SimDisk, users: int) -> Account:
    data = disk.root
    ticks = iter(range(FIRST_NS, FIRST_NS + 10**9))
    random_bytes = RandomBytes(random.Random(0))
    database = await Database.open(data / "metadata.db", _at_once)
    database.close()
    ground = _ground(data, _at_once, ticks.__next__, random_bytes)
    ground.store.prepare()  # type: ignore[attr-defined]
    await ground.database.write(block_rows.establish_store, "local")
    keys = AccountKeys(ground.database, MASTER, ticks.__next__, random_bytes)
    await keys.verify_master()
    services = app.make_services(ground, keys, sealed.Algorithm.AEGIS_256X4)
    logins = {}
    for number, user in enumerate(USERS[:users]):
        logins.update(await _log_in(services, user, NAMES[number::users]))
    ground.database.close()
    return Account(disk.snapshot(), logins)


async def _log_in(services: Services, user: str, names: Sequence[str]) -> dict[str, Login]:
    """Make a user with these devices."""
    await services.accounts.add_user(user, PASSWORD)
    replies = {}
    for name in names:
        request = messages.LoginRequest(user=user, password=PASSWORD, device=name)
        replies[name] = await services.accounts.login(request, "192.0.2.7")
    callers = {name: await services.accounts.authenticate(reply.token) for name, reply in replies.items()}
    session = await services.sessions.begin(callers[names[-1]], messages.SessionRequest(next_nonce=bytes(16)))
    drive = session.workspaces[0]
    return {name: Login(name, user, replies[name].token, callers[name], drive.workspace, drive.root) for name in names}


@functools.cache
def account(users: int = 1) -> Account:
    """A first data directory for so many users, who have a device in turn; made when first asked for, not in a run."""
    # A hash that is slow to make protects passwords, and here there is nothing to protect.
    quick = mock.patch.multiple(passwords, TIME_COST=1, MEMORY_KIB=64)
    with quick, TemporaryDirectory(prefix="drivefs-simulation-") as place:
        return trio.run(_make_account, SimDisk(Path(place) / "disk", random.Random(0)), users)


class ServerProcess:
    """The server's machine: `start` and `kill` are its process's."""

    def __init__(self, data: Image, disk: SimDisk, address: Address, *, streams: Streams, faults: Faults) -> None:
        self.disk = disk
        self.faults = faults
        self.life: Life
        self.services: Services
        self.ground: Ground
        self._address = address
        self._streams = streams
        self._random_bytes = RandomBytes(streams.of("server", "bytes"))
        self._ticks = 0
        self.tidies_seconds = 0.0
        """How often it lets go of what age lets go; 0: never."""
        self.forgets_seconds = 0
        """How soon blocks are condemned, and then deleted, that nothing needs; 0: after days."""
        self.let_go_count = 0
        self.deleted_count = 0
        self.pass_seconds = 0
        """For how long it takes the passes that it gave to devices; 0: it gives none."""
        self._is_put_back = False
        """Whether its data is older than what devices have heard of; its next process begins a new incarnation."""
        self.dressed: Callable[[ServerProcess], None] = lambda server: None
        """Told of each process before it serves: what wraps its parts."""
        disk.go_back(data)

    @property
    def is_up(self) -> bool:
        return self._address.life is not None

    def now_ns(self) -> int:
        self._ticks += 1
        return FIRST_NS + 10**12 + int(trio.current_time() * 10**9) + self._ticks * 1000

    def limits(self) -> Limits:
        """How long it keeps things, and takes passes."""
        limits = replace(HASTY if self.tidies_seconds else LIMITS, pass_seconds=self.pass_seconds)
        seconds = self.forgets_seconds
        return replace(limits, pin_seconds=2 * seconds, trash_seconds=4 * seconds) if seconds else limits

    async def start(self, nursery: trio.Nursery) -> None:
        """Start a process; returns when it serves, also if faults end meanwhile: half of one would look whole."""
        self.life = Life("server", self._streams.of("server", "threads"))
        with trio.CancelScope(shield=True):
            await nursery.start(self.life.run, self._serve)

    async def _serve(self, life: Life) -> None:
        data = self.disk.root
        ground = _ground(data, life.offload, self.now_ns, self._random_bytes, self.limits())
        self.ground = replace(ground, store=FaultyStore(ground.store, self.faults))
        self.ground.store.prepare()  # type: ignore[attr-defined]
        keys = AccountKeys(self.ground.database, MASTER, self.now_ns, self._random_bytes)
        await keys.verify_master()
        if self._is_put_back:
            await ground.database.write(self._begin_anew)
            self._is_put_back = False
        fail_transactions(self.ground.database, self.faults)
        self.services = app.make_services(self.ground, keys, sealed.Algorithm.AEGIS_256X4)
        self.dressed(self)
        life.nursery.start_soon(self._keep_presence, self.services)
        if self.tidies_seconds:
            life.nursery.start_soon(self._keep_tidy, self.services)
        self._address.begin(life, app.make_app(self.services))

    def _begin_anew(self, connection: Connection) -> None:
        """What a server does that finds its data put back (`marking`)."""
        ids.renew_incarnation(connection, random_bytes=self._random_bytes)
        garbage.begin_anew(connection, self.now_ns())

    async def _keep_presence(self, services: Services) -> None:
        while True:
            await trio.sleep(FLUSH_SECONDS)
            with suppress(OperationalError):
                await services.devices.flush()

    async def _keep_tidy(self, services: Services) -> None:
        chance = self._streams.of("server", "tidying")
        while True:
            await trio.sleep(chance.expovariate(1 / self.tidies_seconds))
            with suppress(OperationalError, OSError):
                done = await services.maintenance.run()
                self.let_go_count += done.thinned.freed.revision_count
                self.deleted_count += done.collected.deleted_count

    async def limit(self, user: str, quota_bytes: int | None = None, file_bytes: int | None = None) -> None:
        """Say how much a user may have; None: as much as ever."""
        await self.services.accounts.set_limits(user, {"quota_bytes": quota_bytes, "file_bytes": file_bytes})

    async def die(self, *, power: bool, back_to: Image | None = None) -> None:
        """The process ends, or its machine loses power or is put back; returns when nothing of it runs."""
        database = self.ground.database
        self.life.die()
        self._address.end()
        if back_to is not None:
            self.disk.go_back(back_to)
            self._is_put_back = True
        elif power:
            self.disk.crash()
        else:
            self.disk.kill()
        await self.life.ended()
        database.close()
