"""The player does what it is told, in the tree that it is told of, and nowhere else."""

import io
import marshal
import os
import stat
from pathlib import Path

import pytest

from drivefs.fuse.replay_player import HEADER, Place, Player, serve, watched


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "tree").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("outside")
    (root / "link").symlink_to(tmp_path / "outside")
    return root


@pytest.fixture
def player(root: Path) -> Player:
    return Player(os.fsencode(root), root.stat().st_dev)


def place(root: Path, *names: str) -> Place:
    return [os.fsencode(name) for name in names], root.joinpath(*names).stat().st_ino


def test_it_makes_moves_touches_and_removes(root: Path, player: Player) -> None:
    tree = place(root, "tree")
    player.create(tree, b"file", stat.S_IFREG | 0o600, b"", (None, 5))
    assert (root / "tree/file").stat().st_mtime_ns == 5
    player.create(tree, b"below", stat.S_IFDIR | 0o700, b"", None)
    player.create(tree, b"link", stat.S_IFLNK | 0o600, b"target", None)
    player.create(tree, b"fifo", stat.S_IFIFO | 0o600, b"", None)
    assert sorted(os.listdir(root / "tree")) == ["below", "fifo", "file", "link"]
    player.rename(tree, b"file", place(root, "tree", "below"), b"name")
    player.touch(place(root, "tree", "below"), b"name", (root / "tree/below/name").stat().st_ino, (7, 9), True)
    assert (root / "tree/below/name").stat().st_atime_ns == 7
    player.remove(place(root, "tree", "below"), b"name", False)
    player.remove(tree, b"below", True)
    assert sorted(os.listdir(root / "tree")) == ["fifo", "link"]


def test_one_time_alone_leaves_the_other(root: Path, player: Player) -> None:
    file = root / "tree/file"
    file.touch()
    os.utime(file, ns=(3, 4))
    player.touch(place(root, "tree"), b"file", file.stat().st_ino, (None, 9), False)
    assert (file.stat().st_atime_ns, file.stat().st_mtime_ns) == (3, 9)


def test_it_follows_no_link_out_of_the_tree(root: Path, player: Player) -> None:
    way = ([b"link"], (root / "link").stat().st_ino)
    with pytest.raises(NotADirectoryError):
        player.remove(way, b"file", False)
    with pytest.raises(NotADirectoryError):
        player.create(way, b"new", stat.S_IFREG | 0o600, b"", None)
    assert os.listdir(root.parent / "outside") == ["file"]


def test_it_works_in_no_directory_but_the_one_that_is_meant(root: Path, player: Player) -> None:
    (root / "tree/file").touch()
    with pytest.raises(FileNotFoundError):
        player.remove(([b"tree"], root.stat().st_ino), b"file", False)
    elsewhere = Player(os.fsencode(root), root.stat().st_dev + 1)
    with pytest.raises(FileNotFoundError):
        elsewhere.remove(place(root, "tree"), b"file", False)
    assert (root / "tree/file").exists()


def test_it_makes_nothing_where_something_is(root: Path, player: Player) -> None:
    (root / "tree/file").write_text("there")
    with pytest.raises(FileExistsError):
        player.create(place(root, "tree"), b"file", stat.S_IFREG | 0o600, b"", None)
    assert (root / "tree/file").read_text() == "there"


def test_it_holds_nothing_open_afterwards(root: Path, player: Player) -> None:
    before = len(os.listdir("/proc/self/fd"))
    player.create(place(root, "tree"), b"file", stat.S_IFREG | 0o600, b"", (None, 5))
    with pytest.raises(FileNotFoundError):
        player.remove(([b"absent"], 1), b"file", False)
    assert len(os.listdir("/proc/self/fd")) == before


def test_watched_inodes_are_those_of_the_device(tmp_path: Path) -> None:
    process = tmp_path / "123"
    (process / "fd").mkdir(parents=True)
    (process / "fdinfo").mkdir()
    (process / "fd/4").symlink_to("anon_inode:inotify")
    (process / "fd/5").symlink_to("/dev/null")
    (process / "fdinfo/4").write_text(
        "pos:\t0\nflags:\t00\nino:\t14\n"
        "inotify wd:2 ino:2a sdev:30 mask:fce ignored_mask:0 fhandle-bytes:8 f_handle:00\n"
        "inotify wd:1 ino:7fffffffffffffff sdev:30 mask:fce ignored_mask:0\n"
        "inotify wd:3 ino:2b sdev:31 mask:fce ignored_mask:0\n"
    )
    (process / "fdinfo/5").write_text("inotify wd:3 ino:2c sdev:30 mask:fce\n")
    (tmp_path / "self").mkdir()
    (tmp_path / "124").mkdir()
    # Whatever comes first of these in the listing cannot be read, as if it had been closed since.
    for closed in range(10, 40):
        (process / f"fd/{closed}").touch()
    assert watched(tmp_path, os.makedev(0, 0x30)) == {0x2A, 2**63 - 1}


def test_errors_are_answers(root: Path, player: Player) -> None:
    orders, tree = io.BytesIO(), place(root, "tree")
    for order in (("remove", tree, b"absent", False), ("create", tree, b"a", 0o100600, b"", None)):
        body = marshal.dumps(order)
        orders.write(HEADER.pack(len(body)) + body)
    orders.seek(0)
    answers = io.BytesIO()
    serve(player, orders, answers)
    answers.seek(0)
    found = []
    while header := answers.read(HEADER.size):
        found.append(marshal.loads(answers.read(HEADER.unpack(header)[0])))
    assert found == [(False, 2), (True, None)]
