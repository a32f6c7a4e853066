"""What the kernel is told of an inode."""

import random
import stat

import pyfuse3
from hypothesis import given
from hypothesis import strategies as st

from drivefs.fs.ownership import Owner
from drivefs.fuse import attributes
from drivefs.fuse.attributes import Translation
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind, InodeState

ROOT = InodeId(1000)


def translation() -> Translation:
    return Translation(ROOT, Owner(501, 502))


def state(**changes: object) -> InodeState:
    fields: dict[str, object] = {"inode": InodeId(2**40), "kind": InodeKind.FILE, "mode": 0o640, **changes}
    return InodeState(**fields)  # type: ignore[arg-type]


def test_an_inode_is_shown_as_it_is() -> None:
    shown = translation().attributes(
        state(size=5000, uid=7, gid=8, nlink=3, rdev=0, atime_ns=1, mtime_ns=-5, ctime_ns=2**61)
    )
    assert (shown.st_ino, shown.st_mode) == (2**40, stat.S_IFREG | 0o640)
    assert (shown.st_size, shown.st_blocks, shown.st_nlink) == (5000, 16, 3)
    assert (shown.st_uid, shown.st_gid) == (7, 8)
    assert (shown.st_atime_ns, shown.st_mtime_ns, shown.st_ctime_ns) == (1, -5, 2**61)
    assert shown.entry_timeout == shown.attr_timeout == attributes.CACHED_SECONDS


def test_mine_is_shown_as_the_mounting_users() -> None:
    shown = translation().attributes(state())
    assert (shown.st_uid, shown.st_gid) == (501, 502)


def test_the_root_has_the_kernels_number_both_ways() -> None:
    both = translation()
    assert both.inode(pyfuse3.ROOT_INODE) == ROOT
    assert both.number(ROOT) == pyfuse3.ROOT_INODE
    assert both.inode(77) == 77
    assert both.number(InodeId(77)) == 77


def test_a_state_is_translated_once_and_a_newer_one_anew() -> None:
    translate = translation().attributes
    first, second = state(size=1), state(size=2)
    assert translate(first) is translate(first)
    assert translate(second).st_size == 2
    assert translate(first).st_size == 1


def test_what_is_kept_is_bounded() -> None:
    kept = translation()
    for number in range(3 * attributes.MAX_CACHED):
        kept.attributes(state(inode=InodeId(number)))
    assert len(kept._cached) <= attributes.MAX_CACHED


def test_a_missing_name_is_one_the_kernel_may_remember() -> None:
    absent = translation().absent
    assert (absent.st_ino, absent.entry_timeout) == (0, attributes.CACHED_SECONDS)


def test_an_inode_that_was_merged_can_be_itself_again() -> None:
    both, one, other = translation(), InodeId(7), InodeId(8)
    both.merge(one, other)
    assert (both.inode(7), both.numbers(other)) == (other, [8, 7])
    both.part(one)
    assert (both.inode(7), both.number(one), both.numbers(other)) == (one, 7, [8])
    both.take_over(one, other)
    both.part(one)
    assert (both.inode(7), both.inode(8)) == (other, one)


@given(st.randoms(use_true_random=False))
def test_each_inode_has_a_number_of_its_own_whatever_was_merged_and_parted(chance: random.Random) -> None:
    both, merged = translation(), dict[InodeId, InodeId]()
    inodes = [InodeId(number) for number in range(10, 15)]
    seen = set(chance.sample(inodes, 2))
    for _ in range(8):
        alive = [inode for inode in inodes if inode not in merged]
        if merged and (chance.random() < 0.4 or len(alive) < 2):
            both.part(merged.popitem()[0])
            continue
        inode, into = chance.sample(alive, 2)
        (both.merge if into in seen else both.take_over)(inode, into)
        seen |= {inode, into}
        merged[inode] = into
    alive = [inode for inode in inodes if inode not in merged]
    numbers = [number for inode in alive for number in both.numbers(inode)]
    assert [both.inode(both.number(inode)) for inode in alive] == alive
    assert len(set(numbers)) == len(numbers)


def test_a_directory_that_the_kernel_removed_is_another_one_to_it_when_it_is_back() -> None:
    """It would let nobody into what it has under that number, for as long as somebody is in there."""
    kept, inode = translation(), InodeId(7)
    there = state(inode=inode, kind=InodeKind.DIRECTORY, nlink=2)
    gone = state(inode=inode, kind=InodeKind.DIRECTORY, nlink=0)
    assert kept.attributes(there).generation == 0
    for generation in (1, 2):
        kept.removed(inode)
        assert kept.attributes(gone).generation == generation - 1
        assert kept.attributes(there).generation == generation
        assert kept.attributes(state(inode=inode, kind=InodeKind.DIRECTORY, nlink=3)).generation == generation


def test_what_is_known_of_removed_directories_is_bounded() -> None:
    kept = translation()
    for number in range(attributes.MAX_REMOVED + 10):
        kept.removed(InodeId(number + 2))
    assert len(kept._removed) == attributes.MAX_REMOVED


def shown_open() -> Translation:
    """Of a drive on which every file is open."""
    return Translation(ROOT, Owner(501, 502), is_open=lambda inode: True)


def test_pages_of_changed_content_are_not_kept_when_a_file_is_opened_next() -> None:
    shown, file = translation(), state(size=4, mtime_ns=7)
    assert shown.attributes(file).st_mtime_ns == 7
    assert shown.opened(file.inode)
    shown.changed(file.inode)
    # Nobody has it open: no time but its own is ever seen.
    after = shown.attributes(state(size=4, mtime_ns=7))
    assert (after.st_mtime_ns, after.attr_timeout) == (7, attributes.CACHED_SECONDS)
    change = shown.change(file.inode)
    shown.changed(file.inode)
    for number in (change, shown.change(file.inode)):
        assert shown.opened(file.inode), "new bytes up to the old size, before the kernel was told of both changes"
        shown.told(file.inode, number)
    assert [shown.opened(file.inode) for _ in range(2)] == [False, True]


def test_an_open_file_whose_content_changed_behind_the_same_size_and_time_shows_another_time_a_few_times() -> None:
    shown, file = shown_open(), state(size=4, mtime_ns=7)
    assert shown.attributes(file).st_mtime_ns == 7
    shown.changed(file.inode)
    told = [shown.attributes(state(size=4, mtime_ns=7)) for _ in range(attributes.ODD_ANSWERS)]
    assert {(each.st_mtime_ns, each.attr_timeout) for each in told} == {(8, 0.0)}
    then = shown.attributes(state(size=4, mtime_ns=7))
    assert (then.st_mtime_ns, then.attr_timeout) == (7, attributes.CACHED_SECONDS)


def test_an_open_file_whose_size_or_time_shows_the_change_shows_its_own_time() -> None:
    for changes in ({"size": 5, "mtime_ns": 7}, {"size": 4, "mtime_ns": 9}):
        shown = shown_open()
        shown.attributes(state(size=4, mtime_ns=7))
        shown.changed(InodeId(2**40))
        for _ in range(2):
            assert shown.attributes(state(**changes)).st_mtime_ns == changes["mtime_ns"]


def test_who_opens_a_changed_file_sees_its_own_time() -> None:
    shown, file = shown_open(), state(size=4, mtime_ns=7)
    shown.attributes(file)
    shown.changed(file.inode)
    shown.told(file.inode, shown.change(file.inode))
    assert not shown.opened(file.inode)
    assert shown.attributes(state(size=4, mtime_ns=7)).st_mtime_ns == 7


def test_what_is_known_of_changed_files_is_bounded() -> None:
    shown = translation()
    for number in range(attributes.MAX_CHANGED + 10):
        shown.changed(InodeId(number))
    assert len(shown._changed) == attributes.MAX_CHANGED
