"""Several devices of one account and the real server application, in one process and without a kernel.

Owns the composition of a device from its real parts, all but the tasks that drive them: a test says when a device sends
and when it hears. File operations are by path, as programs make them.
"""

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import trio

from backend.service import ids
from backend.service.ground import Limits
from cache.check import check
from cache.errors import OutOfIds
from cache.workspace import LocalState
from drivefs.fs.drive import Drive, Services
from drivefs.fs.errors import FileSystemError
from drivefs.fs.filesystem import FileSystem
from drivefs.fs.namespace import NewInode
from drivefs.fs.ownership import Owner
from drivefs.protocol import messages, routes, wire
from drivefs.protocol.changes import OpResult, Status, Store
from drivefs.protocol.conflicts import CONFLICT_XATTR, ConflictMark, decode_mark
from drivefs.protocol.errors import Code
from drivefs.protocol.ids import InodeId, WorkspaceId
from drivefs.protocol.messages import Usage
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.remote.client import Remote
from drivefs.remote.errors import Offline, Refused
from drivefs.sync.amends import Amends
from drivefs.sync.announcer import Announcer
from drivefs.sync.commits import DEFER_SECONDS, Committer
from drivefs.sync.connection import Untracked
from drivefs.sync.contents import Shown
from drivefs.sync.ends import Ends
from drivefs.sync.events import Events
from drivefs.sync.follower import Follower
from drivefs.sync.guard import Guard
from drivefs.sync.past import Past
from drivefs.sync.places import Places
from drivefs.sync.publications import Publications
from drivefs.sync.publisher import Publisher
from drivefs.sync.refusals import Refusals
from drivefs.sync.relisting import Relisting
from drivefs.sync.renaming import Labels
from drivefs.sync.session import Session
from drivefs.sync.status import pending
from drivefs.sync.uploader import Uploader
from tests.backend.api.served import PASSWORD, USER, Served, serving
from tests.backend.service.drive import Random
from tests.fs.bench import ME
from tests.sync.line import Line
from tests.sync.stand_ins import Fetcher, Kernel, Lister

URL = "http://127.0.0.1:1"
MOST_ROUNDS = 60
LIMITS = Limits(quota_bytes=2**30, file_bytes=2**30)


async def at_once(work: Any, /, *args: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return work(*args)


class Device:
    """One device; `name` is what its conflict copies are called after."""

    def __init__(self, name: str, place: Path, token: str, asgi: Any) -> None:
        self.name = name
        self.place = place
        self.token = token
        self.line = Line(httpx.ASGITransport(app=asgi))
        self._client = httpx.AsyncClient(transport=self.line, trust_env=False)  # type: ignore[arg-type]
        self.remote = Remote(URL, token, client=self._client, jitter=lambda: 0.5)
        self.random = Random()
        self.random.drawn = int.from_bytes(name.encode()[:4], "big")
        self.ticks = count(10**18 + len(name))
        self._resends: list[tuple[Store, OpResult]] = []
        self.refused_count = 0
        """Commits that were refused since the history is another one."""
        self.begun_again: list[messages.FeedPage] = []
        self.local: LocalState
        self._info: tuple[WorkspaceId, InodeId] | None = None

    def now_ns(self) -> int:
        return next(self.ticks)

    async def count_files(self) -> int:
        raise AssertionError("a guard that is off asks nobody")

    async def open(self) -> None:
        """As a mount begins."""
        self.local = LocalState(self.place / "state", self.place / "cache", offload=at_once, cache_limit_bytes=2**30)
        if self._info is None:
            await self._first_session()
        assert self._info is not None
        workspace, self.root = self._info
        self.ends = ends = Ends(self.local, self.remote, workspace, self.random)
        self.publications = Publications(self.local.journal.last_op)
        self.lister = Lister(ends)
        past = Past(ends, Untracked())
        services = Services(fetcher=Fetcher(ends), lister=self.lister, publisher=self.publications, past=past)
        drive = Drive(
            workspace=workspace,
            root=self.root,
            owner=Owner(1000, 1000),
            limits=messages.Limits(file_bytes=2**40, quota_bytes=2**41),
            usage=Usage(),
        )
        self.fs = FileSystem(self.local, services, drive, self.now_ns)
        self.lister.listed.append(self.fs.ignoring.listed)
        self.fs.contents.await_forgetting()
        self.kernel = Kernel()
        self.events = events = Events()
        announcer = Announcer(events, Places(self.local, self.root))
        shown = Shown(self.fs, self.kernel, announcer.made_good)
        uploader = Uploader(self.remote, self.local.blocks, at_once, workspace)
        uploader.share_of = lambda inode: share.workspace if (share := self.local.shares.of(inode)) else None
        self.publisher = Publisher(self.local.journal, self.fs.contents, self.publications, uploader)
        labels = Labels(device=self.name, today=lambda: "2026-11-22")
        amends = Amends(self.local, self.root, contents=self.fs.contents, shown=shown, labels=labels)
        self.refusals = Refusals(ends, amends, self.lister, contents=self.fs.contents, events=events)  # type: ignore[arg-type]
        self.refusals.publishable = self.publications.arrived
        self.committer = Committer(
            ends,
            contents=self.fs.contents,
            publications=self.publications,
            refusals=self.refusals,
            guard=Guard(self.local.journal, self.count_files, share=0.0, asked=lambda question: None),
        )
        self.committer.resend = lambda store, result: self._resends.append((store, result))
        self.session = Session(
            self.local,
            self.remote,
            workspace,
            random_bytes=self.random,
            opened=lambda reply: self.follower.sharing.told(reply.shares),
        )
        self.session.renumbered = self._renumbered
        self.follower = self._make_follower(ends, shown, announcer)
        self.lister.listed.append(self.follower.parting.listed)
        self.relisting = Relisting(ends, shown, self.fs, lister=self.lister, follower=self.follower)  # type: ignore[arg-type]
        self.relisting.publishable = self.publications.returned
        for inode in self.local.journal.drafts.draft_inodes():
            self.publications.closed(inode)

    @staticmethod
    def _make_follower(ends: Ends, shown: Shown, announcer: Announcer) -> Follower:
        return Follower(ends, shown, announcer)

    async def _first_session(self) -> None:
        request = messages.SessionRequest(epoch=self.local.journal.epoch, last_nonce=b"", next_nonce=self.random(16))
        reply = await self.remote.session(request)
        found = reply.workspaces[0]
        self._info = (found.workspace, found.root)

    async def begin(self) -> None:
        await self.session.open()

    def close(self) -> None:
        self.local.close()

    async def restart(self, *, keeps_cache: bool) -> None:
        """Die, as by `kill -9`, and be mounted again, perhaps without what only caches."""
        copy = self.place.with_name(f"{self.place.name} as it was")
        shutil.copytree(self.place, copy)
        self.close()
        shutil.rmtree(self.place)
        copy.rename(self.place)
        if not keeps_cache:
            shutil.rmtree(self.place / "cache")
        self.line.waiting.clear()
        await self.open()
        if not self.line.is_down:
            await self.begin()

    def check(self) -> None:
        """The local check finds nothing once the state is closed."""
        assert check(self.place / "state", self.place / "cache") == []

    async def aclose(self) -> None:
        await self._client.aclose()

    # -- synchronising -----------------------------------------------------------------------------------------------

    async def publish(self) -> None:
        """Have all content that waits stored as blocks, and its stores in the journal."""
        drafts = list(self.local.journal.drafts.draft_inodes())
        named = [i for i in drafts if (s := self._state(i)) is not None and s.nlink]
        self.publications.forced(named)
        failures: list[Any] = []
        async with trio.open_nursery() as nursery:
            await self.publisher.publish_due(nursery, failures.append)
        if failures:
            raise failures[0]

    def _state(self, inode: InodeId) -> InodeState | None:
        return self.local.journal.overlay.inode(inode) or self.local.replica.inode(inode)

    async def push(self) -> bool:
        """Send what is there until nothing more can go; True if anything was sent."""
        await self.publish()
        is_sent = False
        try:
            while await self._commit():
                is_sent = True
                while self._resends:
                    store, result = self._resends.pop(0)
                    if await self.publisher.resend(store, result):
                        self.committer.resent(store.n)
                    else:
                        self.committer.lacks(store)
                await self.publish()
        except Refused as refused:
            if refused.code is not Code.DIVERGED:
                raise
            self.refused_count += 1
        return is_sent

    async def _commit(self) -> bool:
        try:
            return await self.committer.commit_next(self.session.epoch) is not None
        except OutOfIds:
            await self.session.refill_ids()
            return True

    async def pull(self) -> bool:
        """Hear of what happened until there is nothing new; True if there was anything."""
        is_new = False
        while (polled := await self.follower.poll(0.0)).has_moved:
            is_new = True
            if polled.lost is not None:
                await self.begin_again(polled.lost)
        await self.follower.let_go()
        return is_new

    async def begin_again(self, page: messages.FeedPage) -> None:
        """The history is another one: as the engine does it."""
        self.begun_again.append(page)
        await self.relisting.begin(page)
        self.session.has_void_ids = page.status is messages.FeedStatus.DIVERGED
        self._resends.clear()
        self.committer.begin_again()
        await self.session.open()
        await self.relisting.run()

    def forget(self) -> None:
        """The kernel knows nothing any more of what has no name and is not open."""
        for inode in list(self.fs._contents._leaving):
            self.fs.contents.forgotten(inode)

    def _renumbered(self, fresh: dict[InodeId, InodeId]) -> None:
        self.fs.renumbered(fresh)
        self.publications.renumber(fresh)

    @property
    def is_clean(self) -> bool:
        return pending(self.local.journal)[0] == 0

    async def sync(self) -> None:
        """Send and hear until nothing is left to do."""
        for _ in range(MOST_ROUNDS):
            self.forget()
            is_sent, is_new = await self.push(), await self.pull()
            if not is_sent and not is_new and self.is_clean:
                return
            if not is_sent and not is_new and self.committer.has_deferred():
                await trio.sleep(DEFER_SECONDS[Status.BLOCKED])
        rows = self.local.journal.unsettled(20) + self.local.journal.failed(20)
        raise AssertionError(f"{self.name} never comes to rest: {rows}")

    # -- what programs do --------------------------------------------------------------------------------------------

    async def find(self, path: str) -> InodeState | None:
        """What a path leads to."""
        state = self.fs.inode(self.root)
        for name in filter(None, path.encode().split(b"/")):
            found = await self.fs.lookup(state.inode, name)
            if found is None:
                return None
            state = found
        return state

    async def known(self, path: str) -> InodeState:
        found = await self.find(path)
        assert found is not None, f"{self.name} has no {path}: {await self.tree()}"
        return found

    async def _split(self, path: str) -> tuple[InodeId, bytes]:
        parent, _, name = path.rpartition("/")
        return (await self.known(parent)).inode, name.encode()

    async def write(self, path: str, content: bytes) -> None:
        """Make a file, or write it anew in place."""
        number = await self.open_file(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        self.fs.write(number, 0, content)
        self.fs.release(number)

    async def edit(self, path: str, content: bytes) -> None:
        """Write over the beginning of a file."""
        number = await self.open_file(path, os.O_WRONLY)
        self.fs.write(number, 0, content)
        self.fs.release(number)

    async def open_file(self, path: str, flags: int) -> int:
        existing = await self.find(path)
        if existing is not None:
            return self.fs.open(existing.inode, flags & ~os.O_CREAT, ME)
        parent, name = await self._split(path)
        new = NewInode(parent=parent, name=name, kind=InodeKind.FILE, mode=0o644)
        return (await self.fs.create_file(new, flags, ME))[1]

    async def save(self, path: str, content: bytes, temporary: str = "") -> None:
        """Save as most editors do: a temporary file, renamed over the old one."""
        other = temporary or f"{path}.tmp-{self.name}"
        await self.write(other, content)
        await self.rename(other, path)

    async def mkdir(self, path: str) -> None:
        parent, name = await self._split(path)
        await self.fs.create(NewInode(parent=parent, name=name, kind=InodeKind.DIRECTORY, mode=0o755), ME)

    async def symlink(self, target: bytes, path: str) -> None:
        parent, name = await self._split(path)
        new = NewInode(parent=parent, name=name, kind=InodeKind.SYMLINK, mode=0o777, target=target)
        await self.fs.create(new, ME)

    async def link(self, old: str, new: str) -> None:
        await self.fs.link((await self.known(old)).inode, *await self._split(new))

    async def unlink(self, path: str) -> None:
        await self.fs.unlink(*await self._split(path))

    async def rmdir(self, path: str) -> None:
        await self.fs.rmdir(*await self._split(path))

    async def remove_tree(self, path: str) -> None:
        for name, state in await self.entries((await self.known(path)).inode):
            below = f"{path}/{name.decode()}"
            await (self.remove_tree(below) if state.kind is InodeKind.DIRECTORY else self.unlink(below))
        await self.rmdir(path)

    async def rename(self, old: str, new: str) -> None:
        await self.fs.rename(await self._split(old), await self._split(new), replace=True)

    async def exchange(self, first: str, second: str) -> None:
        await self.fs.exchange(await self._split(first), await self._split(second))

    async def read(self, path: str) -> bytes:
        return await self.content((await self.known(path)).inode)

    async def content(self, inode: InodeId) -> bytes:
        number = self.fs.open(inode, os.O_RDONLY, ME)
        try:
            return bytes(await self.fs.read(number, 0, 2**30))
        finally:
            self.fs.release(number)

    async def entries(self, directory: InodeId) -> list[tuple[bytes, InodeState]]:
        number = self.fs.open_directory(directory)
        try:
            found = await self.fs.read_directory(number, 0)
            return [(name, state) for name, state, _ in found if name not in (b".", b"..")]
        finally:
            self.fs.release_directory(number)

    async def tree(self) -> dict[str, object]:
        """All paths: content of files, targets of links, None for directories, each of which has one name."""
        found: dict[str, object] = {}
        await self._walk(self.root, "", found, {})
        return found

    async def _walk(self, directory: InodeId, prefix: str, found: dict[str, object], paths: dict[InodeId, str]) -> None:
        for name, state in await self.entries(directory):
            path = prefix + name.decode(errors="surrogateescape")
            if state.kind is InodeKind.DIRECTORY:
                found[path] = None
                assert state.inode not in paths, f"a directory is twice there: {paths[state.inode]}, {path}"
                paths[state.inode] = path
                await self._walk(state.inode, path + "/", found, paths)
            else:
                found[path] = await self.content(state.inode) if state.kind is InodeKind.FILE else state.target

    async def mark(self, path: str) -> ConflictMark | None:
        value = (await self.known(path)).xattrs.get(CONFLICT_XATTR)
        return None if value is None else decode_mark(value)


@dataclass
class Fleet:
    """Devices and their server."""

    served: Served
    place: Path
    devices: list[Device] = field(default_factory=list)

    async def add(self, name: str) -> Device:
        reply = await self.served.post(
            routes.LOGIN, messages.LoginRequest(user=USER, password=PASSWORD, device=name), token=""
        )
        token = wire.decode(reply.reply, messages.LoginReply).token
        device = Device(name, self.place / name, token, self.served.asgi)
        device.place.mkdir()
        await device.open()
        await device.begin()
        self.devices.append(device)
        return device

    def save(self) -> Path:
        """The data of the server as it is now, to be put back."""
        copy = self.place / f"saved-{len(list(self.place.iterdir()))}"
        self.served.ground.database.close()
        shutil.copytree(self.served.data, copy)
        return copy

    async def put_back(self, saved: Path, *, is_noticed: bool = False) -> None:
        """Let the server have that data again: as if it had never had any other, or as a new incarnation."""
        database = self.served.ground.database
        database.close()
        shutil.rmtree(self.served.data)
        shutil.copytree(saved, self.served.data)
        if is_noticed:
            random = Random()
            random.drawn = 10**6 + len(list(self.place.iterdir()))
            await database.write(lambda connection: ids.renew_incarnation(connection, random_bytes=random) and None)

    async def settle(self) -> dict[str, object]:
        """Let all devices send and hear until each has nothing to do; gives the one tree that they all show."""
        for _ in range(MOST_ROUNDS):
            for device in self.devices:
                await device.sync()
            if not any([await device.pull() for device in self.devices]):
                break
        trees = [await device.tree() for device in self.devices]
        for device, tree in zip(self.devices, trees, strict=True):
            different = {
                p: (trees[0].get(p, "-"), tree.get(p, "-"))
                for p in tree.keys() | trees[0].keys()
                if trees[0].get(p, 0) != tree.get(p, 0)
            }
            assert not different, f"{device.name} differs: {different}"
            # Whoever waits for what was written would wait for ever, and what is written next would never be sent.
            await device.publish()
            assert not device.publications.on_their_way, f"{device.name} has nothing left, and awaits it"
        return trees[0]


@asynccontextmanager
async def sailing(place: Path, *names: str) -> AsyncIterator[tuple[Fleet, list[Device]]]:
    """A server and devices that have met once; at the end each state passes the local check."""
    (place / "server").mkdir()
    async with serving(place / "server", LIMITS, at_once) as served:
        fleet = Fleet(served, place)
        try:
            for name in names:
                await fleet.add(name)
            yield fleet, fleet.devices
        finally:
            for device in fleet.devices:
                device.close()
                await device.aclose()
    for device in fleet.devices:
        device.check()


@contextmanager
def refused(*kinds: type[FileSystemError]) -> Iterator[None]:
    """What may be refused here since another device was first."""
    try:
        yield
    except (*kinds, Offline):
        pass
