"""Differences of trees are told as what a program would have done."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivefs.protocol.ids import NO_INODE, InodeId, RevisionNumber
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.sync.events import Kind
from drivefs.sync.happenings import Happening, NameChange, in_order, of_names, of_state

ROOT, OTHER = InodeId(1), InodeId(2)
X, Y = InodeId(10), InodeId(11)


def change(name: bytes, before: int, after: int, parent: InodeId = ROOT) -> NameChange:
    return NameChange(parent, name, InodeId(before), InodeId(after))


def test_inode_that_lost_a_name_and_got_another_was_renamed() -> None:
    told = of_names([change(b"a", X, 0), change(b"b", 0, X, OTHER)])
    assert told == [Happening(kind=Kind.RENAMED, inode=X, name=(OTHER, b"b"), source=(ROOT, b"a"))]


def test_rename_over_a_file_says_what_it_replaced() -> None:
    told = of_names([change(b"a", X, 0), change(b"b", Y, X)])
    assert told == [Happening(kind=Kind.RENAMED, inode=X, name=(ROOT, b"b"), source=(ROOT, b"a"), replaced=Y)]


def test_exchange_is_two_renames_that_replace_nothing() -> None:
    told = of_names([change(b"a", X, Y), change(b"b", Y, X)])
    assert [(each.kind, each.inode, each.replaced) for each in told] == [
        (Kind.RENAMED, Y, NO_INODE),
        (Kind.RENAMED, X, NO_INODE),
    ]


def test_new_inode_in_the_place_of_another_is_a_change_of_the_name() -> None:
    assert of_names([change(b"a", X, Y)]) == [
        Happening(kind=Kind.CHANGED, inode=Y, name=(ROOT, b"a"), replaced=X),
    ]


def test_save_by_rename_aside_is_a_rename_and_a_creation() -> None:
    told = of_names([change(b"a", X, Y), change(b"a~", 0, X)])
    assert told == [
        Happening(kind=Kind.RENAMED, inode=X, name=(ROOT, b"a~"), source=(ROOT, b"a")),
        Happening(kind=Kind.CREATED, inode=Y, name=(ROOT, b"a")),
    ]


def test_of_two_names_that_were_lost_the_one_in_the_same_directory_was_renamed() -> None:
    told = of_names([change(b"far", X, 0, OTHER), change(b"near", X, 0), change(b"new", 0, X)])
    assert told == [
        Happening(kind=Kind.REMOVED, inode=X, name=(OTHER, b"far")),
        Happening(kind=Kind.RENAMED, inode=X, name=(ROOT, b"new"), source=(ROOT, b"near")),
    ]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=8))
def test_every_name_is_spoken_of_once(inodes: list[tuple[int, int]]) -> None:
    changes = [change(b"%d" % index, *pair) for index, pair in enumerate(inodes) if pair[0] != pair[1]]
    told = of_names(changes)
    taken = [each.name for each in told if each.kind is not Kind.REMOVED]
    freed = [each.name for each in told if each.kind is Kind.REMOVED]
    sources = [each.source for each in told if each.source]
    assert sorted(taken) == sorted((each.parent, each.name) for each in changes if each.after)
    assert len(set(sources)) == len(sources)
    gone = {(each.parent, each.name) for each in changes if not each.after}
    assert gone == {*freed, *sources} - set(taken)


def test_content_of_a_directory_goes_before_it_and_comes_after_it() -> None:
    depths = {ROOT: 0, OTHER: 1}
    told = [
        Happening(kind=Kind.REMOVED, inode=X, name=(ROOT, b"tree")),
        Happening(kind=Kind.REMOVED, inode=Y, name=(OTHER, b"leaf")),
        Happening(kind=Kind.CREATED, inode=Y, name=(OTHER, b"leaf")),
        Happening(kind=Kind.CREATED, inode=X, name=(ROOT, b"tree")),
    ]
    ordered = [(each.kind, each.name) for each in in_order(told, depths)]
    assert ordered == [
        (Kind.REMOVED, (OTHER, b"leaf")),
        (Kind.REMOVED, (ROOT, b"tree")),
        (Kind.CREATED, (ROOT, b"tree")),
        (Kind.CREATED, (OTHER, b"leaf")),
    ]


FILE = InodeState(inode=X, kind=InodeKind.FILE, mode=0o644, size=3, revision=RevisionNumber(2), blocks=b"x" * 36)
DIRECTORY = InodeState(inode=X, kind=InodeKind.DIRECTORY, mode=0o755, nlink=2)


@pytest.mark.parametrize(
    ("before", "changed", "kind"),
    [
        (FILE, {"size": 4}, Kind.CHANGED),
        (FILE, {"revision": RevisionNumber(3), "blocks": b"y" * 36}, Kind.CHANGED),
        (FILE, {"revision": RevisionNumber(3), "mtime_ns": 5}, Kind.CHANGED),
        (FILE, {"revision": RevisionNumber(3)}, None),
        (FILE, {"mode": 0o600}, Kind.ATTRIBUTES),
        (FILE, {"mtime_ns": 5}, Kind.ATTRIBUTES),
        (FILE, {"xattrs": {b"user.a": b""}}, Kind.ATTRIBUTES),
        (FILE, {"nlink": 2, "ctime_ns": 5}, None),
        (DIRECTORY, {"mtime_ns": 5, "ctime_ns": 5, "nlink": 3}, None),
        (DIRECTORY, {"mode": 0o700}, Kind.ATTRIBUTES),
    ],
)
def test_what_happened_to_an_inode(before: InodeState, changed: dict[str, object], kind: Kind | None) -> None:
    assert of_state(before, msgspec.structs.replace(before, **changed)) is kind
