"""No call hangs: not while the server is frozen, and not while changes of other devices storm into busy directories.

Owns calls with deadlines, each made by a program of its own, so that one that hangs is seen and does not hang the test.
"""

import errno
import itertools
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drivefs.config import LEAST_ANSWER_SECONDS
from tests.mount.conftest import mount_options
from tests.mount.oracle import snapshot, write_file
from tests.mount.test_tools import source_tree
from tests.support.mounts import DRIVEFS, Device, Server, Workbench, fuse_connections, wait_until

LOCAL_SECONDS = 30.0
"""For what is answered from what is here, and ends well: what asks a frozen server ends with an error before."""
DEADLINE_SECONDS = 40.0
"""For what has to ask the server: then an error."""
STORM_SECONDS = 60.0


@pytest.fixture
def server(workbench: Workbench) -> Server:
    return workbench.server()


def call(*command: object, seconds: float) -> subprocess.CompletedProcess[bytes]:
    """Run a program that must end in time, however it ends."""
    return subprocess.run([str(word) for word in command], capture_output=True, timeout=seconds, cwd="/")


@contextmanager
def frozen(server: Server) -> Iterator[None]:
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


def test_calls_on_a_mount_whose_server_is_frozen(workbench: Workbench, server: Server) -> None:
    """[never-hangs]"""
    first = workbench.device(server)
    root = first.mount(*mount_options())
    (root / "directory").mkdir()
    write_file(root / "directory/here", b"here" * 1000)
    write_file(root / "directory/elsewhere", os.urandom(400_000))
    first.sync()
    second = workbench.device(server)
    second.configure(f"answer_seconds = {LEAST_ANSWER_SECONDS}")
    root = second.mount(*mount_options())
    assert call("ls", "-l", root / "directory", seconds=LOCAL_SECONDS).returncode == 0
    # On a busy machine the server may take longer than this device waits for it.
    wait_until("it comes", lambda: not call("cat", root / "directory/here", seconds=LOCAL_SECONDS).returncode)
    assert (root / "directory/here").read_bytes() == b"here" * 1000
    with frozen(server):
        for command in (
            ("ls", "-lR", root),
            ("stat", root / "directory/elsewhere"),
            ("stat", root / "directory/missing"),
            ("cat", root / "directory/here"),
            ("df", root),
            ("cp", root / "directory/here", root / "directory/copy"),
            ("mv", root / "directory/copy", root / "directory/moved"),
            ("sync", root / "directory/moved"),
            ("rm", root / "directory/moved"),
            ("mkdir", root / "other"),
            (*DRIVEFS, "--help"),
        ):
            done = call(*command, seconds=LOCAL_SECONDS)
            assert done.returncode == (1 if "missing" in str(command[-1]) else 0), (command, done.stderr)
        begin = time.monotonic()
        assert call("cat", root / "directory/elsewhere", seconds=DEADLINE_SECONDS).returncode == 1
        assert second.command("status", str(root), seconds=LOCAL_SECONDS).returncode == 0
        assert time.monotonic() - begin < DEADLINE_SECONDS
        second.command("umount", str(root), "--now", seconds=DEADLINE_SECONDS)
        wait_until("it is unmounted", lambda: root not in fuse_connections(), LOCAL_SECONDS)
        assert second.process is not None
        second.process.wait(DEADLINE_SECONDS)
        second.ended()
        # And mounted again, with the server still frozen.
        second.mount(*mount_options())
        assert sorted(os.listdir(root)) == ["directory", "other"]
        assert (root / "directory/here").read_bytes() == b"here" * 1000
    second.sync()
    assert (root / "directory/elsewhere").stat().st_size == len((root / "directory/elsewhere").read_bytes())


@contextmanager
def met() -> Iterator[None]:
    """The other device removes and makes directories too, at any moment: what it did first is no error."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
            raise


def storm(root: Path, chance: random.Random, seconds: float) -> None:
    """Change everything below `root` again and again: contents, names, whole trees."""
    end = time.monotonic() + seconds
    for turn in itertools.count():
        for number in range(60):
            path = root / f"package{number % 6}/module{number % 11}/file{number}.txt"
            with met():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(chance.randbytes(3000))
        victim, aside = root / f"package{chance.randrange(6)}", root / f"aside{turn}"
        with met():
            os.rename(victim, aside)
            if chance.random() < 0.5:
                shutil.rmtree(aside)
            else:
                os.rename(aside, victim)
        if time.monotonic() > end:
            return


WALKERS = {
    "find": "find . -type f -newer nothing -o -type f -print",
    "cat": "find . -type f -exec cat {} + ",
    "ls": "ls -lR .",
    "git": "git -c safe.directory='*' status --porcelain",
    "rm": "mkdir -p package1/mine && echo x > package1/mine/x; rm -rf package1/mine package2/module1",
    "cwd": "cd package3 && ls . && cd module3 && pwd -P && ls .. && stat .",
}


def test_programs_go_on_while_changes_from_elsewhere_storm_in(workbench: Workbench, server: Server) -> None:
    """[never-hangs]"""
    devices = [workbench.device(server) for _ in range(2)]
    here, there = (device.mount(*mount_options()) / "project" for device in devices)
    here.mkdir()
    source_tree(here, files=80)
    subprocess.run(["git", "-c", "safe.directory=*", "init", "-q"], cwd=here, check=True)
    subprocess.run(["git", "-c", "safe.directory=*", "add", "--all"], cwd=here, check=True)
    devices[0].sync()
    wait_until("the project is there", lambda: (there / ".git/index").exists(), STORM_SECONDS)
    walkers = [
        # Each command has a deadline of its own, in which it makes thousands of calls: one that hangs does not end.
        subprocess.Popen(
            ["sh", "-c", f"n=0; while [ $n -lt 4 ]; do n=$((n+1)); timeout -s KILL 60 sh -c {quoted(command)}; "
             "[ $? -eq 137 ] && exit 99; done; exit 0"],
            cwd=there, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for command in WALKERS.values()
    ]  # fmt: skip
    storm(here, random.Random(1), 2.5)
    codes = {name: walker.wait(STORM_SECONDS * 2) for name, walker in zip(WALKERS, walkers, strict=True)}
    assert codes == dict.fromkeys(WALKERS, 0), "a program hung"
    for device in devices:
        assert call("df", device.mountpoint, seconds=LOCAL_SECONDS).returncode == 0
        assert device.command("status", str(device.mountpoint), seconds=LOCAL_SECONDS).returncode == 0
    assert_same_in_the_end(devices)
    for device in devices:
        device.umount()


def quoted(command: str) -> str:
    return "'" + command.replace("'", "'\\''") + "'"


def assert_same_in_the_end(devices: list[Device]) -> None:
    def different() -> list[object]:
        for device in devices:
            device.sync()
        one, other = (snapshot(device.mountpoint, times=True) for device in devices)
        return [(path, one.get(path), other.get(path)) for path in one | other if one.get(path) != other.get(path)]

    try:
        wait_until("both show the same tree", lambda: not different(), STORM_SECONDS)
    except TimeoutError:
        assert different() == []
        raise


def test_umount_while_changes_from_elsewhere_storm_in(workbench: Workbench, server: Server) -> None:
    """[never-hangs]"""
    devices = [workbench.device(server) for _ in range(2)]
    here, there = (device.mount(*mount_options()) / "project" for device in devices)
    here.mkdir()
    source_tree(here, files=80)
    wait_until("the project is there", (there / "run").exists, STORM_SECONDS)
    stormy = os.fork()
    if stormy == 0:
        code = 1
        try:
            storm(here, random.Random(2), 3.0)
            code = 0
        finally:
            os._exit(code)
    for _ in range(3):
        call("find", there, "-type", "f", seconds=STORM_SECONDS)
        done = devices[1].command("umount", str(devices[1].mountpoint), seconds=DEADLINE_SECONDS)
        assert done.returncode == 0, done.stderr
        assert devices[1].process is not None
        assert devices[1].process.wait(LOCAL_SECONDS) == 0
        devices[1].ended()
        devices[1].mount(*mount_options())
    assert os.waitpid(stormy, 0)[1] == 0
    assert_same_in_the_end(devices)
