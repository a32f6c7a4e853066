"""What the player is told to do, and what waits for it."""

import stat

from drivefs.fuse.replay_scenes import Waiting, concerns, orders
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.sync.announcer import Told
from drivefs.sync.events import Kind
from drivefs.sync.happenings import Happening
from drivefs.sync.places import Step

ROOT, TREE, X, Y = InodeId(1), InodeId(2), InodeId(10), InodeId(11)
WAY = (Step(ROOT, b"tree", TREE),)
FILE = InodeState(inode=X, kind=InodeKind.FILE, mode=0o644, size=3, mtime_ns=7)


def told(kind: Kind, name: bytes = b"a", source: bytes | None = None, replaced: InodeState | None = None) -> Told:
    happened = Happening(
        kind=kind,
        inode=X,
        name=(TREE, name),
        source=None if source is None else (TREE, source),
        replaced=InodeId(0) if replaced is None else replaced.inode,
    )
    return Told(happened, WAY, WAY if source else None, FILE, replaced)


def gone(inode: InodeId) -> InodeState | None:
    return None


def test_created_file_is_made_where_nothing_was() -> None:
    (order,) = orders(told(Kind.CREATED), gone)
    assert order.call == "create"
    assert order.arguments[:2] == (([b"tree"], TREE), b"a")
    assert stat.S_ISREG(order.arguments[2])
    assert order.scene.names[TREE, b"a"] is None
    assert order.scene.made == FILE


def test_removed_name_is_shown_once_more_with_a_link_that_is_counted_off() -> None:
    (order,) = orders(told(Kind.REMOVED), gone)
    shown = order.scene.names[TREE, b"a"]
    assert shown is not None
    assert shown.nlink == 1
    linked = InodeState(inode=X, kind=InodeKind.FILE, mode=0o644, nlink=2)
    (order,) = orders(told(Kind.REMOVED), {X: linked}.get)
    shown = order.scene.names[TREE, b"a"]
    assert shown is not None
    assert shown.nlink == 3


def test_directory_on_the_way_that_is_gone_by_now_is_shown() -> None:
    (order,) = orders(told(Kind.REMOVED), gone)
    shown = order.scene.names[ROOT, b"tree"]
    assert shown is not None
    assert shown.kind is InodeKind.DIRECTORY


def test_new_inode_in_the_place_of_another_is_removal_and_creation() -> None:
    old = InodeState(inode=Y, kind=InodeKind.FILE, mode=0o644)
    assert [order.call for order in orders(told(Kind.CHANGED, replaced=old), gone)] == ["remove", "create"]


def test_watchers_of_directories_and_of_files_are_concerned() -> None:
    old = InodeState(inode=Y, kind=InodeKind.FILE, mode=0o644)
    assert concerns(told(Kind.RENAMED, source=b"b", replaced=old)) == {TREE, X, Y}


def test_changes_of_a_file_that_waits_for_one_add_nothing() -> None:
    waiting = Waiting(10)
    waiting.add([told(Kind.CREATED), told(Kind.CHANGED), told(Kind.ATTRIBUTES)])
    assert [each.happened.kind for each in waiting.take(10)] == [Kind.CREATED]
    waiting.add([told(Kind.CHANGED), told(Kind.CHANGED)])
    assert len(waiting) == 1
    waiting.add([told(Kind.RENAMED, b"b", b"a"), told(Kind.CHANGED, b"b"), told(Kind.CHANGED, b"b")])
    assert [each.happened.kind for each in waiting.take(10)] == [Kind.CHANGED, Kind.RENAMED, Kind.CHANGED]


def test_change_after_one_that_was_taken_is_told() -> None:
    waiting = Waiting(10)
    waiting.add([told(Kind.CHANGED)])
    assert len(waiting.take(1)) == 1
    waiting.add([told(Kind.CHANGED)])
    assert len(waiting) == 1


def test_what_does_not_fit_is_remembered_by_its_directory() -> None:
    waiting = Waiting(2)
    waiting.add([told(Kind.RENAMED, b"%d" % number, b"z") for number in range(5)])
    assert len(waiting) == 2
    assert waiting.dropped == {TREE}
