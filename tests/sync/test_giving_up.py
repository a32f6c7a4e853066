"""What the backend refuses for good: its content goes to `lost+found` first, then what the backend has shows again."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from cache.errors import Corrupt
from drivefs.protocol.changes import Create, Rename, SetAttributes, SetXattr, Unlink
from drivefs.protocol.ids import InodeId, Seq
from drivefs.protocol.model import InodeKind
from drivefs.remote.errors import Offline
from tests.fs.bench import ME, ROOT
from tests.support.journals import mark_sent
from tests.sync.giving_up_world import World, only, sound


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from sound(tmp_path)


def test_a_new_file_goes_to_lost_and_found_and_from_the_drive(world: World) -> None:
    _inode, create, store = world.stored(b"a.txt", b"mine")
    world.reject(create, store)
    world.give_up()
    name, content = only(world.lost)
    assert (name.startswith("a (not taken, "), name.endswith(").txt"), content) == (True, True, b"mine")
    assert world.bench.lookup(b"a.txt") is None
    assert (ROOT, b"a.txt") in world.kernel.forgotten
    assert world.journal.pending_count == world.journal.drafts.count() == world.journal.pending_bytes == 0
    (note,) = world.giving_up.notes
    assert "'a.txt'" in note
    assert name in note
    assert "larger than the server allows" in note
    assert "not in the drive any more" in note


@pytest.mark.fault(54)
def test_an_edit_goes_there_whole_and_the_drive_shows_what_the_server_has(world: World) -> None:
    inode, store = world.edited(b"a.txt", b"before and after", 0, b"BEFORE")
    world.reject(store)
    world.give_up()
    assert only(world.lost)[1] == b"BEFORE and after"
    assert world.bench.read(inode) == b"before and after"
    assert world.bench.fs.inode(inode).size == 16
    assert world.journal.pending_count == world.journal.drafts.count() == 0
    assert "as the server has it" in world.giving_up.notes[0]


def test_what_else_waits_about_the_file_goes_on(world: World) -> None:
    inode, store = world.edited(b"a", b"before", 0, b"longer than before")
    world.bench.rename(b"a", b"b")
    world.reject(store)
    world.give_up()
    assert [type(change) for change in world.waiting(inode)] == [Rename]
    assert world.bench.lookup(b"a") is None
    assert world.bench.read(inode) == b"before"
    assert world.bench.fs.inode(inode).size == 6


def test_a_removal_behind_it_is_made_on_what_the_server_has(world: World) -> None:
    inode, store = world.edited(b"a", b"before", 0, b"after")
    world.bench.unlink(b"a")
    world.reject(store)
    world.give_up()
    (unlink,) = world.waiting(inode)
    assert isinstance(unlink, Unlink)
    assert unlink.base == store.base
    assert world.lost == {}, "it was removed here"


def test_bytes_that_are_not_here_are_fetched(world: World) -> None:
    _inode, store = world.edited(b"a", b"x" * 1000, 10, b"mine")
    blocks = dict(world.bench.backend.blocks)
    trio.run(world.bench.local.blocks.clear)
    world.bench.backend.blocks = blocks
    world.reject(store)
    world.bench.backend.is_online = False
    with pytest.raises(Offline):
        world.give_up()
    assert world.journal.drafts.count() == 1, "nothing is dropped before all of it is there"
    world.bench.backend.is_online = True
    world.give_up()
    assert only(world.lost)[1] == b"x" * 10 + b"mine" + b"x" * 986
    assert "never on this device" not in world.giving_up.notes[0]


@pytest.mark.fault(54)
def test_a_crash_between_the_two_steps_writes_it_once_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    inode, create, store = world.stored(b"a", b"mine")
    world.reject(create, store)
    with monkeypatch.context() as crash:
        crash.setattr(world.giving_up, "_drop", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("crash")))
        with pytest.raises(RuntimeError, match="crash"):
            world.give_up()
    assert only(world.lost)[1] == b"mine"
    assert world.bench.read(inode) == b"mine"
    world.restart()
    world.give_up()
    assert only(world.lost)[1] == b"mine", "under the same name"
    assert world.bench.lookup(b"a") is None
    assert world.journal.pending_count == 0


def test_a_crash_while_it_is_written_leaves_no_file_that_passes_for_the_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _inode, create, store = world.stored(b"a", b"mine")
    world.reject(create, store)
    with monkeypatch.context() as crash:
        crash.setattr("drivefs.sync.giving_up.finish", lambda *_: (_ for _ in ()).throw(RuntimeError("crash")))
        with pytest.raises(RuntimeError, match="crash"):
            world.give_up()
    assert only(world.lost)[0].endswith(".part")
    world.give_up()
    assert not only(world.lost)[0].endswith(".part")


def test_a_full_disk_keeps_it_all_in_the_journal(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    inode, create, store = world.stored(b"a", b"mine")
    world.reject(create, store)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("drivefs.sync.giving_up.finish", full)
        with pytest.raises(Exception, match=r"could not be written to .*lost"):
            world.give_up()
    assert world.bench.read(inode) == b"mine"
    assert world.journal.pending_count == 2


def test_what_is_damaged_here_waits_and_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _inode, create, store = world.stored(b"a", b"mine")
    world.reject(create, store)

    def rotten(*_: object) -> None:
        raise Corrupt("a record does not match its checksum")

    with monkeypatch.context() as disk:
        disk.setattr(world.journal.drafts, "records", rotten)
        world.give_up()
    (note,) = world.giving_up.notes
    assert "is damaged here" in note
    assert world.lost == {}
    world.give_up()
    assert only(world.lost)[1] == b"mine"


def test_nothing_is_given_up_while_a_commit_is_under_way(world: World) -> None:
    inode, create, store = world.stored(b"a", b"mine")
    world.reject(create, store)

    async def main() -> None:
        undisturbed = trio.Lock()
        async with trio.open_nursery() as nursery, undisturbed:
            nursery.start_soon(world.giving_up.work, undisturbed)
            await trio.testing.wait_all_tasks_blocked()
            assert world.waiting(inode) == [create, store]
            world.write(inode, 4, b" and more")

    trio.run(main)
    assert b"mine and more" in world.lost.values()


def test_what_is_sent_while_it_is_copied_is_waited_for(world: World) -> None:
    inode, store = world.edited(b"a", b"before", 0, b"after!")
    world.reject(store)
    world.chmod(inode, 0o600)
    (mode,) = world.pending(SetAttributes, inode)

    async def main() -> None:
        undisturbed = trio.Lock()
        async with trio.open_nursery() as nursery, undisturbed:
            nursery.start_soon(world.giving_up.work, undisturbed)
            await trio.testing.wait_all_tasks_blocked()
            mark_sent(world.journal, [mode.n])

    trio.run(main)
    assert world.waiting(inode) == [store, mode]
    assert world.bench.read(inode) == b"after!"


def test_what_is_written_while_it_is_copied_is_copied_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    inode, store = world.edited(b"a", b"before", 0, b"after!")
    world.reject(store)
    first = iter([True])

    def overtaken(*_: object) -> None:
        if next(first, False):
            world.write(inode, 0, b"LATER!")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr("drivefs.sync.giving_up.finish", overtaken)
        world.give_up()
    assert sorted(world.lost.values()) == [b"LATER!", b"after!"]
    assert world.bench.read(inode) == b"before"


def test_what_somebody_writes_to_waits_until_it_is_closed(world: World) -> None:
    inode, create, store = world.stored(b"a", b"mine")
    number = world.bench.fs.open(inode, os.O_RDWR, ME)
    world.reject(create, store)
    world.give_up()
    assert (world.lost, world.giving_up.is_waiting) == ({}, True)
    assert "A program has it open" in world.giving_up.notes[0]
    world.bench.fs.write(number, 4, b" and more")
    world.bench.fs.release(number)
    assert not world.giving_up.is_waiting or world.giving_up.notes
    world.give_up()
    assert only(world.lost)[1] == b"mine and more"
    assert not world.giving_up.is_waiting


def test_what_had_to_wait_and_was_closed_is_not_done_before_it_is_looked_at_again(world: World) -> None:
    """`sync --wait` would else end while the file still shows what the server does not take."""
    inode, create, store = world.stored(b"a", b"mine")
    number = world.bench.fs.open(inode, os.O_RDWR, ME)
    world.reject(create, store)
    world.give_up()
    world.giving_up.look()
    assert not world.giving_up.is_done
    world.give_up()
    assert world.giving_up.is_done, "a program has it open"
    world.bench.fs.release(number)
    world.giving_up.look()
    assert not world.giving_up.is_done
    world.give_up()
    assert world.giving_up.is_done
    world.giving_up.look()
    assert world.giving_up.is_done, "there is nothing to be given up"


def test_who_reads_a_new_file_goes_on_reading_it(world: World) -> None:
    inode, create, store = world.stored(b"a", b"mine")
    number = world.bench.fs.open(inode, os.O_RDONLY, ME)
    world.reject(create, store)
    world.give_up()
    assert world.bench.lookup(b"a") is None
    assert trio.run(world.bench.fs.read, number, 0, 99) == b"mine"
    assert world.bench.fs.inode(inode).nlink == 0
    world.bench.fs.release(number)
    assert world.journal.drafts.count() == 0


def test_who_reads_an_edited_file_reads_what_the_server_has(world: World) -> None:
    inode, store = world.edited(b"a", b"before", 0, b"after!")
    number = world.bench.fs.open(inode, os.O_RDONLY, ME)
    world.reject(store)
    world.give_up()
    assert trio.run(world.bench.fs.read, number, 0, 99) == b"before"
    world.bench.fs.release(number)


def test_directories_and_links_go_with_a_sentence_after_what_is_in_them(world: World) -> None:
    directory = world.bench.mkdir(b"d")
    inode = world.bench.file(b"a", b"mine", directory)
    (made,) = world.pending(Create, directory)
    (create,) = world.pending(Create, inode)
    world.reject(made, reason="role")
    world.give_up()
    assert world.bench.lookup(b"d") is not None, "something in it has no answer yet"
    world.hear((create, "no_parent"))
    assert world.settle()
    world.give_up()
    assert only(world.lost)[1] == b"mine"
    assert world.bench.lookup(b"d") is None
    assert world.journal.pending_count == 0
    content, gone = world.giving_up.notes
    assert "'d/a'" in content
    assert "the directory that was made here as 'd'" in gone


def test_a_directory_goes_with_what_is_refused_while_it_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sync --wait` would else end while the directory still shows."""
    directory = world.bench.mkdir(b"d")
    inode = world.bench.file(b"a", b"mine", directory)
    (made,) = world.pending(Create, directory)
    (create,) = world.pending(Create, inode)
    world.reject(made, reason="role")
    give_up = world.giving_up._give_up
    done: list[bool] = []

    async def spied(asked: InodeId, undisturbed: trio.Lock) -> bool:
        done.append(world.giving_up.is_done)
        is_given_up = await give_up(asked, undisturbed)
        if len(done) == 1:
            world.hear((create, "no_parent"))
            assert await world.refusals.settle()
        return is_given_up

    monkeypatch.setattr(world.giving_up, "_give_up", spied)
    world.give_up()
    assert world.bench.lookup(b"d") is None
    assert not any(done)
    assert world.giving_up.is_done


def test_a_rename_and_a_mode_that_are_refused_show_as_they_were(world: World) -> None:
    inode = world.published(b"a", b"mine")
    world.learned(b"a", inode)
    world.bench.rename(b"a", b"b")
    world.chmod(inode, 0o600)
    world.reject(*world.pending(Rename), *world.pending(SetAttributes), reason="role")
    world.give_up()
    assert world.bench.lookup(b"b") is None
    found = world.bench.lookup(b"a")
    assert found is not None
    assert found.mode & 0o777 == 0o644
    assert (world.lost, world.journal.pending_count) == ({}, 0)
    assert "may not change anything" in world.giving_up.notes[0]


def test_a_removal_that_is_refused_is_told_by_the_name_that_it_took(world: World) -> None:
    inode = world.published(b"a", b"theirs")
    world.learned(b"a", inode)
    world.bench.unlink(b"a")
    world.reject(*world.pending(Unlink), reason="role")
    world.give_up()
    assert world.bench.lookup(b"a") is not None
    (note,) = world.giving_up.notes
    assert note.startswith("a change made here to the file 'a' was given up, ")


def test_what_was_removed_in_vain_and_forgotten_and_is_back_is_as_the_server_has_it(world: World) -> None:
    """As in a share that came anew: what others do to it shows, since nothing here hides it."""
    inode = world.published(b"a", b"theirs")
    world.learned(b"a", inode)
    theirs = world.bench.local.replica.inode(inode)
    assert theirs is not None
    world.bench.unlink(b"a")
    world.reject(*world.pending(Unlink), reason="role")
    world.bench.local.replica.forget_tree(inode, ROOT)
    world.give_up()
    assert world.bench.fs.inode(inode).nlink == 0
    world.bench.local.replica.put_inodes([theirs], Seq(9))
    found = world.bench.lookup(b"a")
    assert found is not None
    assert (found.nlink, world.bench.read(inode)) == (1, b"theirs")
    assert world.journal.overlay.inode(inode) is None


def test_what_replaced_a_file_is_given_up_and_the_file_is_back(world: World) -> None:
    old = world.published(b"a", b"old")
    world.learned(b"a", old)
    _inode, create, store = world.stored(b"tmp", b"new")
    world.bench.rename(b"tmp", b"a")
    world.reject(create, store)
    world.hear((world.pending(Rename)[0], "predecessor"))
    world.give_up()
    found = world.bench.lookup(b"a")
    assert found is not None
    assert (found.inode, found.nlink, world.bench.read(old)) == (old, 1, b"old")
    assert world.bench.lookup(b"tmp") is None
    name, content = only(world.lost)
    assert (name.startswith("a (not taken"), content) == (True, b"new")


def test_so_it_is_where_nothing_is_here_of_what_replaced_it(world: World) -> None:
    old = world.published(b"a", b"old")
    world.learned(b"a", old)
    inode, create, store = world.stored(b"tmp", b"new")
    world.bench.rename(b"tmp", b"a")
    world.journal.drafts.drop_draft(inode)
    world.reject(create, store, reason="content")
    world.hear((world.pending(Rename)[0], "predecessor"))
    world.give_up()
    assert world.bench.lookup(b"a").inode == old
    assert world.bench.read(old) == b"old"
    assert world.journal.pending_count == 0
    assert "neither on this device" in " ".join(world.giving_up.notes)


def test_what_it_replaced_here_and_the_server_never_had_does_not_wait_for_its_content_for_ever(world: World) -> None:
    first = world.bench.file(b"a", b"first")
    inode = world.bench.file(b"b", b"second")
    world.bench.rename(b"b", b"a")
    world.giving_up.refused(inode, "role")
    world.give_up()
    assert only(world.lost)[1] == b"second"
    assert (world.bench.lookup(b"a"), world.bench.lookup(b"b")) == (None, None)
    assert world.waiting(first) == []
    assert world.journal.pending_count == world.journal.drafts.count() == 0


def test_what_it_replaced_here_and_the_server_has_is_there_again(world: World) -> None:
    first = world.published(b"a", b"first")
    world.learned(b"a", first)
    inode = world.bench.file(b"b", b"second")
    world.bench.rename(b"b", b"a")
    world.giving_up.refused(inode, "role")
    world.give_up()
    assert only(world.lost)[1] == b"second"
    assert world.bench.lookup(b"a").inode == first
    assert world.bench.read(first) == b"first"
    assert world.journal.pending_count == world.journal.drafts.count() == 0


def test_content_that_may_not_even_be_sent_is_given_up_too(world: World) -> None:
    inode = world.bench.file(b"a", b"mine")
    world.giving_up.refused(inode, "role")
    assert not world.giving_up.is_done
    world.give_up()
    assert world.giving_up.is_done
    assert only(world.lost)[1] == b"mine"
    assert world.bench.lookup(b"a") is None
    assert world.journal.pending_count == 0


def test_what_was_sent_and_has_no_answer_is_waited_for(world: World) -> None:
    inode, store = world.edited(b"a", b"before", 0, b"after!")
    world.chmod(inode, 0o600)
    (change,) = world.pending(SetAttributes, inode)
    world.reject(store)
    with world.journal.transaction():
        mark_sent(world.journal, [change.n])
    world.give_up()
    assert (world.lost, world.giving_up.is_waiting) == ({}, True)


def test_what_was_put_aside_is_told_until_somebody_has_taken_it_away(world: World) -> None:
    _inode, create, store = world.stored(b"a", b"mine")
    world.reject(create, store)
    world.give_up()
    world.restart()
    assert len(world.giving_up.notes) == 1
    (world.bench.place / "state/lost+found" / only(world.lost)[0]).unlink()
    assert world.giving_up.notes == []


@pytest.mark.parametrize("name", [b"a" * 255, b"\xff\xfe", b".hidden", b"x." + b"y" * 100, b"new\nline"])
def test_any_name_gets_one_in_lost_and_found(world: World, name: bytes) -> None:
    _inode, create, store = world.stored(name, b"mine")
    world.reject(create, store)
    world.give_up()
    kept, content = only(world.lost)
    assert content == b"mine"
    assert len(os.fsencode(kept)) <= 255
    assert os.fsencode(kept)[:2] == name[:2]


def test_pipes_and_empty_files_leave_no_file_behind(world: World) -> None:
    pipe = world.bench.make(b"p", InodeKind.FIFO)
    world.reject(*world.pending(Create, pipe.inode), reason="malformed")
    world.give_up()
    assert world.bench.lookup(b"p") is None
    assert world.lost == {}
    assert "the special file that was made here as 'p'" in world.giving_up.notes[0]
    assert "malformed" in world.giving_up.notes[0]


def test_what_was_set_of_a_directory_that_was_found_to_be_another_is_given_up_once(world: World) -> None:
    directory, theirs = world.bench.mkdir(b"directory"), InodeId(2**40)
    world.bench.fs.set_xattr(directory, b"user.mine", b"value")
    (create,), (change,) = world.pending(Create, directory), world.pending(SetXattr, directory)
    world.remote(b"directory", theirs, InodeKind.DIRECTORY)
    state = world.bench.local.replica.inode(theirs)
    assert state is not None
    world.bench.backend.listings[theirs] = (state, [])
    world.hear((create, "exists"))
    world.reject(change)
    assert world.settle()
    assert [row.mutation.inode for row in world.journal.rejected(10)] == [theirs]
    trio.run(world.giving_up._give_up_once, trio.Lock())
    assert world.journal.rejected(10) == [], "else it would be given up again, without end"
    assert [type(row.mutation) for row in world.journal.unsettled(10)] == [SetAttributes], "what else was set is sent"
    assert world.bench.lookup(b"directory") is not None
