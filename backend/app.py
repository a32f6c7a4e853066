"""The composition root of the backend: opens what there is in a data directory and puts the application together.

Owns the data directory's lock, the master key's file, the threads, and the embedded HTTP server; knows no rule.
Invariants: one process at a time uses a data directory; a data directory that has been sealed is never used without its
master key, and never gets a new one. `make_app` itself runs on asyncio and trio alike.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import gc
import ipaddress
import logging
import os
import resource
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server
from sqlalchemy.exc import DatabaseError
from starlette.routing import Mount, Router
from starlette.types import ASGIApp

from backend.api import control, problems
from backend.api.downloads import Downloads
from backend.api.public import make_public_api
from backend.api.services import Lifecycle, Services
from backend.api.sync import SyncApi
from backend.blockstore import places, sealed
from backend.blockstore.errors import PlaceUnusable
from backend.blockstore.replicated import ReplicatedStore
from backend.blockstore.store import ObjectStore
from backend.config import Settings
from backend.durable import make_directory, sync_path
from backend.metadata.errors import MetadataError
from backend.metadata.sqlite import Database
from backend.notify.hub import InProcessHub
from backend.service import backups, block_rows, marking
from backend.service.accounting import Accounting
from backend.service.accounts import Accounts
from backend.service.activity import Activity
from backend.service.backups import DATABASE_NAME, Backups
from backend.service.blocks import Blocks
from backend.service.changes import Changes
from backend.service.checks import Checks, Progress, Report
from backend.service.commits import Commits
from backend.service.departures import Departures
from backend.service.devices import FLUSH_SECONDS, Devices
from backend.service.garbage import Garbage
from backend.service.ground import Ground, Limits
from backend.service.keys import AccountKeys, MasterKey, WrongMasterKey
from backend.service.links import Links
from backend.service.listing import Listing
from backend.service.maintenance import Maintenance
from backend.service.notifications import Notifications
from backend.service.pruning import Pruning
from backend.service.revisions import Revisions
from backend.service.sessions import Sessions
from backend.service.shares import Shares
from backend.service.snapshots import Snapshots
from backend.service.tiering import Tiering
from backend.service.trash import Trash
from backend.service.uploads import Uploads
from drivefs.protocol.ground import Offload

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_THREADS = 24
KEPT_DESCRIPTORS = 128
"""So many are kept back from connections, for the database, the blocks and the control socket."""
BACKLOG = 1024
"""Connections that the kernel holds until they are accepted."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Options of glibc's `mallopt`."""
LARGEST_KEPT_BYTES = 16 * 2**20
KEPT_BYTES = 128 * 2**20
HTTP_BUFFER_BYTES = 512 * 2**10
"""Read from a connection at once, at most. Uploads of 8 MiB each ran at 120 MB/s with 8 KiB and at 1,900 with this; an
idle poll takes 20 to 24 KiB of memory with either."""
YOUNG_OBJECTS = 10_000
"""So many objects are made between two looks of the garbage collector at what is new."""
COPIED = (
    "This data directory was moved, put back from a copy, or has lost what its log had, since it was used last: a new "
    "incarnation begins, so that no id is handed out twice. Devices that know more than this data send what they have."
)
LOST = (
    "The database {path} is missing or empty, though this data directory has been used. Nothing was changed. Put back "
    "a backup with drivefs-server restore (the blocks are kept), or a copy of the database that lies beside it. Only "
    "if nothing of the data is wanted any more, remove {mark}."
)
LOCK_NAME = "lock"
OWED_SECONDS = 30.0
WARMING_SECONDS = 10.0
FIRST_TIDYING_SECONDS, TIDYING_SECONDS = 60.0, 6 * 3600.0


class CannotServe(Exception):
    """The data directory or the address cannot be used; the text says why, and what to do."""


class InUse(CannotServe):
    """Another process has the data directory."""


@contextmanager
def locked(data: Path, *, create: bool) -> Iterator[None]:
    """Hold the data directory for this process alone.

    Raises:
        InUse: another process holds it.
        CannotServe: it is not there, or cannot be made or written.
    """
    try:
        if create:
            make_directory(data)
        elif not (data / DATABASE_NAME).exists():
            raise CannotServe(f"There is no drivefs data in {data}. Is it the right directory?")
        descriptor = os.open(data / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CannotServe(f"The data directory {data} cannot be used: {error.strerror}.") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse(f"Another drivefs-server uses {data}. Nothing was changed.") from None
        yield
    finally:
        os.close(descriptor)


def load_master_key(settings: Settings, *, is_new: bool) -> MasterKey:
    """Read the master key; made, with mode 0600, where there is none and nothing has been sealed yet.

    Raises:
        CannotServe: it is missing though data exists, or not a key.
    """
    path = settings.master_key_path
    try:
        if is_new and not path.exists():
            _write_master_key(path)
        secret = bytes.fromhex(path.read_text())
    except FileNotFoundError:
        raise CannotServe(
            f"The master key {path} is missing. Without it nothing in {settings.data} can be read. "
            "Nothing was changed. Bring it back from where you keep a copy, or name its place with --master-key."
        ) from None
    except (OSError, ValueError) as error:
        raise CannotServe(f"The master key {path} cannot be used: {error}. Nothing was changed.") from error
    if len(secret) != sealed.KEY_BYTES:
        raise CannotServe(
            f"The master key {path} has {len(secret)} bytes, not {sealed.KEY_BYTES}. Nothing was changed."
        )
    return MasterKey(secret)


def _write_master_key(path: Path) -> None:
    make_directory(path.parent)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, os.urandom(sealed.KEY_BYTES).hex().encode() + b"\n")
        os.fsync(descriptor)
        # Another server of this user may make one at the same time: the first one stays.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.close(descriptor)
        temporary.unlink()
    sync_path(path.parent)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Services]:
    """All services over the data directory, which the caller has locked.

    Raises:
        CannotServe, WrongMasterKey, MetadataError: it cannot be used; nothing in it was changed.
    """
    threads = anyio.CapacityLimiter(MAX_THREADS)

    async def offload(work: Callable[..., T], /, *args: Any) -> T:
        return await anyio.to_thread.run_sync(work, *args, limiter=threads)

    path = settings.data / DATABASE_NAME
    is_new = not path.exists() or not path.stat().st_size
    if is_new and (settings.data / marking.MARK_NAME).exists():
        raise CannotServe(LOST.format(path=path, mark=settings.data / marking.MARK_NAME))
    master = load_master_key(settings, is_new=not path.exists())
    database = await Database.open(path, offload, lambda: marking.spoil(settings.data))
    try:
        keys = AccountKeys(database, master, time.time_ns, os.urandom)
        await keys.verify_master()
        store = await _open_store(settings, offload)
        await database.write(block_rows.establish_store, "local")
        if await database.write(marking.renew_if_copied, settings.data, path, os.urandom, time.time_ns):
            log.warning("%s", COPIED)
        ground = Ground(
            database=database,
            store=store,
            hub=InProcessHub(),
            offload=offload,
            now_ns=time.time_ns,
            random_bytes=os.urandom,
            limits=Limits(
                settings.quota,
                settings.file_limit,
                pin_seconds=settings.pin_hours * 3600,
                pass_seconds=settings.pass_seconds,
                feed_seconds=settings.feed_days * 86400,
                trash_seconds=settings.trash_days * 86400,
                cold_days=settings.cold_days,
                retention=settings.retention(),
            ),
        )
        yield make_services(ground, keys, sealed.preferred_algorithm(_has_aes()))
        await database.write(marking.mark_at_the_end, settings.data, path, os.urandom)
    finally:
        database.close()


async def _open_store(settings: Settings, offload: Offload) -> ObjectStore:
    where = places.Places(settings.data, settings.cold, settings.mirror, settings.mirror_required)
    try:
        return await offload(places.open_places, where, os.urandom)
    except PlaceUnusable as error:
        raise CannotServe(str(error)) from error


async def restore(settings: Settings, source: Path, report: Progress, *, replaces: bool) -> tuple[Report, Path | None]:
    """Put the state of a backup into the data directory, which the caller has locked, and check all of it there.

    Gives what the check found, and where the database is that was there before.

    Raises:
        CannotServe, WrongMasterKey, MetadataError: the data directory is as it was.
    """
    if not (source / DATABASE_NAME).is_file():
        raise CannotServe(f"There is no backup in {source}. Nothing was changed.")
    if (settings.data / DATABASE_NAME).exists() and not replaces:
        raise CannotServe(
            f"{settings.data} has data already. Nothing was changed. With --replace the backup takes its place, "
            "and the database that is there now stays beside it under another name."
        )
    if (settings.data / DATABASE_NAME).exists():
        # It may be why there is a restore, whatever is wrong with it.
        with contextlib.suppress(CannotServe, MetadataError, WrongMasterKey, DatabaseError):
            async with opened(settings):
                pass  # so that all of the database is in its file
    master = load_master_key(settings, is_new=False)
    store = await _open_store(settings, anyio.to_thread.run_sync)
    try:
        into = backups.Target(settings.data, store)
        kept = await backups.put_back(source, into, master, anyio.to_thread.run_sync, report)
    except OSError as error:
        raise CannotServe(
            f"The backup could not be put into {settings.data}: {error.strerror or error}. What is there is as it was."
        ) from error
    async with opened(settings) as services:

        async def checked(done: int, total: int) -> None:
            await report(max(total, 1) + done, 2 * max(total, 1))

        found = await services.checks.check(checked)
        if await backups.take_instead(source, services.ground, found):
            found = await services.checks.check(checked)
        return found, kept


def make_services(ground: Ground, keys: AccountKeys, algorithm: sealed.Algorithm) -> Services:
    """All services on one ground."""
    garbage, pruning, trash = Garbage(ground), Pruning(ground), Trash(ground)
    tiering = Tiering(ground, places.tier_of(ground.store), garbage.deleting)
    notifications, shares = Notifications(ground), Shares(ground)
    return Services(
        ground=ground,
        database=ground.database,
        lifecycle=Lifecycle(ground.hub),
        accounts=Accounts(ground, keys.pass_key),
        accounting=Accounting(ground),
        departures=Departures(ground, shares),
        devices=Devices(ground),
        uploads=Uploads(ground),
        sessions=Sessions(ground),
        shares=shares,
        links=Links(ground),
        notifications=notifications,
        activity=Activity(ground),
        listing=Listing(ground),
        revisions=Revisions(ground),
        snapshots=Snapshots(ground),
        trash=trash,
        commits=Commits(ground),
        changes=Changes(ground),
        blocks=Blocks(ground, keys, algorithm, tiering.read),
        checks=Checks(ground, keys),
        backups=Backups(ground, keys, garbage.deleting),
        garbage=garbage,
        pruning=pruning,
        maintenance=Maintenance(ground, trash, garbage, pruning, tiering),
        tiering=tiering,
    )


def make_app(services: Services) -> ASGIApp:
    """The whole application over these services."""
    sync, links = SyncApi(services).routes(), Downloads(services).routes()
    public = make_public_api(services, [*sync, *links])
    return Router([*sync, Mount("/sync", problems.nothing_here), *links, Mount("/", public)])


async def serve(settings: Settings, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; open requests get `stop_seconds` to end.

    Raises:
        CannotServe, WrongMasterKey, MetadataError: nothing was started.
    """
    address = _free_address(settings)
    _check_certificate(settings)
    _keep_freed_memory()
    _raise_file_limit()
    # All that was loaded stays: requests need not wait while the garbage collector looks through it.
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
    with locked(settings.data, create=True):
        async with (
            opened(settings) as services,
            control.listening(settings.data) as listener,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(control.serve, listener, services)
            tasks.start_soon(_keep_presence, services)
            tasks.start_soon(_keep_tidy, services)
            tasks.start_soon(_keep_warm, services)
            if isinstance(services.ground.store, ReplicatedStore):
                tasks.start_soon(_keep_whole, services, services.ground.store)
            say(f"drivefs-server keeps {settings.data} and listens at {settings.url}; SIGTERM or Ctrl-C stops it")
            await _serve_http(settings, address, services)
            with contextlib.suppress(DatabaseError):  # of a full disk it is told when the mark is written
                await services.devices.flush()
            tasks.cancel_scope.cancel()


async def _keep_presence(services: Services) -> None:
    while True:
        await anyio.sleep(FLUSH_SECONDS)
        try:
            await services.devices.flush()
        except Exception:
            # Files are served all the same; who is here is said again the next time.
            log.exception("which devices are here could not be written")


async def _keep_whole(services: Services, store: ReplicatedStore) -> None:
    """Copy what one place of the blocks lacks, as soon as it is there again."""
    while True:
        if store.is_owed:
            try:
                async with services.garbage.deleting:
                    count = await services.ground.offload(store.copy_owed)
            except Exception as error:
                log.debug("blocks are owed to one of their two places still: %s", error)
            else:
                log.info("both places of the blocks have them all; %d objects were copied", count)
        await anyio.sleep(OWED_SECONDS)


async def _keep_tidy(services: Services) -> None:
    """Let go, now and then, of what nobody needs any more."""
    pause_seconds = FIRST_TIDYING_SECONDS
    while True:
        await anyio.sleep(pause_seconds)
        pause_seconds = TIDYING_SECONDS
        try:
            done = await services.maintenance.run()
        except Exception:
            # Files are served all the same; what could not be deleted takes room until the next time.
            log.exception("what nobody needs any more could not be let go of; it is tried again in some hours")
        else:
            if not done.is_empty:
                log.info("let go of what nobody needs any more: %s", done)


async def _keep_warm(services: Services) -> None:
    """Bring back from the cold store what is read often, and note what is read."""
    while True:
        await anyio.sleep(WARMING_SECONDS)
        try:
            await services.tiering.flush()
            await services.tiering.bring_back()
        except Exception:
            log.exception("what was read could not be noted, or not be brought back; it is read where it is")


async def _serve_http(settings: Settings, address: str, services: Services) -> None:
    server = Server(
        make_app(services),
        address=address,
        port=settings.port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(max_buffer_size=HTTP_BUFFER_BYTES),
        websockets=False,
        backlog=BACKLOG,
        backpressure=_most_requests(settings),
        ssl_cert=settings.tls_cert,
        ssl_key=settings.tls_key,
        log_enabled=False,
    )
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    serving = asyncio.create_task(server.serve())
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    services.lifecycle.stop()
    server.stop()  # type: ignore[no-untyped-call]
    # A connection that does not end in time is left to the end of the process.
    done, _ = await asyncio.wait({serving}, timeout=settings.stop_seconds)
    for ended in done:
        ended.result()


def _free_address(settings: Settings) -> str:
    """Find the numeric address to listen at; say in plain words, and in time, what the HTTP server would fail at."""
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise CannotServe(
            f"Cannot listen at {settings.listen}: {error.strerror or error}. Choose another address with --listen."
        ) from error
    numeric = str(address[0])
    if settings.tls_cert is None and not ipaddress.ip_address(numeric).is_loopback:
        log.warning("Without TLS, passwords and files travel readable, and clients refuse %s.", settings.url)
    return numeric


def _check_certificate(settings: Settings) -> None:
    if settings.tls_cert is None:
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ValueError) as error:
        raise CannotServe(
            f"The certificate {settings.tls_cert} and the key {settings.tls_key} cannot be used: {error}. "
            "Both must be PEM files, and belong together."
        ) from error


def _most_requests(settings: Settings) -> int:
    """As many as the setting says, or as there are descriptors for: more could not be accepted."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return settings.max_requests
    return max(1, min(settings.max_requests, allowed - KEPT_DESCRIPTORS))


def _raise_file_limit() -> None:
    """Each open request takes a descriptor: let there be as many as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _keep_freed_memory() -> None:
    """Have the allocator keep what uploads free for the next ones, up to a bound, where it can be told.

    Giving each block's memory back to the kernel, to be faulted in again, took 0.9 of 2.1 s of system time per GiB.
    """
    with contextlib.suppress(AttributeError):
        set_option = ctypes.CDLL(None).mallopt
        set_option(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
        set_option(M_TRIM_THRESHOLD, KEPT_BYTES)


def _has_aes() -> bool:
    """Whether the processor has AES instructions."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith(("flags", "features")):
                return "aes" in line.split()
    return False
