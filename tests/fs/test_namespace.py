"""Names: what each change leaves behind, in what programs see, in the overlay and in the journal."""

import stat

import pytest

from cache.errors import DiskFull
from drivefs.fs import errors
from drivefs.fs.attributes import Wanted
from drivefs.protocol.changes import Base, Create, Exchange, Rename, SetXattr, Unlink
from drivefs.protocol.ids import NO_INODE, InodeId, RevisionNumber, Seq
from drivefs.protocol.model import InodeKind, InodeState
from tests.fs.bench import ROOT, FsBench, User
from tests.support.journals import mark_sent


def existing(bench: FsBench, name: bytes, parent: InodeId = ROOT) -> InodeState:
    state = bench.lookup(name, parent)
    assert state is not None
    return state


def test_a_new_inode_is_there_at_once_and_after_a_crash(bench: FsBench) -> None:
    made = bench.make(b"file")
    assert existing(bench, b"file") == made
    bench.reopen()
    assert existing(bench, b"file") == made
    assert bench.names() == {b"file"}


def test_each_kind_of_inode_keeps_what_it_is(bench: FsBench) -> None:
    bench.make(b"fifo", InodeKind.FIFO)
    bench.make(b"device", InodeKind.CHARACTER_DEVICE, rdev=0x103)
    bench.make(b"link", InodeKind.SYMLINK, target=b"some\xfftarget")
    bench.reopen()
    assert existing(bench, b"fifo").kind is InodeKind.FIFO
    assert existing(bench, b"device").rdev == 0x103
    link = existing(bench, b"link")
    assert bench.fs.target_of(link.inode) == b"some\xfftarget"
    assert link.size == 11
    with pytest.raises(errors.Invalid):
        bench.fs.target_of(existing(bench, b"fifo").inode)


def test_what_the_mounting_user_makes_is_stored_as_mine(bench: FsBench) -> None:
    assert (bench.make(b"mine").uid, bench.make(b"also mine").gid) == (None, None)


def test_what_others_make_is_stored_as_theirs(bench: FsBench) -> None:
    from drivefs.fs.namespace import NewInode

    new = NewInode(parent=ROOT, name=b"theirs", kind=InodeKind.FILE, mode=0o644)
    state = bench.run(bench.fs.create, new, User(33, 44))
    assert (state.uid, state.gid) == (33, 44)


def test_a_setgid_directory_passes_on_its_group(bench: FsBench) -> None:
    directory = bench.mkdir(b"directory")
    bench.fs.set_attributes(directory, Wanted(mode=0o2775, gid=55))
    file, below = bench.make(b"file", parent=directory), bench.mkdir(b"below", directory)
    assert (file.gid, file.mode) == (55, 0o644)
    state = bench.fs.inode(below)
    assert (state.gid, state.mode) == (55, 0o755 | stat.S_ISGID)


@pytest.mark.parametrize("name", [b"x" * 256, b"y" * 1000])
def test_names_that_are_too_long_are_refused_everywhere(bench: FsBench, name: bytes) -> None:
    bench.file(b"file")
    with pytest.raises(errors.NameTooLong):
        bench.make(name)
    with pytest.raises(errors.NameTooLong):
        bench.lookup(name)
    with pytest.raises(errors.NameTooLong):
        bench.rename(b"file", name)
    with pytest.raises(errors.NameTooLong):
        bench.unlink(name)


def test_names_are_bytes(bench: FsBench) -> None:
    names = {b"\xff\xfe", b"caf\xc3\xa9", b"cafe\xcc\x81", b"A", b"a", b"x" * 255, b"\n"}
    for name in names:
        bench.file(name)
    assert bench.names() == names
    bench.reopen()
    assert bench.names() == names


def test_an_existing_name_is_not_made_again(bench: FsBench) -> None:
    bench.file(b"file")
    for kind in (InodeKind.FILE, InodeKind.DIRECTORY, InodeKind.SYMLINK):
        with pytest.raises(errors.Exists):
            bench.make(b"file", kind)


def test_nothing_is_made_below_what_is_no_directory_or_was_removed(bench: FsBench) -> None:
    file, directory = bench.file(b"file"), bench.mkdir(b"directory")
    with pytest.raises(errors.NotDirectory):
        bench.make(b"below", parent=file)
    bench.run(bench.fs.rmdir, ROOT, b"directory")
    with pytest.raises(errors.NotFound):
        bench.make(b"below", parent=directory)


def test_directories_count_their_subdirectories(bench: FsBench) -> None:
    one, other = bench.mkdir(b"one"), bench.mkdir(b"other")
    below = bench.mkdir(b"below", one)
    bench.file(b"file", parent=one)
    links = lambda: [bench.fs.inode(each).nlink for each in (ROOT, one, other, below)]  # noqa: E731
    assert links() == [4, 3, 2, 2]
    bench.run(bench.fs.rename, (one, b"below"), (other, b"below"))
    assert links() == [4, 2, 3, 2]
    bench.run(bench.fs.exchange, (other, b"below"), (one, b"file"))
    assert links() == [4, 3, 2, 2]
    bench.run(bench.fs.rmdir, one, b"file")
    assert links() == [4, 2, 2, 0]


def test_changes_in_a_directory_move_its_times(bench: FsBench) -> None:
    def moved() -> bool:
        nonlocal before
        now = bench.fs.inode(ROOT)
        has_moved = now.mtime_ns > before.mtime_ns and now.mtime_ns == now.ctime_ns
        before = now
        return has_moved

    before = bench.fs.inode(ROOT)
    inode = bench.file(b"file")
    assert moved()
    bench.run(bench.fs.link, inode, ROOT, b"other")
    assert moved()
    bench.rename(b"other", b"another")
    assert moved()
    bench.unlink(b"file")
    assert moved()
    bench.unlink(b"another")
    assert moved()


def test_changes_of_its_names_move_only_ctime_of_an_inode(bench: FsBench) -> None:
    inode = bench.file(b"file", b"content")
    before = bench.fs.inode(inode)
    bench.run(bench.fs.link, inode, ROOT, b"other")
    linked = bench.fs.inode(inode)
    bench.rename(b"other", b"another")
    renamed = bench.fs.inode(inode)
    bench.unlink(b"another")
    unlinked = bench.fs.inode(inode)
    assert before.ctime_ns < linked.ctime_ns < renamed.ctime_ns < unlinked.ctime_ns
    assert {each.mtime_ns for each in (before, linked, renamed, unlinked)} == {before.mtime_ns}
    assert [each.nlink for each in (before, linked, renamed, unlinked)] == [1, 2, 2, 1]


def test_hard_links_lead_to_one_inode(bench: FsBench) -> None:
    inode = bench.file(b"file", b"content")
    bench.run(bench.fs.link, inode, ROOT, b"other")
    assert existing(bench, b"other").inode == inode
    with pytest.raises(errors.Exists):
        bench.run(bench.fs.link, inode, ROOT, b"file")
    with pytest.raises(errors.NotPermitted):
        bench.run(bench.fs.link, bench.mkdir(b"directory"), ROOT, b"third")
    bench.unlink(b"file")
    assert bench.read(inode) == b"content"


def test_a_name_goes_without_a_look_at_all_others(bench: FsBench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run(bench.fs.link, bench.file(b"file"), ROOT, b"other")
    monkeypatch.setattr(bench.local.journal, "touching", None)
    bench.unlink(b"other")


def test_removing_asks_for_the_right_kind(bench: FsBench) -> None:
    bench.file(b"file")
    directory = bench.mkdir(b"directory")
    bench.file(b"below", parent=directory)
    with pytest.raises(errors.IsDirectory):
        bench.unlink(b"directory")
    with pytest.raises(errors.NotDirectory):
        bench.run(bench.fs.rmdir, ROOT, b"file")
    with pytest.raises(errors.NotEmpty):
        bench.run(bench.fs.rmdir, ROOT, b"directory")
    for remove in (bench.fs.unlink, bench.fs.rmdir):
        with pytest.raises(errors.NotFound):
            bench.run(remove, ROOT, b"missing")


def test_a_rename_names_what_it_replaces_and_at_which_revision(bench: FsBench) -> None:
    old = bench.file(b"file", b"old")
    revision = bench.publish(old)
    new = bench.file(b"new", b"new")
    bench.rename(b"new", b"file")
    assert existing(bench, b"file").inode == new
    assert bench.lookup(b"new") is None
    assert bench.fs.inode(old).nlink == 0
    (renaming,) = [each for each in bench.mutations() if isinstance(each, Rename)]
    assert (renaming.inode, renaming.replaced, renaming.base) == (new, old, Base(revision=revision))
    bench.reopen()
    assert bench.names() == {b"file"}


def test_renames_respect_kinds_and_contents(bench: FsBench) -> None:
    bench.file(b"file")
    empty, full = bench.mkdir(b"empty"), bench.mkdir(b"full")
    bench.file(b"below", parent=full)
    with pytest.raises(errors.IsDirectory):
        bench.rename(b"file", b"empty")
    with pytest.raises(errors.NotDirectory):
        bench.rename(b"empty", b"file")
    with pytest.raises(errors.NotEmpty):
        bench.rename(b"empty", b"full")
    with pytest.raises(errors.NotFound):
        bench.rename(b"missing", b"file")
    with pytest.raises(errors.Exists):
        bench.rename(b"file", b"empty", replace=False)
    bench.rename(b"full", b"empty")
    assert bench.names() == {b"file", b"empty"}
    assert bench.fs.inode(empty).nlink == 0
    assert bench.fs.inode(ROOT).nlink == 3


def test_a_rename_between_two_names_of_one_inode_does_nothing(bench: FsBench) -> None:
    inode = bench.file(b"file")
    bench.run(bench.fs.link, inode, ROOT, b"other")
    count = len(bench.mutations())
    bench.rename(b"file", b"other")
    assert bench.names() == {b"file", b"other"}
    assert len(bench.mutations()) == count


def test_an_exchange_swaps_two_names(bench: FsBench) -> None:
    file, directory = bench.file(b"file"), bench.mkdir(b"directory")
    bench.run(bench.fs.exchange, (ROOT, b"file"), (ROOT, b"directory"))
    assert (existing(bench, b"file").inode, existing(bench, b"directory").inode) == (directory, file)
    (swap,) = [each for each in bench.mutations() if isinstance(each, Exchange)]
    assert (swap.inode, swap.other) == (file, directory)
    with pytest.raises(errors.NotFound):
        bench.run(bench.fs.exchange, (ROOT, b"file"), (ROOT, b"missing"))


def test_a_failed_change_leaves_nothing(bench: FsBench, monkeypatch: pytest.MonkeyPatch) -> None:
    inode = bench.file(b"file")
    before, names = bench.fs.inode(ROOT), bench.names()

    def fails(*args: object) -> None:
        raise DiskFull("no room")

    with monkeypatch.context() as patched:
        patched.setattr(bench.local.journal.overlay, "put_inode", fails)
        with pytest.raises(DiskFull):
            bench.make(b"other")
        with pytest.raises(DiskFull):
            bench.rename(b"file", b"renamed")
    assert bench.lookup(b"other") is None
    assert bench.lookup(b"renamed") is None
    assert existing(bench, b"file").inode == inode
    assert (bench.fs.inode(ROOT), bench.names()) == (before, names)


# -- what is not here ------------------------------------------------------------------------------------------------


def test_a_directory_is_listed_when_it_is_first_asked_for(bench: FsBench) -> None:
    state = InodeState(
        inode=InodeId(77), kind=InodeKind.FILE, mode=0o600, size=3, revision=RevisionNumber(1), seq=Seq(1)
    )
    bench.add_remote_directory(b"remote", InodeId(76), {b"file": state})
    assert existing(bench, b"file", InodeId(76)).size == 3
    assert bench.lookup(b"missing", InodeId(76)) is None
    assert bench.names(InodeId(76)) == {b"file"}


def test_a_name_that_is_not_known_is_an_error_offline_and_not_missing(bench: FsBench) -> None:
    bench.add_remote_directory(b"remote", InodeId(76), {})
    bench.backend.is_online = False
    for call in (
        lambda: bench.lookup(b"file", InodeId(76)),
        lambda: bench.names(InodeId(76)),
        lambda: bench.make(b"file", parent=InodeId(76)),
        lambda: bench.unlink(b"file", InodeId(76)),
        lambda: bench.run(bench.fs.rmdir, ROOT, b"remote"),
    ):
        with pytest.raises(errors.Unavailable):
            call()
    assert bench.names() == {b"remote"}


def test_own_directories_work_offline(bench: FsBench) -> None:
    bench.backend.is_online = False
    directory = bench.mkdir(b"own")
    assert bench.lookup(b"missing", directory) is None
    bench.file(b"file", parent=directory)
    bench.reopen()
    assert bench.names(directory) == {b"file"}


def test_own_changes_lie_over_what_the_backend_has(bench: FsBench) -> None:
    kept, gone = (InodeState(inode=InodeId(number), kind=InodeKind.FILE, mode=0o600, seq=Seq(1)) for number in (77, 78))
    bench.add_remote_directory(b"remote", InodeId(76), {b"kept": kept, b"gone": gone})
    bench.unlink(b"gone", InodeId(76))
    bench.file(b"new", parent=InodeId(76))
    bench.reopen()
    assert bench.names(InodeId(76)) == {b"kept", b"new"}
    assert bench.lookup(b"gone", InodeId(76)) is None


def test_the_name_is_looked_at_again_after_waiting(bench: FsBench) -> None:
    """While one waits for a listing, another may have made the name."""
    bench.add_remote_directory(b"remote", InodeId(76), {})
    taken = InodeState(inode=InodeId(77), kind=InodeKind.FILE, mode=0o600, seq=Seq(1))
    bench.backend.during = lambda: bench.add_remote_directory(b"remote", InodeId(76), {b"file": taken})
    with pytest.raises(errors.Exists):
        bench.make(b"file", parent=InodeId(76))


# -- directories -----------------------------------------------------------------------------------------------------


def test_a_listing_stays_as_it_was_taken_and_begins_anew_from_the_start(bench: FsBench) -> None:
    for index in range(5):
        bench.file(b"%d" % index)
    number = bench.fs.open_directory(ROOT)
    entries = bench.run(bench.fs.read_directory, number, 0)
    first = [next(entries) for _ in range(4)]
    place = first[-1][2]
    bench.unlink(b"0")
    bench.unlink(b"4")
    bench.file(b"new")
    rest = [name for name, _, _ in bench.run(bench.fs.read_directory, number, place)]
    seen = [name for name, _, _ in first] + rest
    assert sorted(set(seen) & {b"1", b"2", b"3"}) == [b"1", b"2", b"3"]
    assert len(seen) == len(set(seen))
    again = {name for name, _, _ in bench.run(bench.fs.read_directory, number, 0)}
    assert again == {b".", b"..", b"1", b"2", b"3", b"new"}
    bench.fs.release_directory(number)


def test_dots_have_the_right_numbers(bench: FsBench) -> None:
    outer = bench.mkdir(b"outer")
    inner = bench.mkdir(b"inner", outer)
    bench.compose()
    for parent, directory in ((ROOT, outer), (outer, inner)):
        number = bench.fs.open_directory(directory)
        dots = {name: state.inode for name, state, _ in bench.run(bench.fs.read_directory, number, 0)}
        assert (dots[b"."], dots[b".."]) == (directory, parent)
        bench.fs.release_directory(number)


def test_a_removed_directory_that_is_open_lists_nothing(bench: FsBench) -> None:
    directory = bench.mkdir(b"directory")
    number = bench.fs.open_directory(directory)
    bench.run(bench.fs.rmdir, ROOT, b"directory")
    assert list(bench.run(bench.fs.read_directory, number, 0)) == []
    bench.fs.release_directory(number)


# -- taken together ----------------------------------------------------------------------------------------------------


def test_what_is_made_and_removed_before_it_is_sent_leaves_nothing(bench: FsBench) -> None:
    inode = bench.file(b"temporary", b"content")
    bench.fs.set_attributes(inode, Wanted(mode=0o600))
    bench.fs.set_xattr(inode, b"user.x", b"1")
    bench.unlink(b"temporary")
    directory = bench.mkdir(b"directory")
    bench.file(b"below", parent=directory)
    bench.unlink(b"below", directory)
    bench.run(bench.fs.rmdir, ROOT, b"directory")
    assert bench.mutations() == []
    assert bench.names() == set()
    bench.reopen()
    assert (bench.names(), bench.fs.inode(ROOT).nlink) == (set(), 2)


def test_times_of_a_directory_in_which_something_vanished_are_seen_until_the_next_mount(bench: FsBench) -> None:
    before = bench.fs.inode(ROOT).mtime_ns
    bench.file(b"temporary")
    bench.unlink(b"temporary")
    assert bench.fs.inode(ROOT).mtime_ns > before
    bench.reopen()
    assert bench.fs.inode(ROOT).mtime_ns == before


def test_what_another_mutation_needs_does_not_vanish(bench: FsBench) -> None:
    inode = bench.file(b"first", b"content")
    bench.rename(b"first", b"second")
    bench.unlink(b"second")
    kinds = [type(each) for each in bench.mutations()]
    assert kinds == [Create, Rename, Unlink]
    assert bench.fs.inode(inode).nlink == 0


def test_a_name_that_was_taken_before_does_not_vanish(bench: FsBench) -> None:
    """The removal of the earlier inode stands at that name, and has to stay visible."""
    old = bench.file(b"name", b"old")
    bench.publish(old)
    bench.unlink(b"name")
    bench.file(b"name", b"new")
    bench.unlink(b"name")
    assert bench.lookup(b"name") is None
    bench.reopen()
    assert bench.lookup(b"name") is None
    assert [type(each) for each in bench.mutations()] == [Unlink, Create, Unlink]


def test_a_directory_with_sent_children_does_not_vanish(bench: FsBench) -> None:
    directory = bench.mkdir(b"directory")
    bench.file(b"below", parent=directory)
    created = [each for each in bench.mutations() if isinstance(each, Create)]
    mark_sent(bench.local.journal, [created[1].n])
    bench.unlink(b"below", directory)
    bench.run(bench.fs.rmdir, ROOT, b"directory")
    assert [type(each) for each in bench.mutations()] == [Create, Create, Unlink, Unlink]


def test_a_directory_that_vanished_is_not_counted_by_the_one_that_it_was_in(bench: FsBench) -> None:
    bench.mkdir(b"stays")
    bench.mkdir(b"goes")
    bench.run(bench.fs.rmdir, ROOT, b"goes")
    assert bench.fs.inode(ROOT).nlink == 3
    bench.reopen()
    assert bench.fs.inode(ROOT).nlink == 3


def test_what_was_sent_does_not_vanish(bench: FsBench) -> None:
    bench.file(b"file")
    (created,) = bench.mutations()
    mark_sent(bench.local.journal, [created.n])
    bench.unlink(b"file")
    assert [type(each) for each in bench.mutations()] == [Create, Unlink]


def test_every_change_names_itself_in_the_journal_once(bench: FsBench) -> None:
    inode = bench.file(b"file")
    bench.fs.set_xattr(inode, b"user.a", b"1")
    bench.fs.remove_xattr(inode, b"user.a")
    created, set_, removed = bench.mutations()
    assert isinstance(set_, SetXattr)
    assert isinstance(removed, SetXattr)
    assert (set_.value, removed.value) == (b"1", None)
    assert len({each.n for each in (created, set_, removed)}) == 3
    assert all(each.after == [] for each in bench.mutations())


def test_unlinked_names_are_free_again(bench: FsBench) -> None:
    first = bench.file(b"name")
    bench.unlink(b"name")
    second = bench.file(b"name")
    assert first != second
    assert existing(bench, b"name").inode == second
    removed = [each for each in bench.mutations() if isinstance(each, Rename) and each.replaced != NO_INODE]
    assert removed == []


def test_root_is_there_when_the_replica_begins_again(bench: FsBench) -> None:
    bench.file(b"mine", b"content")
    bench.local.replica.set_aside()
    bench.fs.begin_again()
    assert bench.fs.inode(ROOT).kind is InodeKind.DIRECTORY
    bench.backend.listings[ROOT] = (bench.fs.inode(ROOT), [])
    assert bench.names() == {b"mine"}
