"""The composition root of a mount: builds all parts, opens the one nursery, and ends everything in order.

Owns the real clock, randomness and threads, which all parts get from here; the log; and the way from a signal, or from
the kernel's word that it has let go, to a clean end. Decides nothing about files or synchronisation.

Order of the end: the kernel lets go, synchronisation stops where it is, what was accepted becomes durable, the state
is closed. Whatever was not sent is in the journal.
"""

import logging
import logging.handlers
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import msgspec
import trio

from cache.errors import CacheError
from cache.workspace import LocalState
from drivefs import __version__
from drivefs.config import Credentials, MountSettings
from drivefs.control import conflicts, handlers, held, mounts, pins, server, uploads, watching
from drivefs.control.readiness import Readiness
from drivefs.fs.filesystem import Drive, FileSystem, Services
from drivefs.fs.ownership import Owner
from drivefs.fuse import invalidation
from drivefs.fuse.attributes import Translation
from drivefs.fuse.replay import Mounted, Replay
from drivefs.fuse.replay_process import PlayerProcess
from drivefs.fuse.session import MountFailed
from drivefs.fuse.session import Session as KernelSession
from drivefs.protocol.ids import InodeId
from drivefs.protocol.messages import Limits, SessionReply, Usage
from drivefs.remote import errors, transport
from drivefs.remote.client import Remote
from drivefs.sync.amends import Amends, Labels
from drivefs.sync.announcer import Announcer
from drivefs.sync.commits import Committer
from drivefs.sync.connection import Connection
from drivefs.sync.contents import Shown
from drivefs.sync.downloader import PARALLEL_REQUESTS, Downloader
from drivefs.sync.ends import Ends
from drivefs.sync.engine import Engine, Parts
from drivefs.sync.events import Event, Events, Kind, Origin
from drivefs.sync.follower import Follower
from drivefs.sync.guard import Guard, Question
from drivefs.sync.incoming import IncomingUploads
from drivefs.sync.lister import Lister
from drivefs.sync.pins import PinnedTrees
from drivefs.sync.places import Places
from drivefs.sync.prefetch import Prefetcher
from drivefs.sync.presence import Outgoing, Presence
from drivefs.sync.publications import Publications
from drivefs.sync.publisher import Publisher
from drivefs.sync.refusals import Refusals
from drivefs.sync.relisting import Relisting
from drivefs.sync.restoring import Restoring
from drivefs.sync.session import Session, known_limits
from drivefs.sync.standing import Standing, is_revoked
from drivefs.sync.status import Meter, Reporter
from drivefs.sync.uploader import Uploader
from drivefs.sync.walker import Walker

log = logging.getLogger(__name__)
T = TypeVar("T")

LOG_BYTES = 2**20
LOG_FILES = 3
THREADS = 8
"""More would only wait for each other: there is one disk, and the interpreter lock is held for half of what they do."""
SWITCH_SECONDS = 0.0005
END_SECONDS = 20.0
FIRST_SESSION_SECONDS = 5.0
FRESH_SECONDS = 0.5
"""How long a mount waits, before it says that it is there, for what others changed since the last one."""


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


class _Threads:
    """`Offload` onto a bounded number of threads."""

    def __init__(self, count: int) -> None:
        self._limiter = trio.CapacityLimiter(count)

    def __call__(self, work: Callable[..., T], /, *args: Any) -> Awaitable[T]:
        return trio.to_thread.run_sync(work, *args, limiter=self._limiter)


@contextmanager
def _opened(settings: MountSettings) -> Iterator[LocalState]:
    try:
        with LocalState(
            settings.places.state,
            settings.places.cache,
            offload=_Threads(THREADS),
            cache_limit_bytes=settings.profile.cache_limit_bytes,
        ) as local:
            if settings.profile.pin_limit_bytes is not None:
                local.blocks.protected_limit_bytes = settings.profile.pin_limit_bytes
            yield local
    except CacheError as error:
        raise MountError(str(error)) from error


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a mount runs, and what its commands ask."""

    engine: Engine
    publications: Publications
    publisher: Publisher
    downloader: Downloader
    reporter: Reporter
    guard: Guard
    deciding: held.Deciding
    filesystem: FileSystem
    kernel: KernelSession
    invalidation: invalidation.Invalidation
    pinning: pins.Pinning
    presence: Presence
    events: Events
    replay: Replay


class _Allowance:
    """What the backend allows the account, and whoever has to hear of it."""

    def __init__(self, local: LocalState) -> None:
        self.limits = known_limits(local.journal)
        self.usage = Usage()
        self.hear: list[Callable[[Limits, Usage], None]] = []

    def told(self, reply: SessionReply) -> None:
        """A session has begun."""
        self.limits = reply.limits
        self.used(reply.usage)

    def used(self, usage: Usage) -> None:
        """The backend has said what the account uses now."""
        for each in self.hear:
            each(self.limits, usage)


def _compose(settings: MountSettings, local: LocalState, remote: Remote) -> _Parts:
    """Build the parts and join them; nothing runs yet."""
    device = settings.credentials
    offload = _Threads(THREADS)
    allowance = _Allowance(local)
    publications = Publications(local.journal.last_op)
    session = Session(local, remote, device.workspace, random_bytes=os.urandom, opened=allowance.told)
    session.renumbered = lambda fresh: _renumber(filesystem, kernel.translation, engine, fresh)
    standing = Standing(local.journal, session.open, lambda is_revoked: filesystem.refuse_changes(is_revoked))
    connection = Connection(standing.open, time.time_ns, random.random)
    downloader = Downloader(remote, local.blocks, offload, connection)
    # The engine comes last, since it needs all others; until it runs, nothing can fail for lack of the backend.
    ends = Ends(local, remote, device.workspace)
    lister = Lister(ends, connection, changed=lambda inode: shown.attributes_changed(inode))
    services = Services(fetcher=downloader, lister=lister, publisher=publications)
    places = Places(local, device.root)
    trees = PinnedTrees(local, places, device.root)
    prefetcher = Prefetcher(ends, trees, downloader, lister, ahead_bytes=settings.profile.ahead_limit_bytes)
    drive = replace(_drive(device, allowance, lambda: _status(reporter, presence)), pinned=trees.value_of)
    filesystem = FileSystem(local, services, drive, time.time_ns)
    filesystem.refuse_changes(is_revoked(local.journal))
    kernel = KernelSession(filesystem, str(settings.mountpoint), settings.options, f"drivefs:{settings.profile.name}")
    # In threads of its own: a notification may wait for the kernel, which may wait for us.
    told = invalidation.Invalidation(kernel.translation, _Threads(invalidation.WORKERS))
    uploader = Uploader(remote, local.blocks, offload, device.workspace)
    shown = Shown(filesystem, told)
    filesystem.hear_of_followers(partial(_follow, filesystem, kernel.translation, told))
    events = Events()
    announcer = Announcer(events, places)
    announcer.replayer = replay = _replay(kernel, filesystem, places, told)
    events.hear.append(lambda are_heard: _listen(filesystem, publications, announcer if are_heard else None))
    guard = _guard(settings, ends, filesystem, events)
    amends = _amends(settings, local, filesystem, shown)
    refusals = Refusals(ends, amends, lister, contents=filesystem.contents, events=events)
    follower = Follower(ends, shown, announcer)
    parts = Parts(
        local=local,
        session=session,
        connection=connection,
        contents=filesystem.contents,
        publications=publications,
        publisher=Publisher(local.journal, filesystem.contents, publications, uploader),
        guard=guard,
        committer=_committer(ends, filesystem, publications, guard=guard, refusals=refusals),
        follower=follower,
        relisting=Relisting(ends, shown, filesystem, lister=lister, follower=follower),
        walker=Walker(local.replica, lister, kernel.call_count),
        prefetcher=prefetcher,
        used=allowance.used,
    )
    parts.follower.coming = prefetcher.coming
    engine = Engine(parts, random.random)
    presence = _presence(ends, engine, parts, places, events)
    sent, received = Meter(lambda: uploader.traffic.sent_bytes), Meter(lambda: downloader.received_bytes)
    reporter = Reporter(local, connection, sent=sent, received=received)
    allowance.hear += [filesystem.quota.told, reporter.told]
    pinning = pins.Pinning(local, trees, prefetcher)
    deciding = held.Deciding(guard, Restoring(local, guard, shown), publications)
    running = (reporter, guard, deciding, filesystem, kernel, told, pinning, presence, events, replay)
    return _Parts(engine, publications, parts.publisher, downloader, *running)


def _amends(settings: MountSettings, local: LocalState, filesystem: FileSystem, shown: Shown) -> Amends:
    """What carries out what is decided about refused mutations."""
    labels = Labels(device=settings.profile.device, today=_today)
    return Amends(local, settings.credentials.root, contents=filesystem.contents, shown=shown, labels=labels)


def _committer(
    ends: Ends, filesystem: FileSystem, publications: Publications, *, guard: Guard, refusals: Refusals
) -> Committer:
    """What sends the journal's mutations, and hears what becomes of them."""
    refusals.publishable = publications.arrived
    contents = filesystem.contents
    return Committer(ends, guard=guard, contents=contents, publications=publications, refusals=refusals)


def _guard(settings: MountSettings, ends: Ends, filesystem: FileSystem, events: Events) -> Guard:
    """What asks before a mass deletion travels."""

    async def count_files() -> int:
        return (await ends.remote.count(ends.workspace)).file_count

    def asked(question: Question) -> None:
        log.warning("%s", held.sentence(question))
        events.publish(Event(kind=Kind.HELD, path=b"", origin=Origin.HERE, details=held.as_fields(question)))

    guard = Guard(ends.local.journal, count_files, share=settings.profile.guarded_share, asked=asked)
    filesystem.guard_with(guard)
    return guard


def _listen(filesystem: FileSystem, publications: Publications, announcer: Announcer | None) -> None:
    """What programs do here is told to the announcer, or to nobody: then it costs nothing."""
    filesystem.hear(None if announcer is None else announcer.mutated)
    publications.hear = None if announcer is None else announcer.written


def _replay(kernel: KernelSession, filesystem: FileSystem, places: Places, told: invalidation.Invalidation) -> Replay:
    """What shows programs that watch the mount what happened elsewhere."""
    mounted = Mounted(
        root=filesystem.root,
        start=lambda: PlayerProcess.start(kernel.stage, _Threads(1), kernel.mountpoint, kernel.device),
        present=filesystem.known,
        way_to=places.way_to,
        forget=told.entry,
        forgotten=told.wait_told,
    )
    return Replay(mounted, kernel.stage, probe=b".drivefs-" + os.urandom(8).hex().encode())


def _follow(
    filesystem: FileSystem, translation: Translation, kernel: invalidation.Invalidation, inode: InodeId, other: InodeId
) -> None:
    """What the kernel has open as one inode is another from now on; names lead to what they belong to."""
    translation.swap(inode, other)
    for parent, name in [*filesystem.names_of(inode), *filesystem.names_of(other)]:
        kernel.entry(parent, name)


def _renumber(
    filesystem: FileSystem, translation: Translation, engine: Engine, fresh: Mapping[InodeId, InodeId]
) -> None:
    """Inodes have new ids (by the old ones) in the databases; the kernel goes on with the numbers that it has."""
    for old, new in fresh.items():
        translation.swap(old, new)
    filesystem.renumbered(fresh)
    engine.renumbered(fresh)


def _presence(ends: Ends, engine: Engine, parts: Parts, places: Places, events: Events) -> Presence:
    """What tells the other devices of this one, and this one of the others."""
    incoming = IncomingUploads(places, events, time.time_ns, lambda: engine.connection.reach.online)
    outgoing = Outgoing(parts.publisher, parts.publications, places)
    presence = parts.follower.presence = Presence(ends, outgoing, incoming, events, places)
    return presence


def _status(reporter: Reporter, presence: Presence) -> dict[str, Any]:
    """The text of `.drivefs/status`."""
    found: dict[str, Any] = msgspec.to_builtins(reporter.status())
    return {**found, "incoming": [uploads.as_text(each) for each in presence.incoming.all()]}


def _drive(device: Credentials, allowance: _Allowance, status: Callable[[], Any]) -> Drive:
    """What the file system has to know of the account and of who mounts it."""
    return Drive(
        workspace=device.workspace,
        root=device.root,
        owner=Owner(os.getuid(), os.getgid()),
        limits=allowance.limits,
        usage=allowance.usage,
        files={b"status": status},
    )


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
                with trio.move_on_after(END_SECONDS, shield=True):
                    await self._local.barrier()

    def _start(self, parts: _Parts, nursery: trio.Nursery) -> None:
        table = handlers.Handlers(self._drive(parts), nursery).table()
        table |= watching.Watching(parts.events).table()
        table |= conflicts.Settling(parts.filesystem, parts.invalidation).table()
        table |= parts.pinning.table()
        table |= parts.deciding.table()
        nursery.start_soon(server.serve, server.listen(self._settings.places.runtime), table, nursery)
        nursery.start_soon(self._end_on_signal, parts.kernel)
        nursery.start_soon(self._announce, parts.engine)
        nursery.start_soon(parts.reporter.run)
        nursery.start_soon(parts.invalidation.run)
        nursery.start_soon(parts.replay.run)
        nursery.start_soon(parts.engine.run)
        nursery.start_soon(parts.presence.run, parts.engine.connection)
        for _ in range(PARALLEL_REQUESTS):
            nursery.start_soon(parts.downloader.serve)

    def _drive(self, parts: _Parts) -> handlers.Drive:
        settings = self._settings
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
            engine=parts.engine,
            reporter=parts.reporter,
            is_on_its_way=parts.publications.is_on_its_way,
            presence=parts.presence,
            root=settings.credentials.root,
            guard=parts.guard,
            conflict_count=parts.filesystem.conflicts.count,
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
        found += parts.engine.given_up
        if self._local.blocks.problem:
            found.append(f"nothing is kept in the cache until the next mount: {self._local.blocks.problem}")
        if (question := parts.guard.question) is not None:
            found.append(held.sentence(question))
        if count := parts.filesystem.conflicts.count():
            found.append(conflicts.sentence(count))
        found += [
            f"what was written to inode {inode} has been damaged on this disk and is not sent ({why}). "
            "Copy what can still be read, and write the file anew"
            for inode, why in parts.publisher.damaged.items()
        ]
        if lacking := parts.pinning.lacking():
            found.append(lacking)
        if parts.kernel.holds_up_others:
            found.append(
                "slow reads may hold up other work on the mount: only root may let more of them wait at a time"
            )
        return found

    async def _announce(self, engine: Engine) -> None:
        """Say that the drive is there, once it has answered a first question.

        A device that has no cursor yet (its cache is new) can list nothing before its first session: that is waited
        for, or its failure. One that has a cursor gets what others changed since, if that comes quickly.
        """
        settings = self._settings
        is_new = self._local.replica.cursor(settings.credentials.workspace) is None
        with trio.move_on_after(FIRST_SESSION_SECONDS if is_new else FRESH_SECONDS):
            await engine.connection.tried.wait()
            if engine.connection.reach.online:
                await engine.caught_up.wait()
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
