"""The conflict table, row by row: each in both orders, alone, and in one batch with other changes of the same devices.

Owns the table of what becomes of each pair of changes. Each row is a pair in a directory of its own, and there are as
many of those as there are ways to combine it: one of the devices renames the directory meanwhile, writes over another
file in it or saves that by renaming, before the change of the row or behind it, while the other does nothing more or
another of these. All of it meets at once, so refusals, renames and saves stand in one batch; what becomes of the pair,
and of what it is combined with, has to be the same as alone.

| pair (first / later) | here | in more detail |
| --- | --- | --- |
| edit / edit, different content | `edits…` | `test_conflicts::test_edit_against_edit…` (marks, and the base) |
| replace by rename / edit, either order | `replaced…` | `test_conflicts::test_save_in_several_steps…` |
| the same, or create / create, identical | `same…` | `test_conflicts::test_same_…`, `test_who_waits_for_a_file…` |
| edit / delete, delete / edit | `deleted…` | `test_conflicts::test_edit_survives…` |
| rename / rename | `renamed…` | `test_conflicts::test_first_rename_wins` |
| create / create, move / move to one name | `made…`, `moved…` | `test_conflicts::test_two_…` |
| move making a cycle | `cycle` | `test_conflicts::test_moves_into_each_other…` |
| directory removed / child created in it | `removed directory…` | `test_conflicts::test_directory_…` |
| attributes / attributes | `attributes…` | `test_resolver::TestAttributes` |

The resolver alone: `test_resolver`; on mounts: `tests/mount/test_conflicts_met.py`; at random: `test_convergence`.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from drivefs.fs.attributes import Wanted
from drivefs.protocol.model import InodeKind
from tests.sync.fleet import Device, sailing

pytestmark = pytest.mark.anyio

Change = Callable[[Device, str], Awaitable[object]]
"""A change on a device, to what is in a directory."""
Tree = dict[str, object]
COPY = " (copy)"
"""Stands for the label of the later device's conflict copy."""


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


def in_place(content: bytes, name: str = "a") -> Change:
    return lambda device, at: device.edit(f"{at}/{name}", content)


def anew(content: bytes, name: str = "a") -> Change:
    return lambda device, at: device.write(f"{at}/{name}", content)


def by_rename(content: bytes, name: str = "a") -> Change:
    return lambda device, at: device.save(f"{at}/{name}", content)


def by_exchange(content: bytes) -> Change:
    async def make(device: Device, at: str) -> None:
        await device.write(f"{at}/new", content)
        await device.exchange(f"{at}/new", f"{at}/a")
        await device.unlink(f"{at}/new")

    return make


def with_backup(content: bytes) -> Change:
    async def make(device: Device, at: str) -> None:
        await device.rename(f"{at}/a", f"{at}/a~")
        await device.write(f"{at}/a", content)
        await device.unlink(f"{at}/a~")

    return make


def move(old: str, new: str) -> Change:
    return lambda device, at: device.rename(f"{at}/{old}", f"{at}/{new}")


def link(old: str, new: str) -> Change:
    return lambda device, at: device.link(f"{at}/{old}", f"{at}/{new}")


def delete(name: str = "a") -> Change:
    return lambda device, at: device.unlink(f"{at}/{name}")


def mkdir(name: str) -> Change:
    return lambda device, at: device.mkdir(f"{at}/{name}")


def remove_tree(name: str) -> Change:
    return lambda device, at: device.remove_tree(f"{at}/{name}")


def attributes(**wanted: int) -> Change:
    async def make(device: Device, at: str) -> None:
        device.fs.set_attributes((await device.known(f"{at}/a")).inode, Wanted(**wanted))

    return make


def xattr(name: bytes, value: bytes) -> Change:
    async def make(device: Device, at: str) -> None:
        device.fs.set_xattr((await device.known(f"{at}/a")).inode, name, value)

    return make


def steps(*changes: Change) -> Change:
    async def make(device: Device, at: str) -> None:
        for change in changes:
            await change(device, at)

    return make


ONE, EITHER = ("one",), ("one", "other")
OLD = anew(b"old")
TWO = steps(anew(b"1", "one"), anew(b"2", "two"))
SUB = steps(mkdir("sub"), anew(b"in", "sub/in"))


@dataclass(frozen=True)
class Row:
    """A pair of changes over what `before` makes, and what is there in the end if `one` is the first, or `other`."""

    before: Change
    one: Change
    other: Change
    one_first: Tree
    other_first: Tree
    told: tuple[str, ...] = ()
    """Which of the two, when it is the later one, is given up or has to do with another name, and its owner told."""


def edits(one: Callable[[bytes], Change], other: Callable[[bytes], Change]) -> Row:
    first, second = {"a": b"one", f"a{COPY}": b"two"}, {"a": b"two", f"a{COPY}": b"one"}
    return Row(OLD, one(b"one"), other(b"two"), first, second)


def alike(before: Change, one: Change, other: Change, outcome: Tree, *, told: tuple[str, ...] = ()) -> Row:
    return Row(before, one, other, outcome, outcome, told)


async def nothing(device: Device, at: str) -> None:
    pass


TABLE = {
    "edits in place": edits(in_place, in_place),
    "edits anew": edits(in_place, anew),
    "replaced by rename, edited": edits(by_rename, in_place),
    "replaced by rename on both": edits(by_rename, by_rename),
    "replaced by exchange, edited": edits(by_exchange, anew),
    "replaced with a backup, edited": edits(with_backup, in_place),
    "replaced with a backup, by rename": edits(with_backup, by_rename),
    "replaced by exchange, with a backup": edits(by_exchange, with_backup),
    "same edit": alike(OLD, in_place(b"new"), anew(b"new"), {"a": b"new"}),
    "same by rename and in place": alike(OLD, by_rename(b"new"), anew(b"new"), {"a": b"new"}),
    "same by rename": alike(OLD, by_rename(b"new"), by_rename(b"new"), {"a": b"new"}),
    "same file made": alike(nothing, anew(b"new"), anew(b"new"), {"a": b"new"}),
    "same file moved": alike(
        steps(anew(b"x", "one"), anew(b"x", "two")), move("one", "a"), move("two", "a"), {"a": b"x"}
    ),
    "same directory made": alike(nothing, SUB, SUB, {"sub": None, "sub/in": b"in"}),
    "deleted, edited": alike(OLD, delete(), in_place(b"new"), {"a": b"new"}, told=ONE),
    "deleted, written anew": alike(OLD, delete(), anew(b"new"), {"a": b"new"}, told=ONE),
    "deleted, replaced": alike(OLD, delete(), by_rename(b"new"), {"a": b"new"}, told=ONE),
    "deleted, edited and moved": alike(OLD, delete(), steps(in_place(b"new"), move("a", "b")), {"b": b"new"}),
    "deleted, moved": Row(OLD, delete(), move("a", "b"), {"b": b"old"}, {"b": b"old"}),
    "deleted on both": alike(OLD, delete(), delete(), {}),
    "renamed, edited": alike(OLD, move("a", "b"), in_place(b"new"), {"b": b"new"}),
    "renamed on both": Row(OLD, move("a", "b"), move("a", "c"), {"b": b"old"}, {"c": b"old"}, told=EITHER),
    "renamed alike on both": alike(OLD, move("a", "b"), move("a", "b"), {"b": b"old"}),
    "renamed directories": Row(
        SUB, move("sub", "b"), move("sub", "c"), {"b": None, "b/in": b"in"}, {"c": None, "c/in": b"in"}, told=EITHER
    ),
    "renamed and linked": alike(OLD, move("a", "b"), link("a", "c"), {"b": b"old", "c": b"old"}),
    "made on both": Row(
        nothing, anew(b"1"), anew(b"2"), {"a": b"1", f"a{COPY}": b"2"}, {"a": b"2", f"a{COPY}": b"1"}
    ),
    "made as file and directory": Row(
        nothing,
        anew(b"1", "sub"),
        SUB,
        {"sub": b"1", f"sub{COPY}": None, f"sub{COPY}/in": b"in"},
        {"sub": None, "sub/in": b"in", f"sub{COPY}": b"1"},
        told=EITHER,
    ),
    "made directories": alike(
        nothing,
        steps(SUB, anew(b"1", "sub/1")),
        steps(SUB, anew(b"2", "sub/2")),
        {"sub": None, "sub/in": b"in", "sub/1": b"1", "sub/2": b"2"},
    ),
    "moved to one name": Row(
        TWO, move("one", "a"), move("two", "a"), {"a": b"1", f"a{COPY}": b"2"}, {"a": b"2", f"a{COPY}": b"1"}
    ),
    "moved to a name that is made": Row(
        TWO,
        move("one", "a"),
        anew(b"new"),
        {"a": b"1", f"a{COPY}": b"new", "two": b"2"},
        {"a": b"new", f"a{COPY}": b"1", "two": b"2"},
    ),
    "moved directories to one name": alike(
        steps(mkdir("one"), anew(b"1", "one/1"), mkdir("two"), anew(b"2", "two/2")),
        move("one", "a"),
        move("two", "a"),
        {"a": None, "a/1": b"1", "a/2": b"2"},
    ),
    "cycle": Row(
        steps(mkdir("one"), mkdir("two")),
        move("one", "two/one"),
        move("two", "one/two"),
        {"two": None, "two/one": None},
        {"one": None, "one/two": None},
        told=EITHER,
    ),
    "removed directory, child made": alike(
        SUB, remove_tree("sub"), anew(b"new", "sub/new"), {"sub": None, "sub/new": b"new"}, told=ONE
    ),
    "removed directory, child edited": alike(
        SUB, remove_tree("sub"), in_place(b"IN", "sub/in"), {"sub": None, "sub/in": b"IN"}, told=ONE
    ),
    "removed directory, child replaced": alike(
        SUB, remove_tree("sub"), by_rename(b"IN", "sub/in"), {"sub": None, "sub/in": b"IN"}, told=ONE
    ),
    "removed directory, moved into": alike(
        steps(SUB, OLD), remove_tree("sub"), move("a", "sub/a"), {"sub": None, "sub/a": b"old"}, told=ONE
    ),
    "removed directory, renamed": alike(
        SUB, remove_tree("sub"), steps(move("sub", "b"), anew(b"new", "b/new")), {"b": None, "b/new": b"new"}
    ),
    "attributes of both kinds": alike(OLD, attributes(mode=0o600), attributes(mtime_ns=7), {"a": (b"old", 0o600, 7)}),
    "attributes of one kind": Row(
        OLD,
        attributes(mode=0o600, mtime_ns=7),
        attributes(mode=0o640, mtime_ns=8),
        {"a": (b"old", 0o640, 8)},
        {"a": (b"old", 0o600, 7)},
    ),
    "attributes and an edit": alike(OLD, attributes(mode=0o600), in_place(b"new"), {"a": (b"new", 0o600, None)}),
    "attributes, deleted": alike(OLD, attributes(mode=0o600), delete(), {}),
    "attributes by name": Row(
        OLD,
        steps(xattr(b"user.one", b"1"), xattr(b"user.both", b"1")),
        steps(xattr(b"user.two", b"2"), xattr(b"user.both", b"2")),
        {"a": {b"user.one": b"1", b"user.two": b"2", b"user.both": b"2"}},
        {"a": {b"user.one": b"1", b"user.two": b"2", b"user.both": b"1"}},
    ),
}  # fmt: skip

COMPANY = ("nothing", "rename", "edit", "save")


@dataclass(frozen=True)
class Company:
    """What else a device does in the directory of the row: before the change of the row, or after it."""

    what: str
    comes_first: bool

    async def join(self, device: Device, at: str, change: Change) -> None:
        """Make the change of the row, and this one."""
        if self.comes_first:
            at = await self._make(device, at)
        await change(device, at)
        if not self.comes_first:
            await self._make(device, at)

    async def _make(self, device: Device, at: str) -> str:
        child, content = f"{at}/child of {device.name}", b"new of " + device.name.encode()
        if self.what == "rename":
            await device.rename(at, f"{at} renamed")
            return f"{at} renamed"
        if self.what == "edit":
            await device.edit(child, content)
        if self.what == "save":
            await device.save(child, content)
        return at


ALONE = Company("nothing", comes_first=True)
PAIRS = [
    (Company(first, comes_first=comes_first), Company(later, comes_first=comes_first))
    for comes_first, first, later in product((True, False), COMPANY, COMPANY)
    if (first, later) not in (("nothing", "nothing"), ("rename", "rename"))
]
PARTS = 2
FEW = 1
"""So many of the ways to combine a row are tried in each run, other ones for each row, unless all are asked for."""


def pairs_of(number: int, *, are_all: bool) -> list[tuple[Company, Company]]:
    """How a row, by its number, is combined."""
    step = len(PAIRS) // FEW
    some = [PAIRS[(number + each * step) % len(PAIRS)] for each in range(FEW)]
    return [(ALONE, ALONE), *(PAIRS if are_all else some)]


def expected_at(at: str, outcome: Tree, pair: tuple[Company, Company]) -> Tree:
    """The tree below a directory in which a pair of changes had company."""
    at = f"{at} renamed" if "rename" in (pair[0].what, pair[1].what) else at
    found: Tree = {at: None}
    for name, company in zip(("first", "later"), pair, strict=True):
        found[f"{at}/child of {name}"] = b"new of " + name.encode() if company.what in ("edit", "save") else b"child"
    label = " (conflicted copy, later, 2026-11-22)"
    return found | {f"{at}/{path.replace(COPY, label)}": what for path, what in outcome.items()}


async def shown(device: Device, path: str, wanted: object) -> object:
    """What is under a path, in as much detail as is wanted."""
    state = await device.known(path)
    if isinstance(wanted, dict):
        return state.xattrs
    content = None if state.kind is InodeKind.DIRECTORY else await device.content(state.inode)
    if isinstance(wanted, tuple):
        return content, state.mode, None if wanted[2] is None else state.mtime_ns
    return content


@pytest.mark.parametrize("is_swapped", [False, True])
@pytest.mark.parametrize("part", range(PARTS))
async def test_each_pair_ends_as_the_table_says_whatever_else_the_devices_do(
    tmp_path: Path, part: int, request: pytest.FixtureRequest, *, is_swapped: bool
) -> None:
    are_all = request.config.getoption("--long")
    cases = {
        f"{name}, {number}": (row, pair)
        for place, (name, row) in enumerate(TABLE.items())
        for number, pair in enumerate(pairs_of(place, are_all=are_all))
        if place % PARTS == part
    }
    async with sailing(tmp_path, "first", "later") as (fleet, (first, later)):
        later.refusals.notes = deque()
        for at, (row, _) in cases.items():
            await first.mkdir(at)
            for name in ("first", "later"):
                await first.write(f"{at}/child of {name}", b"child")
            await row.before(first, at)
        await fleet.settle()
        expected: Tree = {}
        for at, (row, pair) in cases.items():
            one, other = (row.other, row.one) if is_swapped else (row.one, row.other)
            await pair[0].join(first, at, one)
            await pair[1].join(later, at, other)
            expected |= expected_at(at, row.other_first if is_swapped else row.one_first, pair)
        await first.sync()
        tree = await fleet.settle()
        problems = {path: tree.get(path, "-") for path in tree.keys() ^ expected.keys()}
        assert not problems, (problems, {at: cases[at][1] for at in cases if any(at in path for path in problems)})
        for path, wanted in expected.items():
            found = await shown(later, path, wanted)
            assert found == wanted, path
        told = {at for at in cases for note in later.refusals.notes if f"{at}/" in note or f"{at} renamed/" in note}
        assert told == {at for at, (row, _) in cases.items() if ("one" if is_swapped else "other") in row.told}
        assert not first.refusals.notes
