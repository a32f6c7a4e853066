"""A device whose backend refuses changes for good, for the tests of what becomes of them."""

from collections.abc import Iterator
from pathlib import Path

import trio

from cache.check import check
from drivefs.fs.attributes import Wanted
from drivefs.protocol.changes import Mutation, Status, Store
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import InodeId, RevisionNumber
from drivefs.protocol.messages import ContentReply, ContentRequest
from drivefs.remote.errors import Refused
from drivefs.sync.giving_up import GivingUp
from drivefs.sync.publications import Publications
from tests.fs.bench import FsBench
from tests.sync.test_refusals import Remote
from tests.sync.test_refusals import World as Refusing


class Keeping(Remote):
    """Knows no revision but those in `kept`."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: set[tuple[InodeId, RevisionNumber]] = set()

    async def content(self, workspace: object, request: ContentRequest) -> ContentReply:
        await trio.lowlevel.checkpoint()
        if (request.inode, request.revision) not in self.kept:
            raise Refused(ProtocolError(Code.NOT_FOUND, "it is not kept any more"))
        return ContentReply(size=0, blocks=b"")


class World(Refusing):
    """A device whose backend refuses for good."""

    make_remote = Keeping
    remote_side: Keeping

    def __init__(self, bench: FsBench) -> None:
        super().__init__(bench)
        self.publications = Publications()
        self.restart()

    def restart(self) -> None:
        self.giving_up = GivingUp(
            self.ends, self.amends, self.shown, contents=self.bench.fs.contents, publications=self.publications
        )

    @property
    def lost(self) -> dict[str, bytes]:
        directory = self.bench.place / "state/lost+found"
        return {path.name: path.read_bytes() for path in directory.iterdir()} if directory.exists() else {}

    def reject(self, *mutations: Mutation, reason: str = "limit") -> None:
        self.hear(*((mutation, reason) for mutation in mutations), status=Status.REJECTED)

    def give_up(self) -> None:
        trio.run(self.giving_up.work, trio.Lock())

    def waiting(self, inode: InodeId) -> list[Mutation]:
        return [row.mutation for row in self.journal.touching(inode)]

    def write(self, inode: InodeId, offset: int, data: bytes) -> None:
        number = self.bench.open_file(inode)
        self.bench.fs.write(number, offset, data)
        self.bench.fs.release(number)

    def chmod(self, inode: InodeId, mode: int) -> None:
        self.bench.fs.set_attributes(inode, Wanted(mode=mode))

    def edited(self, name: bytes, before: bytes, offset: int, after: bytes) -> tuple[InodeId, Store]:
        """A file that the backend has, and the store of what was written over it here."""
        inode = self.published(name, before)
        self.learned(name, inode)
        self.write(inode, offset, after)
        snapshot = self.bench.freeze(inode)
        assert snapshot is not None
        assert self.bench.store(snapshot)
        (store,) = self.pending(Store, inode)
        assert isinstance(store, Store)
        return inode, store


def sound(place: Path) -> Iterator[World]:
    """A device in an empty directory, which is sound when it is closed."""
    bench = FsBench(place)
    yield World(bench)
    bench.local.close()
    assert check(place / "state", place / "cache") == []


def only(lost: dict[str, bytes]) -> tuple[str, bytes]:
    ((name, content),) = lost.items()
    return name, content
