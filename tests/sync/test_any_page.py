"""Whatever a server tells of a drive, it is shown as it says or not believed; nothing that it says ends the mount."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.check import check
from drivefs.fs.errors import errno_of
from drivefs.fuse.attributes import Translation
from drivefs.protocol import routes, wire
from drivefs.protocol.blocks import block_id
from drivefs.protocol.ids import Incarnation, InodeId, LineageId, RevisionNumber, Seq
from drivefs.protocol.messages import ChangesReply, Cursor, FeedPage, FeedStatus, Share
from drivefs.protocol.model import BlockRef, DentryState, InodeKind, InodeState, pack_blocks
from drivefs.protocol.names import is_valid_name
from drivefs.remote import errors
from drivefs.remote.client import Remote
from drivefs.sync.announcer import Announcer
from drivefs.sync.contents import Shown
from drivefs.sync.ends import Ends
from drivefs.sync.events import Events
from drivefs.sync.follower import Follower
from drivefs.sync.places import Places
from tests.fs.bench import OWNER, ROOT, WORKSPACE, FsBench
from tests.support.examples import examples
from tests.sync.test_follower import Kernel

T = TypeVar("T")

NUMBERS = st.sampled_from([-1, 0, 1, 2, 7, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)])
NAMES = st.sampled_from([b"a", b"", b".", b"..", b"a/b", b"/", b"\0", b"x" * 255, b"x" * 256, b"\xff\n", b".drivefs"])
CONTENT = b"nine byte"
BLOCK = BlockRef(block_id(CONTENT), len(CONTENT))
BLOCKS = st.sampled_from([None, b"", b"x", b"x" * 35, pack_blocks([BLOCK]), pack_blocks([BLOCK] * 2), b"\xff" * 72])
ODD: dict[str, st.SearchStrategy[Any]] = {
    "kind": st.sampled_from(InodeKind),
    "blocks": BLOCKS,
    "target": NAMES,
    "name": NAMES,
    "xattrs": st.dictionaries(NAMES, NAMES, max_size=2),
}
FIELDS = [field for kind in (InodeState, DentryState) for field in kind.__struct_fields__]
MADE = [*range(5, 9), ROOT]


def state(inode: int, kind: InodeKind) -> InodeState:
    is_file = kind is InodeKind.FILE
    return InodeState(
        inode=InodeId(inode),
        kind=kind,
        mode=0o644,
        nlink=1 if is_file else 2,
        size=BLOCK.size_bytes if is_file else 0,
        revision=RevisionNumber(1 if is_file else 0),
        lineage=LineageId(inode if is_file else 0),
        blocks=pack_blocks([BLOCK]) if is_file else b"",
        target=b"a" if kind is InodeKind.SYMLINK else b"",
        seq=Seq(9),
    )


@st.composite
def pages(draw: st.DrawFn) -> FeedPage:
    """A page as a server could send it, with a few values in it that it could not."""
    kinds = (InodeKind.FILE, InodeKind.DIRECTORY, InodeKind.SYMLINK)
    inodes = [state(inode, draw(st.sampled_from(kinds))) for inode in MADE[:-1]] + [state(ROOT, InodeKind.DIRECTORY)]
    dentries = [DentryState(ROOT, b"%d" % inode, InodeId(inode), Seq(9)) for inode in MADE[:-1]]
    page = FeedPage(
        workspace=WORKSPACE,
        status=FeedStatus.CHANGES,
        cursor=Cursor(incarnation=Incarnation(1), seq=Seq(9)),
        since=Seq(1),
        inodes=inodes,
        dentries=dentries,
    )
    for _ in range(draw(st.integers(0, 3))):
        field = draw(st.sampled_from(FIELDS))
        changed = draw(st.sampled_from([each for each in (*inodes, *dentries) if field in each.__struct_fields__]))
        setattr(changed, field, draw(ODD.get(field, NUMBERS)))
    page.made = draw(st.lists(st.sampled_from(MADE) | NUMBERS, max_size=1))  # type: ignore[arg-type]
    if draw(st.booleans()):
        numbers = st.sampled_from(MADE) | NUMBERS
        page.shares = draw(st.lists(st.builds(Share, workspace=numbers, root=numbers, role=st.just("x")), max_size=1))
    return page


class Known(dict[Any, Any]):
    """What the server can be asked for; it does not answer when asked for anything else."""

    def __missing__(self, key: object) -> None:
        raise errors.Offline("nothing is known of that")


class World:
    """A device whose server answers each poll with the same page."""

    def __init__(self, place: Path, page: FeedPage) -> None:
        self.bench = FsBench(place)
        self.bench.local.replica.set_cursor(WORKSPACE, Cursor(incarnation=Incarnation(1), seq=Seq(1)))
        backend = self.bench.backend
        backend.blocks, backend.contents, backend.listings = Known({BLOCK.block: CONTENT}), Known(), Known()
        reply = wire.encode(ChangesReply(pages=[page]))
        answer = httpx.MockTransport(
            lambda request: httpx.Response(
                200, headers={"content-type": routes.MSGPACK}, stream=httpx.ByteStream(reply)
            )
        )
        self.client = httpx.AsyncClient(transport=answer)
        remote = Remote("http://127.0.0.1:1", "token", client=self.client, jitter=lambda: 0.5)
        announcer = Announcer(Events(), Places(self.bench.local, ROOT))
        ends = Ends(self.bench.local, remote, WORKSPACE, bytes)
        self.follower = Follower(ends, Shown(self.bench.fs, Kernel()), announcer)

    async def poll(self) -> bool:
        """Whether the page was believed."""
        async with self.client:
            try:
                return (await self.follower.poll(0)).has_moved
            except errors.NotDrivefs:
                return False

    def use(self) -> None:
        """Look at all that is shown, as programs do: each call is answered, or fails as calls of programs may."""
        translation = Translation(ROOT, OWNER)
        for name in answered(self.bench.names) or ():
            assert is_valid_name(name)
            shown = answered(self.bench.lookup, name)
            if shown is not None and shown.inode != ROOT:
                translation.attributes(shown)
                answered(self.bench.read if shown.kind is InodeKind.FILE else self.bench.names, shown.inode)


def answered(call: Callable[..., T], *args: Any) -> T | None:
    try:
        return call(*args)
    except Exception as error:
        if errno_of(error) is None:
            raise
        return None


@pytest.mark.fault(34)
@given(pages())
@settings(max_examples=examples(25))
def test_whatever_a_server_tells_is_shown_or_not_believed(page: FeedPage) -> None:
    with tempfile.TemporaryDirectory() as place:
        world = World(Path(place), page)
        try:
            if trio.run(world.poll):
                world.use()
        finally:
            world.bench.close()
        # What contradicts itself shows in the replica, which can be fetched again, and nowhere else.
        found = check(Path(place, "state"), Path(place, "cache"))
        assert [each for each in found if "the replica holds what the server has" not in each.meaning] == []
