"""The conflict rules: each kind of mutation against each state of the backend."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivefs.protocol.changes import (
    Base,
    Create,
    Exchange,
    Link,
    Mutation,
    Rename,
    Restore,
    SetAttributes,
    SetXattr,
    Store,
    Unlink,
)
from drivefs.protocol.ids import NO_INODE, NO_OP, InodeId, OpNumber, RevisionNumber
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.sync.questions import Place
from drivefs.sync.resolver import (
    LOST_AND_FOUND,
    Action,
    Adopt,
    Anew,
    Copy,
    Drop,
    Make,
    Merge,
    Refusal,
    Stay,
    resolve,
)
from tests.sync.two_sides import Backend, Device

FILE, DIRECTORY, SYMLINK = InodeKind.FILE, InodeKind.DIRECTORY, InodeKind.SYMLINK
N, ROOT, MINE, THEIRS, OLD, OTHER, GONE, UP = OpNumber(1), *(InodeId(i) for i in range(1, 8))
A, B = Place(ROOT, b"a"), Place(ROOT, b"b")
BASE = RevisionNumber(3)


def state(
    inode: InodeId, kind: InodeKind = FILE, content: bytes = b"", revision: int = 3, **more: object
) -> InodeState:
    return InodeState(
        inode=inode,
        kind=kind,
        mode=0o644,
        blocks=content,
        revision=RevisionNumber(revision),
        **more,  # type: ignore[arg-type]
    )


def here(mine: InodeState, *names: Place, content: bytes = b"mine", is_edited: bool = False) -> Device:
    device = Device()
    device.put(mine, *names)
    device.contents[mine.inode] = content
    if is_edited:
        device.edited.add(mine.inode)
    return device


def there(*states: tuple[InodeState, Place]) -> Backend:
    backend = Backend()
    backend.put(state(ROOT, DIRECTORY))
    for found, place in states:
        backend.put(found, place)
    return backend


def decide(mutation: Mutation, reason: str, local: Device, remote: Backend, **more: object) -> list[Action]:
    return resolve(Refusal(mutation, reason, BASE, **more), local, remote)  # type: ignore[arg-type]


def create(kind: InodeKind = FILE, parent: InodeId = ROOT, **more: object) -> Create:
    return Create(n=N, time_ns=1, inode=MINE, parent=parent, name=b"a", kind=kind, mode=0o644, **more)  # type: ignore[arg-type]


STORE = Store(n=N, time_ns=1, inode=MINE, base=Base(revision=BASE), size=4, runs=[], mtime_ns=1)
UNLINK = Unlink(n=N, time_ns=1, parent=ROOT, name=b"a", inode=MINE, base=Base(revision=BASE))
RENAME = Rename(n=N, time_ns=1, parent=ROOT, name=b"a", new_parent=ROOT, new_name=b"b", inode=MINE)
OVER = msgspec.structs.replace(RENAME, replaced=OLD, base=Base(revision=BASE))
LINK = Link(n=N, time_ns=1, inode=MINE, parent=ROOT, name=b"b")
RESTORE = Restore(n=N, time_ns=1, inode=MINE, parent=ROOT, name=b"a")
EXCHANGE = Exchange(n=N, time_ns=1, parent=ROOT, name=b"a", inode=MINE, other_parent=ROOT, other_name=b"b", other=OTHER)
ATTRIBUTES = SetAttributes(n=N, time_ns=1, inode=MINE, mode=0o600)
XATTR = SetXattr(n=N, time_ns=1, inode=MINE, name=b"user.x", value=b"1")


def restored(inode: InodeId, place: Place, time_ns: int = 1, **more: bool) -> Restore:
    return Restore(n=NO_OP, time_ns=time_ns, inode=inode, parent=place.parent, name=place.name, **more)


class TestStore:
    mine = here(state(MINE), A, is_edited=True)

    def test_different_content_becomes_a_copy(self) -> None:
        remote = there((state(MINE, content=b"theirs", revision=4), A))
        assert decide(STORE, "changed", self.mine, remote) == [Copy(base=BASE)]

    def test_same_content_is_adopted(self) -> None:
        theirs = state(MINE, content=b"mine", revision=4)
        assert decide(STORE, "changed", self.mine, there((theirs, A))) == [Adopt(theirs)]

    def test_what_stands_on_the_present_revision_is_tried_again(self) -> None:
        assert decide(STORE, "changed", self.mine, there((state(MINE), A))) == [Make(STORE)]

    def test_content_of_a_file_that_was_removed_here_is_not_needed(self) -> None:
        for gone in (here(state(MINE), A), Device(edited={MINE})):
            assert decide(STORE, "absent", gone, there()) == [Drop()]

    def test_removed_file_comes_back_at_its_place(self) -> None:
        remote = there()
        remote.places[MINE] = A
        assert decide(STORE, "absent", self.mine, remote) == [Make(restored(MINE, A)), Make(STORE)]

    def test_file_that_was_replaced_comes_back_beside_its_heir(self) -> None:
        remote = there((state(THEIRS, content=b"theirs"), A))
        remote.places[MINE] = A
        back = Make(restored(MINE, A), is_aside=True, of=THEIRS, base=BASE)
        assert decide(STORE, "absent", self.mine, remote) == [back, Make(STORE)]

    def test_file_that_was_replaced_by_the_same_is_its_heir(self) -> None:
        remote = there((state(THEIRS, content=b"mine"), A))
        remote.places[MINE] = A
        assert decide(STORE, "absent", self.mine, remote) == [Merge(MINE, THEIRS)]

    def test_file_that_gave_way_to_a_directory_is_no_conflict_copy_of_it(self) -> None:
        remote = there((state(THEIRS, DIRECTORY), A))
        remote.places[MINE] = A
        assert decide(STORE, "absent", self.mine, remote) == [
            Make(restored(MINE, A), is_aside=True, base=BASE),
            Make(STORE),
        ]

    def test_directories_above_come_back_first(self) -> None:
        remote = there()
        remote.places = {MINE: Place(GONE, b"a"), GONE: Place(UP, b"in"), UP: B}
        assert decide(STORE, "absent", self.mine, remote) == [
            Make(restored(UP, B, 0)),
            Make(restored(GONE, Place(UP, b"in"), 0)),
            Make(restored(MINE, Place(GONE, b"a"))),
            Make(STORE),
        ]

    def test_file_of_which_nobody_knows_where_it_was_is_kept_in_lost_and_found(self) -> None:
        assert decide(STORE, "absent", self.mine, there()) == [Copy(is_lost=True)]

    def test_what_is_never_allowed_stays_here(self) -> None:
        assert decide(STORE, "limit", self.mine, there(), is_final=True) == [Stay()]


class TestCreate:
    @pytest.mark.parametrize(
        ("mine", "theirs", "is_one"),
        [
            (state(MINE), state(THEIRS, content=b"mine"), True),
            (state(MINE), state(THEIRS, content=b"other"), False),
            (state(MINE, DIRECTORY), state(THEIRS, DIRECTORY), True),
            (state(MINE, SYMLINK, target=b"t"), state(THEIRS, SYMLINK, target=b"t"), True),
            (state(MINE, SYMLINK, target=b"t"), state(THEIRS, SYMLINK, target=b"u"), False),
            (state(MINE, InodeKind.FIFO), state(THEIRS, InodeKind.FIFO), True),
            (state(MINE, InodeKind.BLOCK_DEVICE, rdev=1), state(THEIRS, InodeKind.BLOCK_DEVICE, rdev=2), False),
            (state(MINE, DIRECTORY), state(THEIRS), False),
            (state(MINE), state(THEIRS, DIRECTORY), False),
            (state(MINE, SYMLINK, target=b"t"), state(THEIRS), False),
        ],
    )
    def test_two_of_one_name_are_one_if_they_are_the_same(
        self, mine: InodeState, theirs: InodeState, is_one: bool
    ) -> None:
        change = create(mine.kind)
        found = decide(change, "exists", here(mine, A), there((theirs, A)))
        of = THEIRS if mine.kind is theirs.kind is FILE else NO_INODE
        assert found == ([Merge(MINE, THEIRS)] if is_one else [Make(change, is_aside=True, of=of)])

    def test_mode_given_here_later_counts(self) -> None:
        theirs = msgspec.structs.replace(state(THEIRS, content=b"mine"), mode=0o600)
        assert decide(create(), "exists", here(state(MINE), A), there((theirs, A))) == [
            Merge(MINE, THEIRS),
            Make(SetAttributes(n=NO_OP, time_ns=1, inode=THEIRS, mode=0o644)),
        ]

    def test_file_that_is_edited_here_under_its_other_id_stays_apart(self) -> None:
        local = here(state(MINE), A)
        local.edited.add(THEIRS)
        found = decide(create(), "exists", local, there((state(THEIRS, content=b"mine"), A)))
        assert found == [Make(create(), is_aside=True, of=THEIRS)]

    def test_name_that_it_has_left_since_needs_no_conflict(self) -> None:
        found = decide(create(), "exists", here(state(MINE), B), there((state(THEIRS, content=b"mine"), A)))
        assert found == [Make(create(), is_aside=True)]

    def test_name_that_has_become_free_is_taken(self) -> None:
        assert decide(create(), "exists", here(state(MINE), A), there()) == [Make(create())]

    def test_what_was_removed_here_again_is_not_made(self) -> None:
        assert decide(create(), "exists", Device(), there((state(THEIRS), A))) == [Drop()]

    def test_removed_directory_comes_back_with_its_child(self) -> None:
        remote = there()
        remote.places[GONE] = B
        change = create(parent=GONE)
        assert decide(change, "no_parent", here(state(MINE), Place(GONE, b"a")), remote) == [
            Make(restored(GONE, B, 0)),
            Make(change),
        ]

    def test_directories_that_were_made_again_elsewhere_take_what_was_in_them(self) -> None:
        remote = there((state(OTHER, DIRECTORY), B), (state(THEIRS, DIRECTORY), Place(OTHER, b"x")))
        remote.places = {GONE: Place(UP, b"x"), UP: B}
        change = create(parent=GONE)
        found = decide(change, "no_parent", here(state(MINE)), remote)
        assert found == [Merge(UP, OTHER), Merge(GONE, THEIRS), Make(change)]

    def test_directory_whose_name_a_file_took_comes_back_beside_it(self) -> None:
        remote = there((state(OTHER), B))
        remote.places[GONE] = B
        change = create(parent=GONE)
        assert decide(change, "no_parent", here(state(MINE)), remote) == [
            Make(restored(GONE, B, 0), is_aside=True),
            Make(change),
        ]

    @pytest.mark.parametrize("places", [{}, {GONE: Place(UP, b"x"), UP: Place(GONE, b"y")}])
    def test_where_the_way_is_gone_lost_and_found_takes_the_child(self, places: dict[InodeId, Place]) -> None:
        remote = there()
        remote.places = places
        found = decide(create(parent=GONE), "no_parent", here(state(MINE)), remote)
        assert found[0] == Merge(GONE, LOST_AND_FOUND)
        assert found[-1] == Make(create(parent=GONE))


class TestUnlink:
    def test_changed_or_replaced_file_stays_and_is_told(self) -> None:
        for remote in (there((state(MINE, revision=4), A)), there((state(THEIRS), A))):
            (found,) = decide(UNLINK, "changed", Device(), remote)
            assert isinstance(found, Drop)
            assert found.why

    def test_directory_that_has_something_in_it_stays(self) -> None:
        (found,) = decide(UNLINK, "not_empty", Device(), there((state(MINE, DIRECTORY), A)))
        assert isinstance(found, Drop)
        assert found.why

    def test_what_is_gone_or_elsewhere_needs_no_removal(self) -> None:
        for remote in (there(), there((state(MINE), B))):
            assert decide(UNLINK, "absent", Device(), remote) == [Drop()]

    def test_what_was_replaced_here_was_removed_for_that_only(self) -> None:
        for remote in (there((state(MINE, revision=4), A)), there((state(THEIRS), A))):
            assert decide(UNLINK, "changed", here(state(OTHER), A), remote) == [Drop()]

    def test_what_is_as_it_was_is_removed(self) -> None:
        for kind in (FILE, DIRECTORY, SYMLINK):
            assert decide(UNLINK, "changed", Device(), there((state(MINE, kind), A))) == [Make(UNLINK)]


class TestRename:
    mine = here(state(MINE), B)
    over_nothing = msgspec.structs.replace(OVER, replaced=NO_INODE, base=Base())

    def test_first_rename_wins_and_is_told(self) -> None:
        (found,) = decide(RENAME, "absent", self.mine, there((state(MINE), Place(ROOT, b"c"))))
        assert isinstance(found, Drop)
        assert found.why

    def test_same_rename_is_nothing_to_tell(self) -> None:
        assert decide(RENAME, "absent", self.mine, there((state(MINE), B))) == [Drop()]

    def test_what_was_removed_elsewhere_comes_back_under_its_new_name(self) -> None:
        assert decide(RENAME, "absent", self.mine, there()) == [Make(restored(MINE, B, expects_content=True))]

    @pytest.mark.parametrize("is_edited", [False, True])
    @pytest.mark.parametrize("is_emptied", [False, True])
    def test_what_it_was_to_replace_goes_if_content_comes_in_its_place(self, is_edited: bool, is_emptied: bool) -> None:
        local, remote = here(state(MINE), B, is_edited=is_edited), there((state(OLD), B))
        remote.emptied = {MINE} if is_emptied else set()
        gone = Unlink(n=NO_OP, time_ns=1, parent=ROOT, name=b"b", inode=OLD, base=Base(revision=BASE))
        restore = Make(restored(MINE, B, expects_content=not is_edited))
        stays = is_emptied and not is_edited
        back = Anew(B, of=OLD, base=BASE) if is_emptied and is_edited else restore
        assert decide(OVER, "absent", local, remote) == ([restore] if stays else [Make(gone), back])

    def test_what_it_was_to_replace_stays_if_it_has_the_same_content(self) -> None:
        local, remote = here(state(MINE), B, is_edited=True), there((state(OLD, content=b"mine"), B))
        remote.rewritten.add(MINE)
        assert decide(OVER, "absent", local, remote) == [Merge(MINE, OLD)]

    def test_what_was_removed_on_both_sides_stays_so(self) -> None:
        assert decide(RENAME, "absent", Device(), there()) == [Drop()]

    def test_cycle_is_told(self) -> None:
        (found,) = decide(RENAME, "cycle", here(state(MINE, DIRECTORY)), there((state(MINE, DIRECTORY), A)))
        assert isinstance(found, Drop)
        assert found.why

    def test_directory_that_it_goes_to_comes_back(self) -> None:
        change = msgspec.structs.replace(RENAME, new_parent=GONE)
        remote = there((state(MINE), A))
        remote.places[GONE] = B
        assert decide(change, "no_parent", self.mine, remote) == [Make(restored(GONE, B, 0)), Make(change)]

    @pytest.mark.fault(67)
    def test_edited_target_keeps_its_name(self) -> None:
        remote = there((state(MINE, content=b"mine"), A), (state(OLD, content=b"edit", revision=4), B))
        assert decide(OVER, "changed", self.mine, remote) == [Make(self.over_nothing, is_aside=True, of=OLD, base=BASE)]

    def test_target_that_was_replaced_elsewhere_too_keeps_its_name(self) -> None:
        remote = there((state(MINE, content=b"mine"), A), (state(THEIRS, content=b"edit"), B))
        assert decide(OVER, "changed", self.mine, remote) == [
            Make(self.over_nothing, is_aside=True, of=THEIRS, base=BASE)
        ]

    @pytest.mark.parametrize("target", [OLD, THEIRS])
    def test_target_with_the_same_content_is_replaced(self, target: InodeId) -> None:
        remote = there((state(MINE, content=b"mine"), A), (state(target, content=b"mine", revision=9), B))
        expected = msgspec.structs.replace(OVER, replaced=target, base=Base(revision=RevisionNumber(9)))
        assert decide(OVER, "changed", self.mine, remote) == [Make(expected)]

    def test_target_that_is_gone_is_not_replaced(self) -> None:
        assert decide(OVER, "changed", self.mine, there((state(MINE), A))) == [Make(self.over_nothing)]

    def test_target_as_it_was_is_replaced(self) -> None:
        remote = there((state(MINE), A), (state(OLD), B))
        assert decide(OVER, "predecessor", self.mine, remote) == [Make(OVER)]

    def test_two_moves_to_one_name(self) -> None:
        remote = there((state(MINE, content=b"mine"), A), (state(THEIRS, content=b"other"), B))
        expected = Make(RENAME, is_aside=True, of=THEIRS, base=BASE)
        assert decide(RENAME, "exists", self.mine, remote) == [expected]

    def test_directory_moved_onto_a_directory_is_poured_into_it(self) -> None:
        local = here(state(MINE, DIRECTORY), B)
        local.entries[Place(MINE, b"x")] = OTHER
        remote = there((state(MINE, DIRECTORY), A), (state(THEIRS, DIRECTORY), B))
        moved = Rename(n=NO_OP, time_ns=1, parent=MINE, name=b"x", new_parent=THEIRS, new_name=b"x", inode=OTHER)
        emptied = Unlink(n=NO_OP, time_ns=1, parent=ROOT, name=b"a", inode=MINE)
        assert decide(RENAME, "exists", local, remote) == [Make(moved), Make(emptied)]

    def test_directory_and_file_under_one_name_are_no_conflict_copies(self) -> None:
        remote = there((state(MINE), A), (state(THEIRS, DIRECTORY), B))
        assert decide(RENAME, "exists", self.mine, remote) == [Make(RENAME, is_aside=True, base=BASE)]


class TestOthers:
    def test_link_to_what_was_removed_brings_it_back(self) -> None:
        back = Make(restored(MINE, B, expects_content=True))
        assert decide(LINK, "absent", here(state(MINE), B), there()) == [back]

    def test_link_under_a_taken_name_gets_another(self) -> None:
        remote = there((state(MINE), A), (state(THEIRS), B))
        assert decide(LINK, "exists", here(state(MINE), B), remote) == [Make(LINK, is_aside=True)]

    def test_link_that_is_there_already(self) -> None:
        assert decide(LINK, "exists", here(state(MINE), B), there((state(MINE), B))) == [Drop()]

    def test_link_to_what_was_removed_here_too(self) -> None:
        assert decide(LINK, "absent", Device(), there()) == [Drop()]

    def test_two_that_bring_one_file_back(self) -> None:
        assert decide(RESTORE, "changed", here(state(MINE), A), there((state(MINE), B))) == [Drop()]

    def test_place_that_was_taken_meanwhile(self) -> None:
        remote = there((state(THEIRS, content=b"other"), A))
        assert decide(RESTORE, "exists", here(state(MINE), A), remote) == [Make(RESTORE, is_aside=True, of=THEIRS)]

    def test_directory_that_was_brought_back_by_both_is_one(self) -> None:
        remote = there((state(THEIRS, DIRECTORY), A))
        assert decide(RESTORE, "exists", here(state(MINE, DIRECTORY), A), remote) == [Merge(MINE, THEIRS)]

    def test_what_the_backend_never_had_cannot_come_back(self) -> None:
        assert decide(RESTORE, "absent", here(state(MINE), A), there()) == [Drop()]
        found = decide(RESTORE, "absent", here(state(MINE, DIRECTORY), A), there())
        assert found == [Merge(MINE, LOST_AND_FOUND)]

    def test_file_to_be_exchanged_with_one_that_has_moved_takes_its_place(self) -> None:
        remote = there((state(MINE), A))
        rename = Rename(n=NO_OP, time_ns=1, parent=ROOT, name=b"a", new_parent=ROOT, new_name=b"b", inode=MINE)
        assert decide(EXCHANGE, "absent", here(state(MINE), B), remote) == [Make(rename)]
        remote.put(state(THEIRS, content=b"theirs"), B)
        found = decide(EXCHANGE, "changed", here(state(MINE), B), remote)
        assert found == [Make(rename, is_aside=True, of=THEIRS, base=BASE)]

    def test_file_moved_elsewhere_stays_here_if_its_other_name_was_removed(self) -> None:
        remote, local = there((state(MINE), Place(ROOT, b"c"))), here(state(MINE), B)
        assert decide(RENAME, "absent", local, remote) == [Drop("it was moved elsewhere first")]
        local.removed.add(Place(ROOT, b"c"))
        assert decide(RENAME, "absent", local, remote) == [Make(msgspec.structs.replace(RENAME, name=b"c"))]

    def test_exchange_of_what_has_moved_is_given_up(self) -> None:
        remote = there((state(MINE), A), (state(THEIRS), B))
        (found,) = decide(EXCHANGE, "changed", Device(), remote)
        assert isinstance(found, Drop)
        assert found.why
        remote.entries[B] = OTHER
        assert decide(EXCHANGE, "changed", Device(), remote) == [Make(EXCHANGE)]

    @pytest.mark.parametrize("change", [ATTRIBUTES, XATTR])
    def test_attributes_follow_the_inode_and_end_with_it(self, change: Mutation) -> None:
        assert decide(change, "absent", here(state(MINE), A), there((state(MINE), B))) == [Make(change)]
        assert decide(change, "absent", here(state(MINE), A), there()) == [Drop()]

    @pytest.mark.parametrize("change", [ATTRIBUTES, XATTR])
    def test_attributes_of_an_edited_file_bring_it_back(self, change: Mutation) -> None:
        remote = there()
        remote.places[MINE] = A
        local = here(state(MINE), A, is_edited=True)
        assert decide(change, "absent", local, remote) == [Make(restored(MINE, A)), Make(change)]
        remote.rewritten.add(MINE)
        assert decide(change, "absent", local, remote) == [Drop()]

    def test_what_is_never_allowed_and_carries_nothing_is_given_up(self) -> None:
        (found,) = decide(UNLINK, "role", Device(), there((state(MINE), A)), is_final=True)
        assert isinstance(found, Drop)
        assert "role" in found.why


MUTATIONS = [
    create(), create(DIRECTORY), create(parent=GONE), STORE, UNLINK, RENAME, OVER, LINK, RESTORE, EXCHANGE, ATTRIBUTES,
    XATTR,
]  # fmt: skip
REASONS = ["exists", "absent", "changed", "not_empty", "cycle", "no_parent"]
INODES = [MINE, THEIRS, OLD, OTHER, GONE]
KINDS = st.sampled_from([FILE, DIRECTORY, SYMLINK])


@st.composite
def sides(draw: st.DrawFn) -> tuple[Device, Backend]:
    """Any two trees of a few inodes; of each, all that may be known."""
    kinds = {inode: draw(KINDS) for inode in INODES}
    local, remote = Device(), there()
    for side in (local, remote):
        for inode in draw(st.sets(st.sampled_from(INODES))):
            content, revision = draw(st.sampled_from([b"mine", b"theirs"])), draw(st.integers(3, 4))
            side.put(state(inode, kinds[inode], content, revision), draw(st.sampled_from([A, B, Place(GONE, b"a")])))
            side.contents[inode] = content
    local.edited = set(draw(st.sets(st.sampled_from(INODES))))
    remote.places = {
        i: draw(st.sampled_from([A, B, Place(GONE, b"z")])) for i in draw(st.sets(st.sampled_from(INODES)))
    }
    remote.rewritten = set(draw(st.sets(st.sampled_from(INODES))))
    return local, remote


@given(st.sampled_from(MUTATIONS), st.sampled_from(REASONS), sides())
def test_content_is_never_given_up_whatever_the_state(
    mutation: Mutation, reason: str, both: tuple[Device, Backend]
) -> None:
    local, remote = both
    before = (replace(local), replace(remote))
    actions = decide(mutation, reason, local, remote)
    assert actions
    assert (local, remote) == before
    carries = isinstance(mutation, Store) and local.is_edited(mutation.inode) and local.inode(mutation.inode)
    if carries:
        assert not any(isinstance(action, Drop) for action in actions)
    made = [action.mutation for action in actions if isinstance(action, Make)]
    if isinstance(mutation, Create) and local.inode(MINE) is not None and remote.at(A) != MINE:
        assert mutation in made or any(isinstance(action, Merge) for action in actions)
    for action in actions:
        if isinstance(action, Merge) and action.into != LOST_AND_FOUND:
            assert remote.inode(action.into) is not None
        if isinstance(action, Adopt):
            assert local.content(mutation.inode) == action.state.blocks
