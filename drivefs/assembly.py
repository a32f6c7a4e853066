"""Builds the parts of one drive and joins them: file system, synchronisation, and the caches between.

Owns which part knows which. Knows no kernel, no process and no command: who shows the drive to programs is passed in
(`Kernel`), and so are clock, randomness and threads (`Ground`). `drivefs.mount` puts FUSE and a process around it.
Nothing runs here: whoever assembles starts `tasks` in a nursery of its own.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from cache.workspace import LocalState
from drivefs.fs.drive import Drive, Provider, Services
from drivefs.fs.filesystem import FileSystem
from drivefs.fs.ownership import Owner
from drivefs.protocol.ground import NowNs, Offload, RandomBytes
from drivefs.protocol.ids import InodeId, WorkspaceId
from drivefs.protocol.messages import SessionReply
from drivefs.remote.client import Remote
from drivefs.sync.allowance import Allowance
from drivefs.sync.amends import Amends
from drivefs.sync.announcer import Announcer
from drivefs.sync.commits import Committer
from drivefs.sync.connection import Connection
from drivefs.sync.contents import Invalidator, Shown
from drivefs.sync.downloader import PARALLEL_REQUESTS, Downloader
from drivefs.sync.ends import Ends
from drivefs.sync.engine import Engine, Parts
from drivefs.sync.events import Events
from drivefs.sync.follower import Follower
from drivefs.sync.giving_up import GivingUp
from drivefs.sync.guard import Guard, Question
from drivefs.sync.healing import Healing
from drivefs.sync.incoming import IncomingUploads
from drivefs.sync.left_behind import LeftBehind
from drivefs.sync.lister import Lister
from drivefs.sync.neighbours import Neighbours
from drivefs.sync.notices import Notices
from drivefs.sync.nowhere import Nowhere
from drivefs.sync.past import Past
from drivefs.sync.pins import PinnedTrees
from drivefs.sync.places import Places
from drivefs.sync.prefetch import Prefetcher
from drivefs.sync.presence import Outgoing, Presence
from drivefs.sync.publications import Publications
from drivefs.sync.publisher import Publisher
from drivefs.sync.quiet import Quiet
from drivefs.sync.refusals import Refusals
from drivefs.sync.relisting import Relisting
from drivefs.sync.renaming import Labels
from drivefs.sync.session import Session
from drivefs.sync.standing import Standing, is_revoked
from drivefs.sync.status import Meter, Reporter
from drivefs.sync.uploader import Uploader
from drivefs.sync.walker import Walker


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Threads, time and randomness; `jitter` gives numbers from 0 to 1, `today` the date as people write it."""

    offload: Offload
    now_ns: NowNs
    random_bytes: RandomBytes
    jitter: Callable[[], float]
    today: Callable[[], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Which drive, as whom, and what its user has chosen.

    `asked` hears that a mass deletion waits for people. `files` are those of `.drivefs`, by name. `temporary` are
    patterns of files that stay on this device.
    """

    workspace: WorkspaceId
    root: InodeId
    owner: Owner
    device: str
    ahead_limit_bytes: int
    guarded_share: float
    asked: Callable[[Question], None]
    files: Mapping[bytes, Provider]
    temporary: Sequence[str] = ()


class Kernel(Protocol):
    """Who shows the drive to programs."""

    @property
    def told(self) -> Invalidator:
        """Makes it forget what has changed."""
        ...

    def call_count(self) -> int:
        """How many calls programs have made so far."""
        ...

    def swap(self, inode: InodeId, other: InodeId) -> None:
        """What programs have open as one inode is the other from now on, and the other way round."""
        ...


class Assembly:
    """One drive, joined; `make_kernel` is called once, when there is a file system to show."""

    def __init__(
        self,
        ground: Ground,
        options: Options,
        *,
        local: LocalState,
        remote: Remote,
        make_kernel: Callable[[FileSystem], Kernel],
    ) -> None:
        self._ground = ground
        self._options = options
        self.local = local
        self.ends = Ends(local, remote, options.workspace, ground.random_bytes)
        self.allowance = Allowance(local, remote)
        self.events = Events()
        self.places = Places(local, options.root)
        self.publications = Publications(local.journal.last_op)
        self._open_session(remote)
        self._open_filesystem(remote)
        self.kernel = make_kernel(self.filesystem)
        self.announcer = Announcer(self.events, self.places)
        self.shown = Shown(self.filesystem, self.kernel.told, self.announcer.made_good)
        self.filesystem.hear_of_followers(self._follow)
        self.events.hear.append(self._listen)
        self._join_synchronisation(remote)

    def _open_session(self, remote: Remote) -> None:
        ground, local = self._ground, self.local
        opened = self._opened
        self.session = Session(local, remote, self._options.workspace, random_bytes=ground.random_bytes, opened=opened)
        self.session.renumbered = self._renumber
        standing = Standing(local.journal, self.session.open, lambda ended: self.filesystem.refuse_changes(ended))
        self.connection = Connection(standing.open, ground.now_ns, ground.jitter)

    def _opened(self, reply: SessionReply) -> None:
        self.allowance.told(reply)
        self.follower.sharing.told(reply.shares)

    def _open_filesystem(self, remote: Remote) -> None:
        ground, options, local = self._ground, self._options, self.local
        self.downloader = Downloader(remote, local.blocks, ground.offload, self.connection)
        self.lister = Lister(self.ends, self.connection, changed=lambda inode: self.shown.attributes_changed(inode))
        past = Past(self.ends, self.connection)
        services = Services(fetcher=self.downloader, lister=self.lister, publisher=self.publications, past=past)
        self.trees = PinnedTrees(local, self.places, options.root)
        drive = Drive(
            workspace=options.workspace,
            root=options.root,
            owner=options.owner,
            limits=self.allowance.limits,
            usage=self.allowance.usage,
            files=options.files,
            pinned=self.trees.value_of,
            temporary=options.temporary,
        )
        self.filesystem = FileSystem(local, services, drive, ground.now_ns)
        self.lister.listed.append(self.filesystem.ignoring.listed)
        most, is_online = options.ahead_limit_bytes, lambda: self.connection.reach.online
        neighbours = Neighbours(self.ends, self.downloader, limit_bytes=most, is_online=is_online)
        self.filesystem.reader.waiting = neighbours.waiting
        self.filesystem.refuse_changes(is_revoked(local.journal))

    def _join_synchronisation(self, remote: Remote) -> None:
        ground, options, local, ends = self._ground, self._options, self.local, self.ends
        contents = self.filesystem.contents
        uploader = Uploader(remote, local.blocks, ground.offload, options.workspace)
        self.publisher = Publisher(local.journal, contents, self.publications, uploader)
        ahead_bytes = options.ahead_limit_bytes
        self.prefetcher = Prefetcher(ends, self.trees, self.downloader, self.lister, ahead_bytes=ahead_bytes)
        self.guard = Guard(local.journal, self._count_files, share=options.guarded_share, asked=options.asked)
        self.filesystem.guard_with(self.guard)
        uploader.share_of = lambda inode: share.workspace if (share := local.shares.of(inode)) is not None else None
        self.follower = follower = Follower(ends, self.shown, self.announcer)
        self.lister.listed.append(follower.parting.listed)
        refusals, giving_up = self._refusals()
        self.committer = Committer(
            ends, guard=self.guard, contents=contents, publications=self.publications, refusals=refusals
        )
        parts = Parts(
            local=local,
            session=self.session,
            connection=self.connection,
            contents=contents,
            publications=self.publications,
            publisher=self.publisher,
            guard=self.guard,
            committer=self.committer,
            refusals=refusals,
            giving_up=giving_up,
            follower=follower,
            relisting=Relisting(ends, self.shown, self.filesystem, lister=self.lister, follower=follower),
            walker=Walker(local.replica, self.lister, Quiet(self.kernel.call_count)),
            prefetcher=self.prefetcher,
            healing=Healing(remote, local.blocks, uploader, options.workspace),
            used=self.allowance.used,
        )
        follower.coming = self.prefetcher.coming
        follower.moved = self.allowance.moved
        follower.quiet = Quiet(self.kernel.call_count)
        parts.relisting.publishable = self.publications.returned
        self.engine = Engine(parts, ground.jitter)
        self.left_behind = LeftBehind(
            ends, self.places, change_count=lambda: self.filesystem.ignoring.change_count, found=giving_up.look
        )
        self.presence = follower.presence = self._presence()
        self.notices = follower.notices = Notices(remote)
        self.notices.begun = self.engine.poll_afresh
        sent = Meter(lambda: uploader.traffic.sent_bytes)
        received = Meter(lambda: self.downloader.received_bytes)
        self.reporter = Reporter(local, self.connection, sent=sent, received=received)
        self.allowance.hear += [self.filesystem.quota.told, self.reporter.told]
        self.filesystem.quota.refused = self.allowance.refused
        self.filesystem.quota.looked_at = self.reporter.looked_at = self.allowance.looked_at
        self.follower.sharing.changed = self.allowance.refused
        self.connection.refused = self.allowance.refused_by
        self.allowance.waits = lambda: self.committer.is_over_quota

    def without_room(self) -> set[str]:
        """In whose accounts there is no room for what programs wrote here, or wanted to; empty: the user's own."""
        payer = self.filesystem.quota.payer
        return {*self.filesystem.quota.short, *map(payer, self.committer.without_room())}

    def _refusals(self) -> tuple[Refusals, GivingUp]:
        """What deals with refused mutations: those that are made good, and those that never can be."""
        contents, publications = self.filesystem.contents, self.publications
        labels = Labels(device=self._options.device, today=self._ground.today)
        amends = Amends(self.local, self._options.root, contents=contents, shown=self.shown, labels=labels)
        refusals = Refusals(self.ends, amends, self.lister, contents=contents, events=self.events)
        refusals.publishable = publications.arrived
        giving_up = GivingUp(self.ends, amends, self.shown, contents=contents, publications=publications)
        self.publisher.refused, self.publisher.is_base_gone = giving_up.refused, giving_up.is_base_gone
        self.publisher.is_nowhere = Nowhere(self.ends).is_nowhere
        return refusals, giving_up

    def _presence(self) -> Presence:
        """What tells the other devices of this one, and this one of the others."""
        places, events = self.places, self.events
        incoming = IncomingUploads(places, events, self._ground.now_ns, lambda: self.connection.reach.online)
        outgoing = Outgoing(self.publisher, self.publications, places)
        return Presence(self.ends, outgoing, incoming, events, places)

    async def _count_files(self) -> int:
        return (await self.ends.remote.count(self.ends.workspace)).file_count

    def _listen(self, are_heard: bool) -> None:
        """What programs do here is told to the announcer, or to nobody: then it costs nothing."""
        self.filesystem.hear(self.announcer.mutated if are_heard else None)
        self.publications.hear = self.announcer.written if are_heard else None

    def _follow(self, inode: InodeId, other: InodeId) -> None:
        """What programs have open as one inode is another from now on; names lead to what they belong to."""
        self.kernel.swap(inode, other)
        for parent, name in [*self.filesystem.names_of(inode), *self.filesystem.names_of(other)]:
            self.kernel.told.entry(parent, name)

    def _renumber(self, fresh: Mapping[InodeId, InodeId]) -> None:
        """Inodes have new ids (by the old ones) in the databases; programs go on with the numbers that they have."""
        for old, new in fresh.items():
            self.kernel.swap(old, new)
        self.filesystem.renumbered(fresh)
        self.engine.renumbered(fresh)

    def tasks(self) -> list[Callable[[], Awaitable[None]]]:
        """What has to run, each in a task of its own, for as long as the drive is there."""
        first: list[Callable[[], Awaitable[None]]] = [self.reporter.run, self.engine.run, self.allowance.run]
        first.append(self.filesystem.reconsidering.run)
        first.append(partial(self.left_behind.run, self.connection, self.engine.caught_up))
        return [*first, partial(self.presence.run, self.connection), *[self.downloader.serve] * PARALLEL_REQUESTS]
