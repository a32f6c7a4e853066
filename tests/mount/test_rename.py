"""Renaming, with its flags, held against ext4.

Owns the section "Renaming" of SEMANTICS.md.
"""

import errno
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.mount.oracle import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, Pair, Refused, rename2, write_file
from tests.support.mounts import Workbench, fuse_connections, wait_until


def furnish(root: Path) -> None:
    """Something of every kind to rename."""
    write_file(root / "file", b"file")
    write_file(root / "other", b"other")
    (root / "empty").mkdir()
    (root / "full").mkdir()
    write_file(root / "full/inner", b"inner")
    (root / "link").symlink_to("file")
    os.mkfifo(root / "fifo")


def test_rename_moves_the_name_and_nothing_else(both: Pair) -> None:
    """[rename-moves]"""

    def work(root: Path) -> tuple[bool, bytes, int, bool]:
        furnish(root)
        before = (root / "file").stat().st_ino
        os.rename(root / "file", root / "full/moved")
        found = (root / "full/moved").stat()
        return found.st_ino == before, (root / "full/moved").read_bytes(), found.st_nlink, (root / "file").exists()

    assert both(work) == (True, b"file", 1, False)
    both.assert_same_tree()


@pytest.mark.parametrize("kind", ["file", "empty", "full", "link", "fifo"])
def test_every_kind_can_be_renamed(both: Pair, kind: str) -> None:
    """[rename-moves]"""

    def work(root: Path) -> list[str]:
        furnish(root)
        os.rename(root / kind, root / "renamed")
        return sorted(os.listdir(root))

    assert "renamed" in both(work)
    both.assert_same_tree()


def test_rename_over_a_file_replaces_it(both: Pair) -> None:
    """[rename-over-file]"""

    def work(root: Path) -> tuple[bytes, list[str]]:
        furnish(root)
        os.rename(root / "file", root / "other")
        return (root / "other").read_bytes(), sorted(os.listdir(root))

    assert both(work) == (b"file", ["empty", "fifo", "full", "link", "other"])


def test_readers_never_miss_a_file_that_is_replaced(both: Pair) -> None:
    """[rename-over-file]"""
    path = write_file(both.drive / "file", b"0" * 1000)
    child = os.fork()
    if child == 0:
        for number in range(1, 150):
            fresh = both.drive / "fresh"
            fresh.write_bytes(b"%d" % (number % 10) * 1000)
            os.rename(fresh, path)
        os._exit(0)
    reads = 0
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        content = path.read_bytes()
        assert len(content) == 1000
        assert len(set(content)) == 1
        reads += 1
    assert reads > 0
    assert path.read_bytes() == b"9" * 1000


def test_reader_that_was_on_its_way_when_a_file_is_replaced_reads_one_or_the_other(workbench: Workbench) -> None:
    """[rename-over-file]"""
    server = workbench.server()
    device = workbench.device(server)
    root = device.mount()
    server.stop()  # what was never sent goes with its name
    waiting = Path(f"/sys/fs/fuse/connections/{fuse_connections()[root]}/waiting")
    assert device.process is not None
    for number in range(8):
        # Not a whole page: the kernel does not keep it.
        old, new = write_file(root / f"{number}", b"old" * 100), write_file(root / f"{number}~", b"new" * 100)
        wait_until("nothing is asked for", lambda: waiting.read_text() == "0\n")
        with ThreadPoolExecutor(2) as both_at_once:
            os.kill(device.process.pid, signal.SIGSTOP)
            try:
                renaming = both_at_once.submit(os.rename, new, old)
                wait_until("the rename is asked for", lambda: waiting.read_text() == "1\n")
                reading = both_at_once.submit(old.read_bytes)
                wait_until("so is opening what is replaced", lambda: waiting.read_text() == "2\n")
            finally:
                os.kill(device.process.pid, signal.SIGCONT)
            renaming.result()
            assert reading.result() in (b"old" * 100, b"new" * 100)
    server.start()


def test_rename_over_open_file_keeps_old_data(both: Pair) -> None:
    """[rename-over-open]"""

    def work(root: Path) -> tuple[bytes, int, bytes, bytes]:
        furnish(root)
        descriptor = os.open(root / "other", os.O_RDWR)
        os.rename(root / "file", root / "other")
        old = os.pread(descriptor, 100, 0)
        links = os.fstat(descriptor).st_nlink
        os.pwrite(descriptor, b"still writable", 0)
        again = os.pread(descriptor, 100, 0)
        os.close(descriptor)
        return old, links, again, (root / "other").read_bytes()

    assert both(work) == (b"other", 0, b"still writable", b"file")


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("full", "empty", None),
        ("empty", "full", Refused("ENOTEMPTY")),
        ("file", "empty", Refused("EISDIR")),
        ("full", "file", Refused("ENOTDIR")),
        ("link", "full", Refused("EISDIR")),
        ("full", "link", Refused("ENOTDIR")),
        ("link", "file", None),
        ("fifo", "file", None),
        ("full", "full", None),
        ("full", "full/deeper", Refused("EINVAL")),
        ("full", "full/inner", Refused("EINVAL")),
        ("full/inner", "full", Refused("ENOTEMPTY")),
        ("missing", "file", Refused("ENOENT")),
        ("missing", "new", Refused("ENOENT")),
        ("file", "missing/new", Refused("ENOENT")),
        ("file", "other/new", Refused("ENOTDIR")),
        ("file", "file", None),
    ],
)
def test_each_pair_of_kinds(both: Pair, source: str, target: str, expected: object) -> None:
    """[rename-over-empty-directory] [rename-kinds] [rename-into-itself] [rename-missing]"""

    def work(root: Path) -> None:
        furnish(root)
        os.rename(root / source, root / target)

    assert both(work) == expected
    both.assert_same_tree()


def test_rename_between_names_of_one_inode_does_nothing(both: Pair) -> None:
    """[rename-same-inode]"""

    def work(root: Path) -> list[str]:
        furnish(root)
        os.link(root / "file", root / "second")
        os.rename(root / "file", root / "second")
        return sorted(os.listdir(root))

    assert "file" in both(work)
    both.assert_same_tree()


@pytest.mark.parametrize("target", ["other", "empty", "full", "link", "fifo"])
def test_noreplace_refuses_an_existing_target(both: Pair, target: str) -> None:
    """[rename-noreplace]"""

    def work(root: Path) -> None:
        furnish(root)
        rename2(root / "file", root / target, RENAME_NOREPLACE)

    assert both(work) == Refused("EEXIST")
    both.assert_same_tree()


def test_noreplace_renames_to_a_free_name(both: Pair) -> None:
    """[rename-noreplace]"""

    def work(root: Path) -> bytes:
        furnish(root)
        rename2(root / "file", root / "full/new", RENAME_NOREPLACE)
        return (root / "full/new").read_bytes()

    assert both(work) == b"file"


@pytest.mark.parametrize("one", ["file", "full", "link"])
@pytest.mark.parametrize("two", ["other", "empty", "fifo", "full/inner"])
def test_exchange_swaps_names_of_any_kind(both: Pair, one: str, two: str) -> None:
    """[rename-exchange]"""

    def work(root: Path) -> tuple[bool, bool]:
        furnish(root)
        before = (root / one).lstat().st_ino, (root / two).lstat().st_ino
        rename2(root / one, root / two, RENAME_EXCHANGE)
        return (root / one).lstat().st_ino == before[1], (root / two).lstat().st_ino == before[0]

    expected = Refused("EINVAL") if (one, two) == ("full", "full/inner") else (True, True)
    assert both(work) == expected
    both.assert_same_tree()


def test_exchange_needs_both(both: Pair) -> None:
    """[rename-exchange]"""
    both(furnish)
    assert both(lambda root: rename2(root / "file", root / "missing", RENAME_EXCHANGE)) == Refused("ENOENT")
    assert both(lambda root: rename2(root / "missing", root / "file", RENAME_EXCHANGE)) == Refused("ENOENT")
    assert both(lambda root: rename2(root / "file", root / "file", RENAME_EXCHANGE)) is None
    both.assert_same_tree()


def test_exchange_of_directories_keeps_link_counts_right(both: Pair) -> None:
    """[rename-exchange]"""

    def work(root: Path) -> list[int]:
        furnish(root)
        (root / "full/sub").mkdir()
        rename2(root / "full/sub", root / "file", RENAME_EXCHANGE)
        return [(root / name).stat().st_nlink for name in (".", "full", "file", "empty")]

    assert both(work) == [5, 2, 2, 2]


def test_renamed_directory_keeps_all_and_parents_count_right(both: Pair) -> None:
    """[rename-directory]"""

    def work(root: Path) -> tuple[list[int], bool, bytes]:
        furnish(root)
        (root / "full/deep").mkdir()
        (root / "full/deep/deeper").mkdir()
        write_file(root / "full/deep/deeper/leaf", b"leaf")
        os.rename(root / "full/deep", root / "empty/deep")
        counts = [(root / name).stat().st_nlink for name in (".", "full", "empty", "empty/deep")]
        parent = os.stat(root / "empty/deep/..").st_ino == (root / "empty").stat().st_ino
        return counts, parent, (root / "empty/deep/deeper/leaf").read_bytes()

    assert both(work) == ([4, 2, 3, 3], True, b"leaf")
    both.assert_same_tree()


def test_process_inside_a_renamed_directory_stays_in_it(both: Pair) -> None:
    """[rename-open-directory]"""

    def work(root: Path) -> tuple[list[str], bytes, bool]:
        furnish(root)
        before = Path.cwd()
        os.chdir(root / "full")
        try:
            os.rename(root / "full", root / "empty/moved")
            Path("written").write_bytes(b"from inside")
            where = os.path.samefile(os.getcwd(), root / "empty/moved")
            return sorted(os.listdir(".")), (root / "empty/moved/written").read_bytes(), where
        finally:
            os.chdir(before)

    assert both(work) == (["inner", "written"], b"from inside", True)


def test_open_files_follow_their_renamed_directory(both: Pair) -> None:
    """[rename-open-directory]"""

    def work(root: Path) -> bytes:
        furnish(root)
        with open(root / "full/inner", "ab") as file:
            os.rename(root / "full", root / "elsewhere")
            file.write(b" and more")
        return (root / "elsewhere/inner").read_bytes()

    assert both(work) == b"inner and more"


def test_rename_to_another_file_system_is_refused(both: Pair) -> None:
    """[rename-across]"""
    write_file(both.drive / "file")
    write_file(both.oracle / "file")
    for source, target in [(both.drive, both.oracle), (both.oracle, both.drive)]:
        with pytest.raises(OSError, match=r"[Cc]ross-device") as refused:
            os.rename(source / "file", target / "moved")
        assert refused.value.errno == errno.EXDEV
        with pytest.raises(OSError, match=r"[Cc]ross-device"):
            os.link(source / "file", target / "linked")
    assert os.listdir(both.drive) == os.listdir(both.oracle) == ["file"]


def test_whiteouts_are_refused(both: Pair) -> None:
    """[no-whiteout]"""
    furnish(both.drive)
    with pytest.raises(OSError, match="Invalid argument") as refused:
        rename2(both.drive / "file", both.drive / "new", RENAME_WHITEOUT)
    assert refused.value.errno == errno.EINVAL
    assert (both.drive / "file").read_bytes() == b"file"


def test_many_renames_in_a_row_end_where_ext4_ends(both: Pair) -> None:
    """[rename-moves]"""

    def work(root: Path) -> list[str]:
        (root / "a").mkdir()
        (root / "b").mkdir()
        for number in range(200):
            write_file(root / f"a/{number}", b"%d" % number)
            os.rename(root / f"a/{number}", root / f"b/{number % 50}")
            if number % 7 == 0:
                os.rename(root / "a", root / "c")
                os.rename(root / "b", root / "a")
                os.rename(root / "c", root / "b")
        return sorted(os.listdir(root / "a")) + sorted(os.listdir(root / "b"))

    both(work)
    both.assert_same_tree()
