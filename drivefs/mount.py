"""The composition root of a mount: puts a process and a kernel around a drive, and ends everything in order.

Owns the real clock, randomness and threads, which all parts get from here; the log; and the way from a signal, or from
the kernel's word that it has let go, to a clean end. Decides nothing about files or synchronisation.

Order of the end: the kernel lets go, synchronisation stops where it is, what was accepted becomes durable, the state
is closed. Whatever was not sent is in the journal.
"""

import gc
import logging
import logging.handlers
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import trio

from cache.errors import CacheError, DiskFull
from cache.workspace import LocalState
from drivefs import __version__
from drivefs.assembly import Assembly, Ground, Options
from drivefs.config import MountSettings
from drivefs.control import (
    conflicts,
    desktop,
    handlers,
    held,
    history,
    mounts,
    notifications,
    pins,
    rewinding,
    server,
    sharing,
    snapshots,
    space,
    trash,
    uploads,
    waiting,
    watching,
)
from drivefs.control.readiness import Readiness
from drivefs.fs.filesystem import FileSystem
from drivefs.fs.ignore_rules import TEMPORARY
from drivefs.fs.ownership import Owner
from drivefs.fuse import invalidation
from drivefs.fuse.replay import Mounted, Replay
from drivefs.fuse.replay_process import PlayerProcess
from drivefs.fuse.session import MountFailed
from drivefs.fuse.session import Session as KernelSession
from drivefs.memory import Memory
from drivefs.remote import errors, transport
from drivefs.remote.client import Remote
from drivefs.sync.events import Event, Kind, Origin
from drivefs.sync.guard import Question
from drivefs.sync.places import Places
from drivefs.sync.presence import Presence
from drivefs.sync.restoring import Restoring
from drivefs.sync.standing import is_revoked
from drivefs.sync.standstill import Standstill
from drivefs.sync.status import Reporter
from drivefs.threads import PromptThread, Threads

log = logging.getLogger(__name__)

LOG_BYTES = 2**20
LOG_FILES = 3
THREADS = 8
"""More would only wait for each other: there is one disk, and the interpreter lock is held for half of what they do."""
SWITCH_SECONDS = 0.0005
YOUNG_OBJECTS = 10_000
"""So many objects are made between two looks of the garbage collector at what is new."""
END_SECONDS = 20.0
FIRST_SESSION_SECONDS = 5.0
FRESH_SECONDS = 2.0
"""How long a mount waits for the server's first answer before it says that it is there."""
CAUGHT_UP_SECONDS = 10.0
"""How long it waits, once the server has answered, for what others changed since the last one."""


class MountError(Exception):
    """The mount could not begin, or had to end; the message is for people."""


def serve(settings: MountSettings, readiness: Readiness) -> None:
    """Mount, and return when the drive is unmounted.

    Raises:
        MountError: the reason, in a sentence. Everything that was accepted is in the journal.
    """
    # A hashing or compressing thread that holds the interpreter lock would otherwise keep the event loop, and with it
    # every system call on the mount, waiting for Python's default of 5 ms each time.
    sys.setswitchinterval(SWITCH_SECONDS)
    # Each look at all that was loaded would take 50 to 100 ms, in which every system call waits.
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
    # What this process writes on the local disk is for its user only; modes on the mount come with each request.
    os.umask(0o077)
    _write_log(settings)
    log.info("drivefs %s mounts profile %s at %s", __version__, settings.profile.name, settings.mountpoint)
    try:
        with _opened(settings) as local:
            trio.run(_Mount(settings, readiness, local).run)
    except MountError as error:
        log.error("%s", error)
        raise
    except Exception as error:
        log.exception("the mount ends because of an error")
        raise MountError(
            f"the mount at {settings.mountpoint} ended because of an error: {_first(error)}. What was written is in "
            f"the journal; mount again to go on. Details: {settings.places.log_file}"
        ) from error
    log.info("unmounted")


def _write_log(settings: MountSettings) -> None:
    """To the log file, bounded; and to standard error, which a service manager or a terminal reads."""
    file = logging.handlers.RotatingFileHandler(settings.places.log_file, maxBytes=LOG_BYTES, backupCount=LOG_FILES)
    targets: list[logging.Handler] = [file]
    if not os.path.samestat(os.fstat(sys.stderr.fileno()), settings.places.log_file.stat()):
        targets.append(logging.StreamHandler())
    logging.basicConfig(level=logging.INFO, handlers=targets, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # One line for each request would fill the log with what is no event.
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _first(error: BaseException) -> str:
    """What went wrong first, out of the groups that nurseries make."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


@contextmanager
def _opened(settings: MountSettings) -> Iterator[LocalState]:
    threads = Threads(THREADS)
    try:
        with LocalState(
            settings.places.state,
            settings.places.cache,
            offload=threads,
            cache_limit_bytes=settings.profile.cache_limit_bytes,
        ) as local:
            local.sync_offload = PromptThread(threads)
            if settings.profile.pin_limit_bytes is not None:
                local.blocks.protected_limit_bytes = settings.profile.pin_limit_bytes
            yield local
    except CacheError as error:
        raise MountError(str(error)) from error


class _Kernel:
    """The kernel's side of one drive; satisfies `assembly.Kernel`."""

    def __init__(self, settings: MountSettings, filesystem: FileSystem) -> None:
        source = f"drivefs:{settings.profile.name}"
        self.session = KernelSession(filesystem, str(settings.mountpoint), settings.options, source)
        self.call_count = self.session.call_count
        self.swap = self.session.translation.swap
        # In threads of its own: a notification may wait for the kernel, which may wait for us.
        self.told = invalidation.Invalidation(self.session.translation, Threads(invalidation.WORKERS))


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a mount runs, and what its commands ask."""

    drive: Assembly
    kernel: KernelSession
    invalidation: invalidation.Invalidation
    deciding: held.Deciding
    pinning: pins.Pinning
    replay: Replay
    standstill: Standstill


def _compose(settings: MountSettings, local: LocalState, remote: Remote) -> _Parts:
    """Build the parts and join them; nothing runs yet."""
    device = settings.credentials
    ground = Ground(
        offload=Threads(THREADS),
        now_ns=time.time_ns,
        random_bytes=os.urandom,
        jitter=random.random,
        today=_today,
    )

    def asked(question: Question) -> None:
        log.warning("%s", held.sentence(question))
        drive.events.publish(Event(kind=Kind.HELD, path=b"", origin=Origin.HERE, details=held.as_fields(question)))

    options = Options(
        workspace=device.workspace,
        root=device.root,
        owner=Owner(os.getuid(), os.getgid()),
        device=settings.profile.device,
        ahead_limit_bytes=settings.profile.ahead_limit_bytes,
        guarded_share=settings.profile.guarded_share,
        asked=asked,
        temporary=TEMPORARY if settings.profile.ignored is None else settings.profile.ignored,
        files={b"status": lambda: _status(drive.reporter, drive.presence)},
    )
    kernels: list[_Kernel] = []

    def make_kernel(filesystem: FileSystem) -> _Kernel:
        kernels.append(_Kernel(settings, filesystem))
        return kernels[0]

    drive = Assembly(ground, options, local=local, remote=remote, make_kernel=make_kernel)
    kernel = kernels[0]
    drive.announcer.replayer = replay = _replay(kernel, drive)
    restoring = Restoring(local, drive.guard, drive.shown, drive.publications.closed, drive.filesystem.contents)
    deciding = held.Deciding(drive.guard, restoring, drive.publications)
    pinning = pins.Pinning(local, drive.trees, drive.prefetcher)
    return _Parts(drive, kernel.session, kernel.told, deciding, pinning, replay, _standstill(kernel, drive))


def _standstill(kernel: _Kernel, drive: Assembly) -> Standstill:
    """What lets no call be answered from what was known before this process stood still."""

    async def catch_up() -> None:
        await drive.engine.catch_up()
        await kernel.told.wait_told()

    # One goes on while the machine sleeps, the other is put right where a whole virtual machine stood still.
    standstill = Standstill(lambda: (time.clock_gettime(time.CLOCK_BOOTTIME), time.time()), catch_up)
    kernel.session.wait_at(standstill)
    return standstill


def _replay(kernel: _Kernel, drive: Assembly) -> Replay:
    """What shows programs that watch the mount what happened elsewhere."""
    session = kernel.session
    mounted = Mounted(
        root=drive.filesystem.root,
        start=lambda: PlayerProcess.start(session.stage, Threads(1), session.mountpoint, session.device),
        present=drive.filesystem.known,
        way_to=drive.places.way_to,
        forget=kernel.told.entry,
        forgotten=kernel.told.wait_told,
    )
    return Replay(mounted, session.stage, probe=b".drivefs-" + os.urandom(8).hex().encode())


def _status(reporter: Reporter, presence: Presence) -> dict[str, Any]:
    """The text of `.drivefs/status`."""
    found: dict[str, Any] = msgspec.to_builtins(reporter.status())
    return {**found, "incoming": [uploads.as_text(each) for each in presence.incoming.all()]}


def _today() -> str:
    return datetime.now(UTC).astimezone().date().isoformat()


class _Mount:
    """One mount from its first task to its last."""

    def __init__(self, settings: MountSettings, readiness: Readiness, local: LocalState) -> None:
        self._settings = settings
        self._readiness = readiness
        self._local = local

    async def run(self) -> None:
        """Serve until the kernel lets go or a signal comes."""
        profile = self._settings.profile
        async with transport.open_client(profile.url) as client:
            try:
                remote = Remote(
                    profile.url,
                    self._settings.credentials.token,
                    client=client,
                    jitter=random.random,
                    allow_insecure=profile.allow_insecure_http,
                )
            except errors.InsecureUrl as error:
                raise MountError(f"{error}. Log in again with drivefs login") from error
            remote.answer_seconds = profile.answer_seconds
            parts = _compose(self._settings, self._local, remote)
            try:
                parts.kernel.mount()
            except MountFailed as error:
                raise MountError(str(error)) from error
            try:
                async with trio.open_nursery() as nursery:
                    self._start(parts, nursery)
                    await parts.kernel.run()
                    log.info("the kernel has let go")
                    nursery.cancel_scope.cancel()
            finally:
                self._readiness.stopping()
                mounts.remove_record(self._settings.places.runtime)
                parts.kernel.close()
                with trio.move_on_after(END_SECONDS, shield=True), suppress(DiskFull):  # what was accepted is kept
                    await self._local.barrier()

    def _start(self, parts: _Parts, nursery: trio.Nursery) -> None:
        drive = parts.drive
        table = handlers.Handlers(self._drive(parts), nursery).table()
        table |= watching.Watching(drive.events).table()
        changing = conflicts.Settling(drive.filesystem, parts.invalidation).table()
        changing |= history.Looking(
            drive.filesystem,
            parts.invalidation,
            local=self._local,
            publications=drive.publications,
            connection=drive.connection,
        ).table()
        changing |= trash.TrashCan(
            drive.filesystem, parts.invalidation, local=self._local, connection=drive.connection
        ).table()
        changing |= rewinding.TakingBack(
            drive.filesystem, parts.invalidation, local=self._local, engine=drive.engine
        ).table()
        changing |= parts.deciding.table()
        changing["sync"] = table["sync"]
        table |= waiting.once_told(changing, parts.invalidation.wait_told)
        table |= snapshots.Naming(drive.filesystem.history.past, drive.engine, self._local).table()
        table |= sharing.Sharing(drive.filesystem, drive.ends, drive.engine).table()
        table |= space.Space(drive.ends.remote, drive.connection, self._local).table()
        table |= notifications.Notifying(drive.notices, drive.ends.remote).table()
        table |= parts.pinning.table()
        nursery.start_soon(server.serve, server.listen(self._settings.places.runtime), table, nursery)
        nursery.start_soon(self._end_on_signal, parts.kernel)
        nursery.start_soon(self._announce, drive)
        nursery.start_soon(parts.invalidation.run)
        nursery.start_soon(parts.replay.run)
        nursery.start_soon(parts.standstill.run)
        nursery.start_soon(Memory(Threads(1)).run)
        show = desktop.shower(os.environ) if self._settings.profile.desktop_notifications else None
        if show is not None:
            nursery.start_soon(desktop.Desktop(drive.notices, self._local.journal, show).run)
        for task in drive.tasks():
            nursery.start_soon(task)

    def _drive(self, parts: _Parts) -> handlers.Drive:
        settings, drive = self._settings, parts.drive
        identity = {
            "profile": settings.profile.name,
            "mountpoint": str(settings.mountpoint),
            "url": settings.profile.url,
            "user": settings.profile.user,
            "device": settings.profile.device,
            "read_only": "ro" in settings.options,
            "pid": os.getpid(),
            "version": __version__,
            "state": str(settings.places.state),
            "cache": str(settings.places.cache),
            "log": str(settings.places.log_file),
        }
        return handlers.Drive(
            identity=identity,
            local=self._local,
            engine=drive.engine,
            reporter=drive.reporter,
            is_on_its_way=drive.publications.is_on_its_way,
            presence=drive.presence,
            root=settings.credentials.root,
            guard=drive.guard,
            conflict_count=drive.filesystem.conflicts.count,
            notices=lambda: self._notices(parts),
        )

    def _notices(self, parts: _Parts) -> list[str]:
        """What people should know of this drive."""
        found = [f"{each.what}. {each.advice}" for each in self._local.report]
        if is_revoked(self._local.journal):
            found.append(
                "this device was revoked: the drive is read-only, and what the server does not have stays here. To "
                "send it: drivefs umount, drivefs login, mount again. To take it elsewhere: drivefs export DIRECTORY"
            )
        found += parts.drive.engine.given_up
        found += space.notices(parts.drive.without_room())
        if self._local.reserve.is_full():
            found.append(space.DISK_FULL.format(directory=self._settings.places.state))
        if self._local.is_suspect:
            found.append(space.DISK_BAD.format(directory=self._settings.places.state))
        if self._local.blocks.problem:
            found.append(f"nothing is kept in the cache until the next mount: {self._local.blocks.problem}")
        if (question := parts.drive.guard.question) is not None:
            found.append(held.sentence(question))
        if count := parts.drive.filesystem.conflicts.count():
            found.append(conflicts.sentence(count))
        places = Places(self._local, self._settings.credentials.root)
        found += [
            f"what was written to {places.called(inode).decode(errors='backslashreplace')!r} {why}"
            for inode, why in parts.drive.publisher.kept_back.items()
        ]
        if lacking := parts.pinning.lacking():
            found.append(lacking)
        if parts.kernel.holds_up_others:
            found.append(
                "slow reads may hold up other work on the mount: only root may let more of them wait at a time"
            )
        return found

    async def _announce(self, drive: Assembly) -> None:
        """Say that the drive is there, once it has answered a first question.

        A device that has no cursor yet (its cache is new) can list nothing before its first session: that is waited
        for, or its failure. One that has a cursor gets what others changed since, if that comes quickly.
        """
        settings = self._settings
        is_new = self._local.replica.cursor(settings.credentials.workspace) is None
        with trio.move_on_after(FIRST_SESSION_SECONDS if is_new else FRESH_SECONDS):
            await drive.connection.tried.wait()
        if drive.connection.reach.online:
            with trio.move_on_after(CAUGHT_UP_SECONDS):
                await drive.engine.caught_up.wait()
                await drive.filesystem.reconsidering.known.wait()
        await trio.to_thread.run_sync(os.stat, settings.mountpoint, abandon_on_cancel=True)
        record = mounts.MountRecord(
            settings.profile.name, str(settings.mountpoint), str(settings.places.state), os.getpid()
        )
        mounts.write_record(settings.places.runtime, record)
        self._readiness.ready(f"{settings.mountpoint} is mounted")

    async def _end_on_signal(self, kernel: KernelSession) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                log.info("ending on %s; what is not sent stays in the journal", signal.Signals(number).name)
                kernel.stop()
