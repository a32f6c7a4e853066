"""Three devices with one drive mounted at the same time: each sees what the others do, without being asked to look.

Owns what is seen live, and that ordinary work on one device makes no conflict copies. Races are in the random runs.
"""

import os
import random
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mount.conftest import mounted
from tests.mount.oracle import Entry, rename2, snapshot, write_file
from tests.mount.test_remount import furnish
from tests.mount.test_tools import SAVES, run, save_in_place, source_tree
from tests.support.mounts import Device, Watchdog, wait_until

SEEN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Together:
    """A directory of one drive, as each of three devices shows it."""

    devices: tuple[Device, ...]
    roots: tuple[Path, ...]

    def wait(self) -> dict[bytes, Entry]:
        """Return when all show the same tree as the first does, and it no longer changes."""
        for device in self.devices:
            device.sync()
        wait_until("all devices show the same", self.are_equal, SEEN_SECONDS)
        return snapshot(self.roots[0], times=True)

    def are_equal(self) -> bool:
        trees = [snapshot(root, times=True) for root in self.roots]
        return all(tree == trees[0] for tree in trees)

    def assert_no_copies(self) -> None:
        assert not [name for root in self.roots for name in root.rglob("*(conflicted copy*")]


@pytest.fixture(scope="module")
def three_devices(pytestconfig: pytest.Config, watchdog: Watchdog, server_home: Path) -> Iterator[tuple[Device, ...]]:
    yield from mounted(pytestconfig, watchdog, server_home, 3)


@pytest.fixture
def together(three_devices: tuple[Device, ...], request: pytest.FixtureRequest) -> Together:
    devices = three_devices
    name = request.node.name[:200].replace("/", "_")
    roots = tuple(device.mountpoint / name for device in devices)
    roots[0].mkdir()
    wait_until("the new directory is everywhere", lambda: all(root.is_dir() for root in roots), SEEN_SECONDS)
    return Together(devices, roots)


def test_every_kind_of_entry_appears_on_the_others(together: Together) -> None:
    """[devices-see]"""
    for number, root in enumerate(together.roots):
        (root / f"from {number}").mkdir()
        furnish(root / f"from {number}")
    tree = together.wait()
    assert len(tree) >= 3 * 12
    inodes = [{path: path.lstat().st_ino for path in root.rglob("*")} for root in together.roots]
    assert len({tuple(sorted(found.values())) for found in inodes}) == 1
    together.assert_no_copies()


def append(root: Path) -> None:
    with (root / "file").open("ab") as file:
        file.write(b"appended")


def write_inside(root: Path) -> None:
    with (root / "file").open("r+b") as file:
        file.seek(100)
        file.write(b"inside")


def replace(root: Path) -> None:
    os.rename(write_file(root / "new", b"another content"), root / "file")


def remove_tree(root: Path) -> None:
    shutil.rmtree(root / "directory")


CHANGES: dict[str, Callable[[Path], object]] = {
    "append": append,
    "write inside": write_inside,
    "shrink": lambda root: os.truncate(root / "file", 10),
    "grow": lambda root: os.truncate(root / "file", 1_000_000),
    "same size, other bytes": lambda root: (root / "file").write_bytes(b"y" * 5000),
    "rename": lambda root: os.rename(root / "file", root / "renamed"),
    "move": lambda root: os.rename(root / "file", root / "directory/file"),
    "replace": replace,
    "exchange": lambda root: rename2(root / "file", root / "directory", 2),
    "rename directory": lambda root: os.rename(root / "directory", root / "other"),
    "remove": lambda root: os.unlink(root / "file"),
    "remove tree": remove_tree,
    "remove and make again": lambda root: (os.unlink(root / "file"), write_file(root / "file", b"again")),
    "file becomes directory": lambda root: (os.unlink(root / "file"), os.mkdir(root / "file")),
    "chmod": lambda root: os.chmod(root / "file", 0o600),
    "times": lambda root: os.utime(root / "file", ns=(1, 1_000_000_007)),
    "set xattr": lambda root: os.setxattr(root / "file", "user.note", b"other"),
    "new xattr": lambda root: os.setxattr(root / "directory", "user.new", b"new"),
    "remove xattr": lambda root: os.removexattr(root / "file", "user.note"),
    "link": lambda root: os.link(root / "file", root / "directory/second"),
    "unlink one of two": lambda root: os.unlink(root / "directory/inner/name two"),
    "write through the other name": lambda root: (root / "directory/inner/name two").write_bytes(b"through"),
    "symlink": lambda root: os.symlink("file", root / "symlink"),
    "replace symlink": lambda root: (os.unlink(root / "old symlink"), os.symlink("elsewhere", root / "old symlink")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_change_of_what_another_made_is_seen_by_all(together: Together, change: str) -> None:
    """[devices-see]"""
    maker, changer, _ = together.roots
    write_file(maker / "file", b"x" * 5000)
    os.setxattr(maker / "file", "user.note", b"first")
    (maker / "directory/inner").mkdir(parents=True)
    write_file(maker / "directory/inner/leaf", b"leaf")
    write_file(maker / "name one", b"two names")
    os.link(maker / "name one", maker / "directory/inner/name two")
    os.symlink("file", maker / "old symlink")
    before = together.wait()
    CHANGES[change](changer)
    expected = snapshot(changer, times=True)
    assert expected != before
    # Nobody is asked to sync: this is what a person sees who only looks.
    wait_until("all devices show the change", together.are_equal, SEEN_SECONDS)
    assert snapshot(together.roots[2], times=True) == expected


@pytest.mark.parametrize("save", SAVES, ids=lambda save: save.__name__)
def test_reader_elsewhere_sees_whole_versions_only_and_no_copies_are_made(
    together: Together, save: Callable[[Path, bytes], None]
) -> None:
    """[devices-see] [own-saves]"""
    here, there, _ = together.roots
    versions = [b"%06d" % number * (200 + 37 * (number % 11)) for number in range(40)]
    write_file(here / "document", versions[0])
    together.wait()
    seen: list[bytes] = []
    for version in versions[1:]:
        save(here / "document", version)
        for _ in range(4):
            time.sleep(0.02)
            with suppress(FileNotFoundError):
                content = read_at_once(there / "document")
                for _ in range(3 if save is save_in_place else 0):
                    # It changed between the kernel's look at its size and that at its bytes, as local files do too.
                    content = content if content in versions else read_at_once(there / "document")
                seen.append(content)
    together.wait()
    seen.append(read_at_once(there / "document"))
    order = {version: number for number, version in enumerate(versions)} | {b"": -1}
    strange = [content[:20] for content in seen if content not in order]
    assert not strange, "a mixture of versions"
    numbers = [order[content] for content in seen if content]
    assert numbers == sorted(numbers), "an older version came after a newer one"
    assert numbers[-1] == len(versions) - 1
    together.assert_no_copies()


def read_at_once(path: Path) -> bytes:
    """A small content by one call: who reads on to the end may read on in what it was changed to meanwhile."""
    with path.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), 2**16, 0)


def test_content_that_changes_behind_the_same_size_and_time_is_seen(together: Together) -> None:
    """[devices-see]"""
    here, there, _ = together.roots
    for content in (b"first", b"other", b"third"):
        with (here / "sealed").open("wb") as file:
            file.write(content)
            file.flush()
            os.utime(file.fileno(), ns=(10**18, 10**18))
        together.devices[0].sync()
        wait_until("it is seen", lambda content=content: is_there(there / "sealed", content), SEEN_SECONDS)
        wait_until("so is its time", lambda: (there / "sealed").stat().st_mtime_ns == 10**18, SEEN_SECONDS)


@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
def test_content_that_changes_and_gets_its_old_time_back_is_seen(together: Together, is_open: bool) -> None:
    """[devices-see]"""
    here, there, _ = together.roots
    write_file(here / "sealed", b"first")
    os.utime(here / "sealed", ns=(10**18, 10**18))
    together.wait()
    with (there / "sealed").open("rb", buffering=0) as reader:
        assert reader.read() == b"first"
        if not is_open:
            reader.close()
        for number, change in enumerate(
            (lambda: (here / "sealed").write_bytes(b"other"), lambda: os.utime(here / "sealed", ns=(10**18, 10**18)))
        ):
            change()
            together.devices[0].sync()
            # Nobody looks at the file between the two.
            (here / f"{number}").mkdir()
            wait_until("what came before is there", (there / f"{number}").is_dir)
        assert (os.pread(reader.fileno(), 100, 0) if is_open else (there / "sealed").read_bytes()) == b"other"
    wait_until("so is its time", lambda: (there / "sealed").stat().st_mtime_ns == 10**18, SEEN_SECONDS)


def is_there(path: Path, content: bytes) -> bool:
    return path.exists() and path.read_bytes() == content


def test_file_that_another_device_replaces_is_there_all_the_time(together: Together) -> None:
    """[never-missing]"""
    here, there, _ = together.roots
    write_file(here / "document", b"0")
    together.wait()
    over = threading.Event()
    failures: list[OSError] = []

    def look() -> None:
        while not over.is_set():
            try:
                os.stat(there / "document")
                (there / "document").read_bytes()
            except OSError as error:
                failures.append(error)
            time.sleep(0.001)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for number in range(40):
            os.rename(write_file(here / "new", b"%d" % number), here / "document")
            time.sleep(0.05)
        together.wait()
    finally:
        over.set()
        looking.join()
    assert not failures


def test_saves_in_quick_succession_on_one_device_make_no_copies(together: Together) -> None:
    """[own-saves]"""
    here = together.roots[0]
    for save in SAVES:
        write_file(here / save.__name__, b"first")
    for number in range(30):
        for save in SAVES:
            directory = here / f"of {save.__name__}"
            directory.mkdir(exist_ok=True)
            if not (directory / "document").exists():
                write_file(directory / "document", b"first")
            save(directory / "document", b"%d" % number * 1000)
        time.sleep(0.05)
    together.wait()
    together.assert_no_copies()
    assert {path.read_bytes() for path in together.roots[1].glob("of */document")} == {b"29" * 1000}


def test_git_works_on_one_device_after_the_other(together: Together) -> None:
    """[devices-see]"""
    here, there, third = (root / "project" for root in together.roots)
    here.mkdir()
    source_tree(here, files=60)
    git = ("git", "-c", "safe.directory=*", "-c", "gc.auto=0")
    run(*git, "init", "-q", cwd=here)
    time.sleep(1.1)  # git does not trust the times of files as young as its index
    run(*git, "add", "--all", cwd=here)
    run(*git, "commit", "-q", "-m", "first", cwd=here)
    together.wait()
    index = (here / ".git/index").stat()
    for root in (there, third):
        assert run(*git, "status", "--porcelain", cwd=root) == ""
        run(*git, "fsck", "--strict", cwd=root)
    # Times are the same everywhere, so that git takes its index for fresh and does not write it anew.
    assert (there / ".git/index").stat().st_mtime_ns == (third / ".git/index").stat().st_mtime_ns == index.st_mtime_ns
    run(*git, "checkout", "-q", "-b", "topic", cwd=there)
    (there / "run").write_bytes(b"#!/bin/sh\necho changed\n")
    run(*git, "commit", "-q", "-a", "-m", "second", cwd=there)
    together.wait()
    assert run(*git, "log", "--format=%s", cwd=here).split() == ["second", "first"]
    assert run(*git, "status", "--porcelain", cwd=here) == ""
    together.wait()
    run(*git, "checkout", "-q", "-", cwd=third)
    together.wait()
    assert (here / "run").read_bytes() == b"#!/bin/sh\necho ran\n"
    run(*git, "fsck", "--strict", cwd=here)
    together.assert_no_copies()


@pytest.mark.parametrize("mode", ["delete", "truncate", "wal"])
def test_database_written_on_one_device_is_whole_on_another(together: Together, mode: str) -> None:
    """[devices-see]"""
    here, there, _ = together.roots
    for batch in range(6):
        connection = sqlite3.connect(here / "data.db")
        connection.execute(f"PRAGMA journal_mode={mode}")
        with connection:
            connection.execute("CREATE TABLE IF NOT EXISTS t (batch, n, filler)")
            rows = [(batch, number, "x" * 500) for number in range(100)]
            connection.executemany("INSERT INTO t VALUES (?, ?, ?)", rows)
        connection.close()
        together.wait()
        # Who reads in WAL mode writes beside the database, unless told that nobody else does.
        reader = sqlite3.connect(f"file:{there / 'data.db'}?mode=ro&immutable={int(mode == 'wal')}", uri=True)
        assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (100 * (batch + 1),)
        reader.close()
    together.assert_no_copies()


def test_archive_is_unpacked_and_copied_while_others_walk_the_tree(together: Together, tmp_path: Path) -> None:
    """[devices-see]"""
    here, there, _ = together.roots
    original = tmp_path / "original"
    original.mkdir()
    source_tree(original, files=200)
    run("tar", "-cf", tmp_path / "archive.tar", "-C", original, ".")
    (here / "tar").mkdir()
    walking = [
        subprocess.Popen(["sh", "-c", f"for n in $(seq 10); do find '{root}' -type f -exec cat {{}} + ; done"],
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for root in together.roots[1:]
    ]  # fmt: skip
    run("tar", "-xf", tmp_path / "archive.tar", "-C", here / "tar")
    run("rsync", "-a", f"{original}/", here / "rsync/")
    for process in walking:
        process.wait(120)
    together.wait()
    for name in ("tar", "rsync"):
        assert run("rsync", "-ainc", "--delete", f"{original}/", there / f"{name}/") == ""
    together.assert_no_copies()


def test_follower_of_a_growing_file_reads_each_line_once(together: Together) -> None:
    """[devices-see]"""
    here, there, _ = together.roots
    write_file(here / "log", b"line 0\n")
    together.wait()
    with (there / "log").open("rb", buffering=0) as reader:
        read = b""
        for number in range(1, 30):
            with (here / "log").open("ab") as writer:
                writer.write(b"line %d\n" % number)
            time.sleep(0.03)
            read += reader.read()
        end = b"line 29\n"

        def is_read() -> bool:
            nonlocal read
            read += reader.read()
            return read.endswith(end)

        wait_until("the last line is read", is_read, SEEN_SECONDS)
    assert read.split(b"\n") == [*(b"line %d" % number for number in range(30)), b""]


def test_many_small_changes_by_all_in_one_directory(together: Together) -> None:
    """[devices-see] [own-saves]"""
    chance = random.Random(3)
    expected = {}
    for number in range(150):
        root = chance.choice(together.roots)
        name = f"file {number}"
        expected[name] = chance.randbytes(chance.choice([0, 10, 5_000, 70_000]))
        write_file(root / name, expected[name])
    together.wait()
    for root in together.roots:
        assert {path.name: path.read_bytes() for path in root.iterdir()} == expected
