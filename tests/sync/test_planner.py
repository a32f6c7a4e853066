"""The order rules of commits, on journals made by hand and at random."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivefs.protocol import wire
from drivefs.protocol.changes import (
    Base,
    Create,
    Exchange,
    Link,
    Mutation,
    Rename,
    SetAttributes,
    SetXattr,
    Store,
    Unlink,
)
from drivefs.protocol.ids import InodeId, OpNumber, RevisionNumber
from drivefs.protocol.messages import MAX_BATCH_BYTES, MAX_BATCH_MUTATIONS
from drivefs.protocol.model import InodeKind
from drivefs.sync import planner
from drivefs.sync.planner import OVERTAKEN_ABOVE_BYTES, REMOVED, Nothing, Plan, Terms, Waiting, plan, rebase

ROOT = InodeId(1)


def create(n: int, inode: int, *, parent: int = 1, kind: InodeKind = InodeKind.FILE, name: bytes = b"") -> Create:
    return Create(
        n=OpNumber(n),
        time_ns=n,
        inode=InodeId(inode),
        parent=InodeId(parent),
        name=name or b"f%d" % inode,
        kind=kind,
        mode=0o644,
    )


def store(n: int, inode: int, base: Base | None = None) -> Store:
    return Store(n=OpNumber(n), time_ns=n, inode=InodeId(inode), base=base or Base(), size=0, runs=[], mtime_ns=n)


def attributes(n: int, inode: int) -> SetAttributes:
    return SetAttributes(n=OpNumber(n), time_ns=n, inode=InodeId(inode), mode=0o600)


def unlink(n: int, inode: int, *, parent: int = 1) -> Unlink:
    return Unlink(n=OpNumber(n), time_ns=n, parent=InodeId(parent), name=b"f%d" % inode, inode=InodeId(inode))


def exchange(n: int, inode: int, other: int) -> Exchange:
    names = {"name": b"f%d" % inode, "other_name": b"f%d" % other}
    places = {"parent": ROOT, "other_parent": ROOT}
    return Exchange(n=OpNumber(n), time_ns=n, inode=InodeId(inode), other=InodeId(other), **places, **names)


def save_by_link(n: int, inode: int, before: int, last: int) -> list[Mutation]:
    """A new file takes the name of the one before, which has stayed under the name of the one before that."""
    rename = Rename(
        n=OpNumber(n + 3),
        time_ns=n,
        parent=ROOT,
        name=b"new",
        new_parent=ROOT,
        new_name=b"document",
        inode=InodeId(inode),
        replaced=InodeId(before),
    )
    unlinked = Unlink(n=OpNumber(n), time_ns=n, parent=ROOT, name=b"backup", inode=InodeId(last))
    link = Link(n=OpNumber(n + 1), time_ns=n, inode=InodeId(before), parent=ROOT, name=b"backup")
    return [unlinked, link, create(n + 2, inode, name=b"new"), rename]


def planned(
    mutations: list[Mutation],
    waiting: dict[int, Waiting | Nothing] | None = None,
    *,
    deferred: set[int] | None = None,
    frozen: set[int] | None = None,
    only: set[int] | None = None,
) -> Plan:
    terms = Terms(
        frozen={OpNumber(n) for n in frozen or ()},
        deferred={OpNumber(n) for n in deferred or ()},
        only=None if only is None else {OpNumber(n) for n in only},
    )
    return plan(mutations, lambda inode: (waiting or {}).get(inode), terms)


def numbers(result: Plan) -> list[int]:
    return [mutation.n for mutation in result.batch]


def test_store_stands_directly_behind_the_creation_of_its_file() -> None:
    result = planned([create(1, 10), attributes(2, 10), create(3, 11), store(4, 10)])
    assert numbers(result) == [1, 4, 2, 3]


def test_file_waits_for_its_first_content_and_what_follows_waits_with_it() -> None:
    waiting = {10: Waiting(100, on_its_way=True)}
    result = planned([create(1, 9), create(2, 10), create(3, 11)], waiting)
    assert numbers(result) == [1]
    assert result.held_count == 2


def test_whether_looking_at_more_could_change_anything_is_known() -> None:
    ready = [attributes(n, n) for n in range(1, 4)]
    waits: list[Mutation] = [create(9, 9)]
    assert not planned([*ready]).is_sure
    assert planned([*ready, *waits], {9: Waiting(10, True)}).is_sure
    assert not planned([*ready, *waits], {9: Waiting(10, False)}).is_sure
    assert planned([attributes(n, n) for n in range(1, 3000)]).is_sure


def test_large_content_is_overtaken_but_not_by_what_depends_on_it() -> None:
    waiting = {10: Waiting(OVERTAKEN_ABOVE_BYTES + 1, on_its_way=True)}
    rename = Rename(
        n=OpNumber(2), time_ns=2, parent=ROOT, name=b"f10", new_parent=ROOT, new_name=b"done", inode=InodeId(10)
    )
    result = planned([create(1, 10), rename, create(3, 11), create(4, 12, name=b"done")], waiting)
    assert numbers(result) == [3]


def test_file_still_being_written_holds_up_nothing_else() -> None:
    result = planned([create(1, 10), create(2, 11)], {10: Waiting(5, on_its_way=False)})
    assert numbers(result) == [2]


def test_child_names_the_creation_of_its_directory_as_predecessor() -> None:
    result = planned([create(1, 5, kind=InodeKind.DIRECTORY), create(2, 6, parent=5, kind=InodeKind.SYMLINK)])
    assert result.batch[1].after == [1]


def test_removal_of_a_directory_follows_the_removal_of_its_children() -> None:
    result = planned([unlink(1, 6, parent=5), unlink(2, 7, parent=5), unlink(3, 5)])
    assert result.batch[2].after == [1, 2]


def test_time_of_a_directory_is_set_after_what_happened_in_it() -> None:
    mode, times = attributes(4, 10), msgspec.structs.replace(attributes(5, 10), mtime_ns=1)
    result = planned([create(2, 11, parent=10), unlink(3, 12, parent=10), mode, times])
    assert [m.after for m in result.batch] == [[], [], [], [2, 3, 4]]


def test_siblings_do_not_depend_on_each_other() -> None:
    result = planned([create(1, 10, kind=InodeKind.SYMLINK), create(2, 11, kind=InodeKind.SYMLINK)])
    assert [mutation.after for mutation in result.batch] == [[], []]


def test_replacing_a_file_that_this_device_has_just_stored_is_based_on_that_store() -> None:
    replace = Rename(
        n=OpNumber(3), time_ns=3, parent=ROOT, name=b"tmp", new_parent=ROOT, new_name=b"f10", inode=InodeId(11),
        replaced=InodeId(10), base=Base(revision=RevisionNumber(4)),
    )  # fmt: skip
    result = planned([store(1, 10, Base(revision=RevisionNumber(4))), replace])
    assert result.batch[1].base == Base(revision_op=OpNumber(1))


def test_sent_mutation_goes_out_again_as_it_was() -> None:
    sent = unlink(2, 10)
    result = planned([attributes(1, 10), sent], frozen={2})
    assert result.batch[1] is sent


def test_deferred_mutation_holds_what_depends_on_it_only() -> None:
    result = planned([store(1, 10), attributes(2, 10), attributes(3, 11)], deferred={1})
    assert numbers(result) == [3]
    assert result.held_count == 2


def test_rebase_moves_only_what_was_made_on_the_old_base() -> None:
    old, new = Base(revision=RevisionNumber(1)), Base(revision=RevisionNumber(2))
    other = Unlink(n=OpNumber(6), time_ns=6, parent=ROOT, name=b"x", inode=InodeId(11), base=old)
    mine = Unlink(n=OpNumber(5), time_ns=5, parent=ROOT, name=b"f10", inode=InodeId(10), base=old)
    moved = list(rebase([mine, other, store(7, 10, new)], inode=InodeId(10), old=old, new=new))
    assert [(mutation.n, mutation.base) for mutation in moved] == [(5, new)]


def test_batch_keeps_its_bounds() -> None:
    many = planned([create(n, 100 + n, kind=InodeKind.SYMLINK) for n in range(1, 1501)])
    assert len(many.batch) == MAX_BATCH_MUTATIONS
    assert many.held_count == 500
    heavy: list[Mutation] = [
        SetXattr(n=OpNumber(n), time_ns=n, inode=InodeId(n), name=b"user.x", value=b"v" * 60_000) for n in range(1, 101)
    ]
    assert sum(len(wire.encode(mutation)) for mutation in planned(heavy).batch) <= MAX_BATCH_BYTES


def test_many_saves_of_one_file_go_together_so_that_none_is_seen_empty() -> None:
    """Each of them was removed before its content was sent, by one of the next two."""
    saves = [each for n in range(40) for each in save_by_link(4 * n + 1, 100 + n, 99 + n, 98 + n)]
    contents: dict[int, Waiting | Nothing] = {100 + n: REMOVED for n in range(38)}
    terms = Terms(frozen=set(), deferred=set(), most=100)
    assert numbers(plan(saves[2:], lambda inode: contents.get(inode), terms)) == [mutation.n for mutation in saves[2:]]


def test_saves_that_do_not_go_together_are_found_in_a_few_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One look for each of them held up all calls for seconds where a thousand wait."""
    saves = [each for n in range(100) for each in save_by_link(4 * n + 1, 100 + n, 99 + n, 98 + n)]
    contents: dict[int, Waiting | Nothing] = {100 + n: REMOVED for n in range(98)}
    looks, choose = list[object](), planner._choose

    def look(*asked: Any) -> Plan:
        looks.append(asked)
        return choose(*asked)

    monkeypatch.setattr(planner, "_choose", look)
    terms = Terms(frozen=set(), deferred={OpNumber(397)}, most=MAX_BATCH_MUTATIONS)
    assert numbers(plan(saves[2:], lambda inode: contents.get(inode), terms)) == []
    assert len(looks) < 5


def test_file_whose_last_name_nothing_is_known_to_take_away_is_not_seen_empty() -> None:
    saves = [each for n in range(3) for each in save_by_link(4 * n + 1, 100 + n, 99 + n, 98 + n)]
    contents: dict[int, Waiting | Nothing] = {100: REMOVED}
    # It is a backup until the next save, which is not among the first of these.
    assert numbers(planned(saves[:8], contents)) == [1, 2]
    assert numbers(planned(saves[:9], contents)) == list(range(1, 10))


def test_what_was_exchanged_before_it_was_sent_is_not_made_without_the_exchange() -> None:
    journal = [create(1, 10), create(2, 11), store(3, 11), exchange(4, 10, 11), create(5, 12)]
    assert numbers(planned(journal)) == [1, 2, 3, 4, 5]
    is_open: dict[int, Waiting | Nothing] = {10: Waiting(10, on_its_way=False)}
    assert numbers(planned(journal, is_open)) == [5]
    # What was sent goes again as it was.
    assert numbers(planned(journal, is_open, frozen={2, 3})) == [2, 3, 5]


@st.composite
def journals(draw: st.DrawFn) -> list[Mutation]:
    """Journals that a file system could have made: creations before use, names and inodes few, so that they meet."""
    kinds = draw(st.lists(st.sampled_from(["create", "mkdir", "attributes", "store", "unlink"]), max_size=40))
    mutations: list[Mutation] = []
    alive, directories, stored = list[int](), [1], set[int]()
    parents = dict[int, int]()
    for n, kind in enumerate(kinds, start=1):
        inode = 100 + n
        if kind in ("create", "mkdir"):
            parent = draw(st.sampled_from(directories))
            parents[inode] = parent
            directory = kind == "mkdir"
            mutations.append(create(n, inode, parent=parent, kind=InodeKind.DIRECTORY if directory else InodeKind.FILE))
            (directories if directory else alive).append(inode)
        elif alive:
            victim = draw(st.sampled_from(alive))
            if kind == "attributes":
                mutations.append(attributes(n, victim))
            elif kind == "store" and victim not in stored:
                stored.add(victim)
                mutations.append(store(n, victim))
            elif kind == "unlink":
                alive.remove(victim)
                mutations.append(unlink(n, victim, parent=parents[victim]))
    return mutations


@given(journals(), st.sets(st.integers(101, 140)), st.booleans())
def test_whatever_the_journal_nothing_goes_before_what_it_needs(
    mutations: list[Mutation], unready: set[int], on_its_way: bool
) -> None:
    result = planned(mutations, dict.fromkeys(unready, Waiting(10, on_its_way)))
    unsettled, gone = {mutation.n for mutation in mutations}, set[int]()
    for mutation in result.batch:
        assert unsettled.intersection(mutation.after) <= gone
        gone.add(mutation.n)
    for mutation in result.batch:
        earlier = [m for m in mutations if m.n < mutation.n and m.inode == mutation.inode]
        # The first store goes with the creation, ahead of what was set in between.
        assert {m.n for m in earlier if isinstance(m, Create) or not isinstance(mutation, Store)} <= gone
    assert result.held_count + len(result.batch) == len(mutations)


def test_what_goes_ahead_takes_with_it_what_it_depends_on_and_nothing_else() -> None:
    made = Create(
        n=OpNumber(1), time_ns=1, inode=InodeId(20), parent=ROOT, name=b"d", kind=InodeKind.DIRECTORY, mode=0o755
    )
    journal = [made, create(2, 10), create(3, 11, parent=20), store(4, 10), attributes(5, 11), store(6, 11)]
    assert numbers(planned(journal, only={5})) == [1, 3, 6, 5]


def test_what_goes_ahead_waits_for_nobody_elses_content() -> None:
    waiting = {10: Waiting(100, on_its_way=True)}
    journal: list[Mutation] = [create(1, 10), attributes(2, 9)]
    assert numbers(planned(journal, waiting)) == []
    assert numbers(planned(journal, waiting, only={2})) == [2]


def test_what_goes_ahead_still_waits_for_what_has_to_go_before_it() -> None:
    waiting = {10: Waiting(100, on_its_way=True)}
    assert numbers(planned([create(1, 10), attributes(2, 9)], waiting, only={1, 2})) == []
