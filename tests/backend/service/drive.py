"""A drive on a real SQLite file, and the devices that work on it: what the tests of the tree's services share.

Owns no rules: it makes mutations, sends them, and puts rows of blocks where an upload would have put them.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, cast

import anyio
from blake3 import blake3
from sqlalchemy import Connection, event, insert, select, update

from backend.blockstore.store import ObjectStore
from backend.metadata import schema
from backend.metadata.schema import BlockState, CopyState
from backend.metadata.sqlite import Database
from backend.notify.hub import InProcessHub
from backend.service import workspaces
from backend.service.caller import Caller
from backend.service.changes import Changes
from backend.service.commits import Commits
from backend.service.ground import Ground, Limits
from backend.service.listing import Listing
from backend.service.revisions import Revisions
from backend.service.sessions import Sessions
from backend.service.snapshots import Snapshots
from backend.service.trash import Trash
from backend.service.workspaces import Home
from drivefs.protocol import messages
from drivefs.protocol.changes import (
    Base,
    Create,
    Exchange,
    Link,
    Mutation,
    OpResult,
    Rename,
    Restore,
    SetAttributes,
    SetXattr,
    Store,
    Unlink,
)
from drivefs.protocol.ids import (
    NO_INODE,
    BlockId,
    DeviceId,
    Epoch,
    InodeId,
    OpNumber,
    RevisionNumber,
    Seq,
    UserId,
    WorkspaceId,
)
from drivefs.protocol.model import BlockRef, InodeKind, InodeState, cut_runs, run_id

SECOND = 10**9
NO_EPOCH = Epoch(0)
FILE, DIRECTORY = InodeKind.FILE, InodeKind.DIRECTORY
LIMITS = Limits(quota_bytes=100_000, file_bytes=50_000)


async def offload(work: Callable[..., Any], /, *args: Any) -> Any:
    return await anyio.to_thread.run_sync(work, *args)


class Clock:
    """Moves only when told."""

    def __init__(self) -> None:
        self.ns = 1_000 * SECOND

    def __call__(self) -> int:
        return self.ns


class Random:
    """Bytes that never repeat and are the same in each run."""

    def __init__(self) -> None:
        self.drawn = 0

    def __call__(self, count: int) -> bytes:
        self.drawn += 1
        return blake3(self.drawn.to_bytes(8, "big")).digest(length=count)


EMPTY_DATABASES: list[Path] = []
"""One database with all tables, made when first asked for, since making tables durably takes its time."""


async def empty_database() -> Path:
    if not EMPTY_DATABASES:
        path = Path(mkdtemp(prefix="drivefs-tests-")) / "empty.db"
        (await Database.open(path, offload)).close()
        EMPTY_DATABASES.append(path)
    return EMPTY_DATABASES[0]


@dataclass
class Drive:
    """One user's drive and the services on it."""

    ground: Ground
    home: Home
    user: UserId
    clock: Clock
    commits: Commits
    listing: Listing
    changes: Changes
    sessions: Sessions
    revisions: Revisions
    trash: Trash
    snapshots: Snapshots
    device_count: int = 0

    @property
    def database(self) -> Database:
        return self.ground.database

    @property
    def root(self) -> InodeId:
        return self.home.root

    @property
    def workspace(self) -> WorkspaceId:
        return self.home.workspace

    async def device(self) -> "Device":
        """Log one more device in and begin its session."""
        return await self._log_in(self.user, self.device_count + 1)

    async def stranger(self) -> "Device":
        """A device of another user, who is no member here."""
        row = {"user": 8, "name": "somebody else", "password_hash": "", "created_ns": 0}
        await self.execute(insert(schema.users).values(row))
        return await self._log_in(UserId(8), self.device_count + 1)

    async def _log_in(self, user: UserId, number: int) -> "Device":
        self.device_count = number
        device = DeviceId(100 + number)
        row = {"device": device, "user": user, "name": f"device {number}", "token_hash": b"%d" % device}
        await self.execute(insert(schema.devices).values(**row, created_ns=0))
        made = Device(self, Caller(self.home.account, user, device))
        await made.begin()
        return made

    async def fetch(self, statement: Any) -> list[Any]:
        return await self.database.read(lambda connection: list(connection.execute(statement)))

    async def execute(self, statement: Any) -> None:
        await self.database.write(lambda connection: connection.execute(statement) and None)

    async def upload(self, device: "Device", *contents: bytes) -> list[BlockRef]:
        """Make blocks stored and pinned for a device, as an upload leaves them."""
        return await self.database.write(insert_blocks, device.caller, [BlockRef(*each) for each in refs(contents)])

    async def account(self) -> Any:
        return (await self.fetch(select(schema.accounts)))[0]


def refs(contents: Iterable[bytes]) -> list[BlockRef]:
    return [BlockRef(BlockId(blake3(each).digest()), len(each)) for each in contents]


def insert_blocks(connection: Connection, caller: Caller, blocks: list[BlockRef]) -> list[BlockRef]:
    b, p, account = schema.blocks, schema.pins, caller.account
    for block, size in dict.fromkeys(blocks):
        known = connection.execute(select(b.c.refs).where(b.c.block == block)).scalar_one_or_none()
        pinned = connection.execute(select(p.c.device).where(p.c.block == block)).scalars().all()
        if known is None:
            sizes = {"size_bytes": size, "payload_bytes": size, "refs": 0, "verified": True}
            row = {"account": account, "block": block, "state": BlockState.STORED, "generation": 1, **sizes}
            connection.execute(insert(b), row)
            place = {"store": 1, "key": 1, "object": "o", "offset": 0, "length": size, "state": CopyState.STORED}
            connection.execute(
                insert(schema.block_copies), {"account": account, "block": block, "generation": 1, **place}
            )
        if not known and not pinned:
            a = schema.accounts
            connection.execute(update(a).where(a.c.account == account).values(pinned_bytes=a.c.pinned_bytes + size))
        if caller.device not in pinned:
            row = {"account": account, "block": block, "device": caller.device, "expires_ns": 2**62, "proven": True}
            connection.execute(insert(p), row)
    return blocks


@dataclass
class Device:
    """Makes mutations with numbers and ids of its own, and sends them."""

    drive: Drive
    caller: Caller
    epoch: Epoch = NO_EPOCH
    nonce: bytes = b""
    n: int = 0
    next_inode: int = 0
    watermark: int = 1
    time_ns: int = 5_000 * SECOND
    sent: list[Mutation] = field(default_factory=list)

    async def begin(self) -> messages.SessionReply:
        """Begin a session, as a mount does."""
        following = blake3(self.nonce + b"%d" % self.caller.device).digest()
        request = messages.SessionRequest(epoch=self.epoch, last_nonce=self.nonce, next_nonce=following)
        reply = await self.drive.sessions.begin(self.caller, request)
        self.nonce = following
        if reply.epoch != self.epoch:
            self.epoch = reply.epoch
            ranges = await self.drive.sessions.id_ranges(self.caller, messages.IdRangesRequest(epoch=self.epoch))
            self.next_inode = ranges.starts[0]
        return reply

    async def send(self, *mutations: Mutation) -> list[OpResult]:
        """Send a batch; gives the results."""
        return (await self.commit(*mutations)).results

    async def commit(self, *mutations: Mutation) -> messages.CommitReply:
        request = messages.CommitRequest(
            epoch=self.epoch, watermark=OpNumber(self.watermark), mutations=list(mutations)
        )
        return await self.drive.commits.commit(self.caller, self.drive.workspace, request)

    async def say(self, mutation: Mutation) -> str:
        """Send one mutation; gives `status` or `status reason`."""
        return say((await self.send(mutation))[0])

    def new_inode(self) -> InodeId:
        self.next_inode += 1
        return InodeId(self.next_inode)

    def _op(self, after: Iterable[Mutation] = ()) -> dict[str, Any]:
        self.n += 1
        self.time_ns += SECOND
        return {"n": OpNumber(self.n), "after": [each.n for each in after], "time_ns": self.time_ns}

    def create(
        self,
        name: bytes,
        parent: InodeId = NO_INODE,
        kind: InodeKind = FILE,
        after: Iterable[Mutation] = (),
        **more: Any,
    ) -> Create:
        given = {"inode": self.new_inode(), "parent": parent or self.drive.root, "mode": 0o644, **more}
        return Create(**self._op(after), name=name, kind=kind, **cast(Any, given))

    def directory(self, name: bytes, parent: InodeId = NO_INODE, **more: Any) -> Create:
        return self.create(name, parent, DIRECTORY, **more)

    def link(self, inode: InodeId, name: bytes, parent: InodeId = NO_INODE) -> Link:
        return Link(**self._op(), inode=inode, parent=parent or self.drive.root, name=name)

    def unlink(self, inode: InodeId, name: bytes, parent: InodeId = NO_INODE, base: Base | int = 0) -> Unlink:
        return Unlink(**self._op(), inode=inode, parent=parent or self.drive.root, name=name, base=as_base(base))

    def rename(
        self,
        inode: InodeId,
        name: bytes,
        new_name: bytes,
        replaced: InodeId = NO_INODE,
        base: Base | int = 0,
        **more: Any,
    ) -> Rename:
        places = {"parent": self.drive.root, "new_parent": self.drive.root, **more}
        names = {"name": name, "new_name": new_name, "replaced": replaced, "base": as_base(base)}
        return Rename(**self._op(), inode=inode, **names, **cast(Any, places))

    def exchange(self, inode: InodeId, name: bytes, other: InodeId, other_name: bytes, **more: Any) -> Exchange:
        places = {"parent": self.drive.root, "other_parent": self.drive.root, **more}
        return Exchange(**self._op(), inode=inode, name=name, other=other, other_name=other_name, **cast(Any, places))

    def set_attributes(self, inode: InodeId, **values: Any) -> SetAttributes:
        return SetAttributes(**self._op(), inode=inode, **values)

    def set_xattr(self, inode: InodeId, name: bytes, value: bytes | None) -> SetXattr:
        return SetXattr(**self._op(), inode=inode, name=name, value=value)

    def restore(self, inode: InodeId, name: bytes, parent: InodeId = NO_INODE, **more: bool) -> Restore:
        return Restore(**self._op(), inode=inode, parent=parent or self.drive.root, name=name, **more)

    def store(
        self, inode: InodeId, blocks: list[BlockRef], base: Base | int = 0, after: Iterable[Mutation] = (), **more: Any
    ) -> Store:
        """A store that brings all its runs, unless told otherwise."""
        packed = list(cut_runs(blocks))
        content = {"runs": [run_id(each) for each in packed], "new_runs": packed, "size": sum(s for _, s in blocks)}
        op = self._op(after)
        given = {**content, "mtime_ns": self.time_ns, **more}
        return Store(**op, inode=inode, base=as_base(base), **cast(Any, given))

    async def make(self, name: bytes, parent: InodeId = NO_INODE, kind: InodeKind = FILE) -> InodeId:
        """Create something, committed."""
        mutation = self.create(name, parent, kind)
        assert await self.say(mutation) == "ok"
        return mutation.inode

    async def write(self, inode: InodeId, *contents: bytes, base: Base | int = 0) -> RevisionNumber:
        """Upload and store new content, committed; gives its revision number."""
        blocks = await self.drive.upload(self, *contents)
        result = (await self.send(self.store(inode, blocks, base)))[0]
        assert say(result) == "ok"
        return result.revision

    async def save(self, name: bytes, *contents: bytes, parent: InodeId = NO_INODE) -> InodeId:
        """Create a file with content, committed."""
        inode = await self.make(name, parent)
        await self.write(inode, *contents)
        return inode

    async def state(self, inode: InodeId, as_of: int = 0) -> InodeState | None:
        request = messages.InodesRequest(inodes=[inode], as_of=Seq(as_of))
        reply = await self.drive.listing.inodes(self.caller, self.drive.workspace, request)
        return reply.inodes[0] if reply.inodes else None

    async def known(self, inode: InodeId, as_of: int = 0) -> InodeState:
        state = await self.state(inode, as_of)
        assert state is not None
        return state

    async def names(self, directory: InodeId = NO_INODE, as_of: int = 0) -> dict[bytes, InodeId]:
        request = messages.ListRequest(directory=directory or self.drive.root, as_of=Seq(as_of), limit=5000)
        reply = await self.drive.listing.list_directory(self.caller, self.drive.workspace, request)
        return {entry.name: entry.inode.inode for entry in reply.entries}

    async def content(self, inode: InodeId, revision: int, *, history: bool = False) -> messages.ContentReply:
        request = messages.ContentRequest(inode=inode, revision=RevisionNumber(revision), history=history)
        return await self.drive.listing.content(self.caller, self.drive.workspace, request)

    async def head(self) -> int:
        return cast(int, (await self.drive.fetch(select(schema.workspaces.c.head_seq)))[0][0])


def as_base(base: Base | int) -> Base:
    return base if isinstance(base, Base) else Base(revision=RevisionNumber(base))


def say(result: OpResult) -> str:
    return f"{result.status} {result.reason}".strip()


@contextmanager
def watching(drive: Drive, fault: Callable[[list[str]], None] = lambda _statements: None) -> Iterator[list[str]]:
    """The statements of writing transactions, as they come; `fault` may raise before the last of them is executed."""
    engine = drive.database._writer
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if not statement.startswith("BEGIN"):
            statements.append(statement)
            fault(statements)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)


async def open_drive(directory: Path, limits: Limits = LIMITS) -> Drive:
    """A new drive in a new database file."""
    path = directory / "metadata.db"
    shutil.copy(await empty_database(), path)
    return await reopen_drive(path, limits)


async def reopen_drive(path: Path, limits: Limits = LIMITS) -> Drive:
    """Services over a database file; what it holds already is found again."""
    database = await Database.open(path, offload)
    clock, random = Clock(), Random()
    store = cast(ObjectStore, None)
    ground = Ground(database, store, InProcessHub(), offload, clock, random, limits)
    user = UserId(7)
    home = await database.write(find_or_make_home, user, clock(), random)
    services = (Commits(ground), Listing(ground), Changes(ground), Sessions(ground), Revisions(ground), Trash(ground))
    return Drive(ground, home, user, clock, *services, Snapshots(ground))


def find_or_make_home(connection: Connection, user: UserId, now_ns: int, random: Random) -> Home:
    found = workspaces.visible(connection, user)
    if found:
        return Home(found[0].account, found[0].workspace, found[0].root)
    row = {"user": user, "name": "someone", "password_hash": "", "created_ns": now_ns}
    connection.execute(insert(schema.users), row)
    return workspaces.create_home(connection, user, now_ns=now_ns, random_bytes=random)
