"""Programs that watch a drive on one device, while another one works on it: inotify, tail, entr, `drivefs watch`.

Owns the lines about watching of SEMANTICS.md.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import mounted
from tests.mount.oracle import snapshot, write_file
from tests.support.mounts import DRIVEFS, Device, Watchdog, Workbench, wait_until
from tests.support.watching import Inotify, Watcher

MARK = "mark"
"""A file that is made last: when its event has come, all events before it have."""


@pytest.fixture(scope="module")
def devices(pytestconfig: pytest.Config, watchdog: Watchdog, server_home: Path) -> Iterator[tuple[Device, ...]]:
    """Two devices with one drive mounted; the first works, on the second everything is watched."""
    yield from mounted(pytestconfig, watchdog, server_home, 2)


class Watched:
    """A directory of one drive: where it is worked in, and where it is watched."""

    def __init__(self, devices: tuple[Device, ...], name: str) -> None:
        self.here, self.there = devices
        self.work, self.view = (device.mountpoint / name for device in devices)
        self.work.mkdir()
        wait_until(f"{name} is there", self.view.is_dir)
        self.uploaded_bytes = self.count_uploaded_bytes()

    def count_uploaded_bytes(self) -> int:
        """How much the watching device has sent."""
        return int(self.there.status()["transfers"]["upload"]["bytes"])

    def settle(self) -> None:
        """Both show the same, and nothing that the watching device shows came from there."""
        self.here.sync()
        wait_until("both devices show the same", self.are_equal)
        assert self.there.status()["pending"] == {"mutations": 0, "bytes": 0}
        assert self.count_uploaded_bytes() == self.uploaded_bytes

    def are_equal(self) -> bool:
        return snapshot(self.work, times=True) == snapshot(self.view, times=True)


@pytest.fixture
def watched(devices: tuple[Device, ...], request: pytest.FixtureRequest) -> Iterator[Watched]:
    made = Watched(devices, request.node.name[:200])
    yield made
    made.settle()


@pytest.fixture
def start() -> Iterator[Callable[..., Watcher]]:
    """Starts programs that watch; they end with the test."""
    started: list[Watcher] = []

    def begin(*command: object, env: dict[str, str] | None = None) -> Watcher:
        started.append(Watcher(*command, env=env))
        return started[-1]

    yield begin
    for each in started:
        each.close()


@pytest.fixture
def inotify(watched: Watched) -> Iterator[Inotify]:
    watching = Inotify(watched.view)
    yield watching
    watching.close()


def test_watcher_sees_what_is_created_elsewhere(watched: Watched, inotify: Inotify) -> None:
    """[watch-create]"""
    write_file(watched.work / "file", b"content")
    inotify.expect("CREATE file", "MODIFY file", "CLOSE_WRITE,CLOSE file")
    (watched.work / "empty").touch()
    assert "MODIFY empty" not in inotify.expect("CREATE empty", "CLOSE_WRITE,CLOSE empty")
    os.symlink("file", watched.work / "link")
    os.mkfifo(watched.work / "fifo")
    (watched.work / "directory").mkdir()
    inotify.expect("CREATE link", "CREATE fifo", "CREATE,ISDIR directory")
    os.link(watched.work / "file", watched.work / "name")
    inotify.expect("CREATE name")
    assert (watched.view / "file").read_bytes() == b"content"


def test_watcher_sees_what_is_made_below_a_new_directory(watched: Watched, inotify: Inotify) -> None:
    """[watch-create]"""
    (watched.work / "directory").mkdir()
    inotify.expect("CREATE,ISDIR directory")
    inotify.wait_watching(2)
    write_file(watched.work / "directory/below", b"content")
    inotify.expect("CREATE directory/below", "CLOSE_WRITE,CLOSE directory/below")


def test_watcher_sees_what_is_written_elsewhere(watched: Watched, inotify: Inotify) -> None:
    """[watch-change]"""
    write_file(watched.work / "file", b"first")
    inotify.expect("CLOSE_WRITE,CLOSE file")
    for content in (b"other", b"longer than before", b""):
        write_file(watched.work / "file", content)
        seen = inotify.expect("MODIFY file", "CLOSE_WRITE,CLOSE file")
        wait_until("it shows", lambda content=content: (watched.view / "file").read_bytes() == content)
        assert not any(event.startswith(("CREATE", "DELETE")) for event in seen)


def test_watcher_sees_attributes_set_elsewhere(watched: Watched, inotify: Inotify) -> None:
    """[watch-attributes]"""
    write_file(watched.work / "file", b"content")
    (watched.work / "directory").mkdir()
    # A directory may overtake a file, which waits for its content.
    inotify.expect_all("CREATE,ISDIR directory", "CLOSE_WRITE,CLOSE file")
    (watched.work / "file").chmod(0o600)
    (watched.work / "directory").chmod(0o700)
    # So may its attributes, while an earlier change of the file is being sent.
    assert not [event for event in inotify.expect_all("ATTRIB file", "ATTRIB,ISDIR directory") if "MODIFY" in event]
    os.setxattr(watched.work / "file", "user.colour", b"blue")
    inotify.expect("ATTRIB file")
    assert os.getxattr(watched.view / "file", "user.colour") == b"blue"


def test_watcher_sees_what_is_renamed_elsewhere(watched: Watched, inotify: Inotify) -> None:
    """[watch-rename]"""
    (watched.work / "one").mkdir()
    write_file(watched.work / "file", b"content")
    inotify.expect_all("CREATE,ISDIR one", "CLOSE_WRITE,CLOSE file")
    os.rename(watched.work / "file", watched.work / "name")
    inotify.expect("MOVED_FROM file", "MOVED_TO name")
    os.rename(watched.work / "name", watched.work / "one/name")
    inotify.expect("MOVED_FROM name", "MOVED_TO one/name")
    os.rename(watched.work / "one", watched.work / "two")
    inotify.expect("MOVED_FROM,ISDIR one", "MOVED_TO,ISDIR two")
    assert (watched.view / "two/name").read_bytes() == b"content"
    for name in ("a", "b"):
        write_file(watched.work / name, name.encode())
    inotify.expect_all("CLOSE_WRITE,CLOSE a", "CLOSE_WRITE,CLOSE b")
    os.rename(watched.work / "a", watched.work / "b")
    assert "DELETE b" not in inotify.expect("MOVED_FROM a", "MOVED_TO b")
    assert (watched.view / "b").read_bytes() == b"a"


def test_directory_that_a_process_is_in_is_renamed_with_it(watched: Watched, inotify: Inotify) -> None:
    """[watch-rename]"""
    (watched.work / "one").mkdir()
    inotify.expect("CREATE,ISDIR one")
    inside = os.open(watched.view / "one", os.O_PATH | os.O_DIRECTORY)
    try:
        os.rename(watched.work / "one", watched.work / "two")
        inotify.expect("MOVED_FROM,ISDIR one", "MOVED_TO,ISDIR two")
        assert os.readlink(f"/proc/self/fd/{inside}") == str(watched.view / "two")
    finally:
        os.close(inside)


def test_watcher_sees_what_is_removed_elsewhere(watched: Watched, inotify: Inotify) -> None:
    """[watch-remove]"""
    (watched.work / "tree/below").mkdir(parents=True)
    write_file(watched.work / "tree/below/file", b"content")
    write_file(watched.work / "other", b"content")
    inotify.expect("CLOSE_WRITE,CLOSE other")
    watched.here.sync()
    wait_until("the tree is there", (watched.view / "tree/below/file").exists)
    (watched.work / "other").unlink()
    inotify.expect("DELETE other")
    shutil.rmtree(watched.work / "tree")
    inotify.expect("DELETE,ISDIR tree")
    assert os.listdir(watched.view) == []


def test_watcher_of_a_file_sees_what_becomes_of_it(watched: Watched, start: Callable[..., Watcher]) -> None:
    """[watch-remove] [watch-rename] [watch-change]"""
    write_file(watched.work / "file", b"content")
    wait_until("the file is there", (watched.view / "file").exists)
    watching = start("inotifywait", "-m", "--format", "%e", watched.view / "file")
    watching.wait_for("Watches established.")
    write_file(watched.work / "file", b"another content")
    watching.wait_for("MODIFY", "CLOSE_WRITE,CLOSE")
    os.rename(watched.work / "file", watched.work / "name")
    watching.wait_for("MOVE_SELF")
    (watched.work / "name").unlink()
    watching.wait_for("MOVE_SELF", "DELETE_SELF")


def test_save_by_rename_elsewhere_comes_as_a_new_file(watched: Watched, inotify: Inotify) -> None:
    """[watch-replace]"""
    write_file(watched.work / "file", b"old")
    inotify.expect("CLOSE_WRITE,CLOSE file")
    watched.here.sync()
    write_file(watched.work / ".new", b"fresh")
    os.rename(watched.work / ".new", watched.work / "file")
    # On a machine that is so busy that the other name was sent before, it is told of as renamed.
    wait_until("it is told", lambda: not {"CREATE file", "MOVED_TO file"}.isdisjoint(inotify.seen))
    wait_until("it shows", lambda: (watched.view / "file").read_bytes() == b"fresh")


def test_watcher_sees_what_becomes_of_an_edit_that_came_later(watched: Watched, inotify: Inotify) -> None:
    """[watch-meeting]"""
    write_file(watched.work / "file.txt", b"old")
    inotify.expect("CLOSE_WRITE,CLOSE file.txt")
    with (watched.view / "file.txt").open("r+b", buffering=0) as mine:
        mine.write(b"mine")
        write_file(watched.work / "file.txt", b"theirs")
        watched.here.sync()
    watched.there.sync()
    wait_until("the copy is there", lambda: len(list(watched.view.iterdir())) == 2)
    (copy,) = (path.name for path in watched.view.iterdir() if path.name != "file.txt")
    inotify.expect(f"CREATE {copy}", f"CLOSE_WRITE,CLOSE {copy}", "MODIFY file.txt", "CLOSE_WRITE,CLOSE file.txt")
    watched.uploaded_bytes = watched.count_uploaded_bytes()


def test_events_come_in_order_and_after_what_they_tell(watched: Watched, inotify: Inotify) -> None:
    """[watch-order]"""
    names = [f"file{number:03}" for number in range(100)]
    for name in names:
        write_file(watched.work / name, name.encode())
        if name.endswith("0"):
            watched.here.sync()
    for name in names:
        os.rename(watched.work / name, watched.work / f"new{name}")
        if name.endswith("5"):
            (watched.work / f"new{name}").unlink()
    left = set(os.listdir(watched.work))
    wait_until("the events lead to what is there", lambda: replayed(inotify.seen) == left)
    assert set(os.listdir(watched.view)) == left


def replayed(events: list[str]) -> set[str]:
    """The names that are there after these events, each of which must fit those before it."""
    names: set[str] = set()
    for kind, name in (event.split(" ", 1) for event in events):
        if kind in ("CREATE", "MOVED_TO"):
            assert name not in names, events
            names.add(name)
        elif kind in ("DELETE", "MOVED_FROM"):
            assert name in names, events
            names.remove(name)
    return names


def test_tail_follows_a_file_that_grows_elsewhere(watched: Watched, start: Callable[..., Watcher]) -> None:
    """[watch-tools]"""
    write_file(watched.work / "log", b"first\n")
    wait_until("the log is there", (watched.view / "log").exists)
    following = start("tail", "-n", "+1", "-F", watched.view / "log")
    following.wait_for("first")
    for line in ("second", "third"):
        with (watched.work / "log").open("a") as file:
            file.write(line + "\n")
        following.wait_for("first", line)
    write_file(watched.work / ".log", b"replaced\n")
    os.rename(watched.work / ".log", watched.work / "log")
    following.wait_for("first", "second", "third", "replaced")


def test_entr_runs_a_program_when_a_file_changes_elsewhere(
    watched: Watched, start: Callable[..., Watcher], tmp_path: Path
) -> None:
    """[watch-tools]"""
    write_file(watched.work / "source", b"one\n")
    wait_until("the source is there", (watched.view / "source").exists)
    (tmp_path / "files").write_text(f"{watched.view}/source\n")
    # Without -a, entr lets go of what changes while the program that it runs has not ended.
    running = start("sh", "-c", f"exec entr -an cat /_ < {tmp_path}/files")
    running.wait_for("one")
    for content in ("two", "three"):
        write_file(watched.work / "source", content.encode() + b"\n")
        running.wait_for(content)
    write_file(watched.work / ".source", b"four\n")
    os.rename(watched.work / ".source", watched.work / "source")
    running.wait_for("four")


def test_more_than_can_be_told_is_told_as_a_change_of_the_directory(watched: Watched, inotify: Inotify) -> None:
    """[watch-overflow]"""
    player = player_of(watched, inotify)
    assert watched.there.process is not None
    # All of it comes at once, however long it takes to make it.
    watched.there.process.send_signal(signal.SIGSTOP)
    try:
        os.kill(player, signal.SIGSTOP)
        for number in range(4500):
            os.link(watched.work / MARK, watched.work / f"name{number}")
        watched.here.sync()
    finally:
        watched.there.process.send_signal(signal.SIGCONT)
    wait_until("all are there", lambda: len(os.listdir(watched.view)) > 4500)
    wait_until("the directory has changed", lambda: any(line.startswith("ATTRIB,ISDIR") for line in inotify.lines))


def player_of(watched: Watched, inotify: Inotify) -> int:
    """The process that replays events on the watching device; it is there once it has replayed one."""
    (watched.work / MARK).touch()
    inotify.expect(f"CREATE {MARK}")
    assert watched.there.process is not None
    mount = str(watched.there.process.pid)
    found: list[str] = []

    def is_alone() -> bool:
        """The one before it, which was lost, may be on its way out."""
        command = ["pgrep", "-P", mount, "-f", "replay_player"]
        found[:] = subprocess.run(command, capture_output=True, text=True).stdout.split()
        return len(found) == 1

    wait_until("there is one player", is_alone)
    return int(found[0])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_lost_player_costs_events_and_nothing_else(watched: Watched, inotify: Inotify, number: int) -> None:
    """[watch-harmless] [watch-overflow]"""
    player = player_of(watched, inotify)
    os.kill(player, number)
    write_file(watched.work / "file", b"content")
    wait_until("the file is there", (watched.view / "file").exists)
    assert (watched.view / "file").read_bytes() == b"content"
    write_file(watched.view / "own", b"written meanwhile")
    (watched.view / "own").unlink()
    watched.there.sync()
    watched.uploaded_bytes = watched.count_uploaded_bytes()  # what was written there, unless it was gone before
    wait_until("another player has taken its place", lambda: is_told_of_files(watched, inotify))
    assert not Path(f"/proc/{player}").exists()


def is_told_of_files(watched: Watched, inotify: Inotify) -> bool:
    name = f"file{time.monotonic_ns()}"
    (watched.work / name).touch()
    wait_until("it is there", (watched.view / name).exists)
    time.sleep(0.5)
    return f"CREATE {name}" in inotify.seen


def test_replayed_changes_are_shown_right_while_everybody_looks(
    watched: Watched, inotify: Inotify, start: Callable[..., Watcher]
) -> None:
    """[watch-harmless]"""
    for name in "abcd":
        (watched.work / name).mkdir()
    inotify.wait_watching(5)
    over = threading.Event()
    looking = threading.Thread(target=look, args=(watched.view, over))
    looking.start()
    try:
        disturb(watched.work, random.Random(5), 800)
        watched.settle()
    finally:
        over.set()
        looking.join()
    # For the moment of a replay a look may give an mtime that is a nanosecond off.
    wait_until("both list the same", lambda: listing(watched.work) == listing(watched.view))
    wait_until("events of it have come", lambda: len(inotify.seen) > 200)


def listing(root: Path) -> str:
    listed = subprocess.run(["ls", "-lAR", "--full-time"], cwd=root, capture_output=True, text=True, check=True)
    return listed.stdout


def look(root: Path, over: threading.Event) -> None:
    """Look at everything again and again, so that names are known to the kernel just when they change."""
    while not over.is_set():
        subprocess.run(["ls", "-lAR", root], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        time.sleep(0.05)


def disturb(root: Path, chance: random.Random, count: int) -> None:
    """Create, write, rename, replace and remove in the directories a to d, which change places too."""
    files: list[tuple[str, str]] = []
    for number in range(count):
        place = chance.choice("abcd")
        kind = chance.random() if files else 0.0
        if kind < 0.4:
            files.append((place, f"file{number}"))
            (root / place / f"file{number}").write_bytes(chance.randbytes(chance.randrange(100)))
            continue
        old = files[chance.randrange(len(files))]
        if kind < 0.55:
            files[files.index(old)] = (place, f"renamed{number}")
            (root / old[0] / old[1]).rename(root / place / f"renamed{number}")
        elif kind < 0.65 and len(files) > 1:
            files.remove(old)
            other = chance.choice(files)
            (root / old[0] / old[1]).rename(root / other[0] / other[1])
        elif kind < 0.8:
            files.remove(old)
            (root / old[0] / old[1]).unlink()
        elif kind < 0.85:
            for source, target in (("a", "z"), ("b", "a"), ("z", "b")):
                (root / source).rename(root / target)
            swapped = {"a": "b", "b": "a"}
            files = [(swapped.get(where, where), name) for where, name in files]
        else:
            with (root / old[0] / old[1]).open("ab") as file:
                file.write(b"more")


def test_watch_prints_what_happens_here_and_elsewhere(watched: Watched, start: Callable[..., Watcher]) -> None:
    """[watch-command]"""
    watching = start(*DRIVEFS, "watch", watched.view, "--json", env=watched.there.environment)
    wait_until("it watches", lambda: bool(watching.lines))
    (watched.work / "file").write_bytes(b"content")
    wait_until("the file is there", (watched.view / "file").exists)
    os.rename(watched.work / "file", watched.work / "name")
    wait_until("the name is there", (watched.view / "name").exists)
    watched.here.sync()
    (watched.view / "name").chmod(0o600)
    (watched.view / "directory").mkdir()
    watched.there.sync()
    (watched.work / "name").unlink()
    wait_until("it is gone", lambda: not (watched.view / "name").exists())
    wait_until("all is told", lambda: any('"removed"' in line for line in watching.lines))
    (watched.view / "directory").rmdir()
    watched.there.sync()
    wait_until("that too", lambda: sum('"removed"' in line for line in watching.lines) == 2)
    assert watching.close(signal.SIGINT) == 0
    events = [json.loads(line) for line in watching.lines if line.startswith("{")]
    told = [(each["kind"], each["origin"], each["path"], each["source"], each["directory"]) for each in events]
    view = str(watched.view)
    assert told == [
        ("created", "elsewhere", f"{view}/file", None, False),
        ("renamed", "elsewhere", f"{view}/name", f"{view}/file", False),
        ("attributes", "here", f"{view}/name", None, False),
        ("created", "here", f"{view}/directory", None, True),
        ("removed", "elsewhere", f"{view}/name", None, False),
        ("removed", "here", f"{view}/directory", None, True),
    ]


def test_watch_ends_with_the_mount(workbench: Workbench, start: Callable[..., Watcher]) -> None:
    """[watch-command]"""
    device = workbench.device(workbench.server())
    root = device.mount()
    watching = start(*DRIVEFS, "watch", root, env=device.environment)
    wait_until("it watches", lambda: bool(watching.lines))
    (root / "file").touch()
    wait_until("it is told", lambda: any(line.endswith("/file") for line in watching.lines))
    device.umount()
    assert watching.wait_ended() == 4
    assert "no longer mounted" in watching.lines[-1]


def test_watch_that_is_not_read_holds_nobody_up(watched: Watched, start: Callable[..., Watcher]) -> None:
    """[watch-command]"""
    file = watched.view / "file"
    file.touch()
    watching = start(*DRIVEFS, "watch", watched.view, "--json", env=watched.there.environment)
    wait_until("it watches", lambda: bool(watching.lines))
    watching.process.send_signal(signal.SIGSTOP)
    for number in range(8000):
        file.chmod(0o600 + number % 64)
    watching.process.send_signal(signal.SIGCONT)
    wait_until("it says that it missed some", lambda: any('"overflow"' in line for line in watching.lines))
    watching.clear()
    (watched.view / "last").touch()
    wait_until("it goes on", lambda: any("last" in line for line in watching.lines))
    assert watching.close(signal.SIGINT) == 0
    watched.there.sync()
