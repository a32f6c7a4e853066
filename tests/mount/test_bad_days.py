"""Bad input and bad days: each gets one clear message that says what to do, and nothing is lost.

Owns the failures that a person meets through the commands; those of programs are in the other modules.
"""

import json
import os
import random
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import mount_options
from tests.mount.oracle import write_file
from tests.support.mounts import (
    DRIVEFS,
    PASSWORD,
    READY_SECONDS,
    Device,
    Server,
    Workbench,
    end,
    fuse_connections,
    wait_until,
)
from tests.support.ports import free_port

UNFINISHED, NOT_MOUNTED, REFUSED = 3, 4, 5
LARGE = random.Random(5).randbytes(8_000_000)


@pytest.fixture
def server(workbench: Workbench) -> Server:
    return workbench.server()


@pytest.fixture
def device(workbench: Workbench, server: Server) -> Device:
    return workbench.device(server)


def assert_says(done: "subprocess.CompletedProcess[str]", *words: str, code: int = 1) -> None:
    """The command failed with this code and one short message with these words; no traceback, nothing on stdout."""
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert 1 <= len(done.stderr.strip().splitlines()) <= 3, done.stderr
    for word in words:
        assert word.lower() in done.stderr.lower(), (word, done.stderr)


def log_in(device: Device, url: str, *flags: str, password: str = PASSWORD) -> "subprocess.CompletedProcess[str]":
    return device.command(
        "login", url, "--user", "ada", "--device", "laptop", "--password-stdin", *flags, stdin=password + "\n"
    )


def test_server_down_at_mount(workbench: Workbench, server: Server, device: Device) -> None:
    server.stop()
    root = device.mount(*mount_options())
    write_file(root / "offline", b"written without a server")
    (root / "directory").mkdir()
    status = device.status()
    assert status["online"] is False
    assert status["reason"]
    assert status["pending"]["mutations"] > 0
    assert_says(device.command("sync", str(root), "--wait", "--timeout", "1"), "journal", code=UNFINISHED)
    server.start()
    device.sync()
    assert device.status()["online"] is True
    assert device.status()["pending"]["mutations"] == 0
    second = workbench.device(server)
    assert (second.mount(*mount_options()) / "offline").read_bytes() == b"written without a server"


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_server_ends_in_the_middle_of_work(workbench: Workbench, server: Server, device: Device, how: str) -> None:
    root = device.mount(*mount_options())
    expected = {}
    for number in range(60):
        if number == 20:
            server.stop() if how == "stop" else server.kill()
        if number == 45:
            server.start()
        name = f"file{number}"
        expected[name] = os.urandom(3_000 if number % 10 else 3_000_000)
        write_file(root / name, expected[name])
        assert (root / name).read_bytes() == expected[name]
    device.sync()
    server.assert_sound()
    second = workbench.device(server)
    there = second.mount(*mount_options())
    assert {name: (there / name).read_bytes() for name in os.listdir(there)} == expected


def test_what_is_not_here_is_an_error_offline_and_not_a_hang(
    workbench: Workbench, server: Server, device: Device
) -> None:
    write_file(device.mount(*mount_options()) / "file", b"x" * 300_000)
    device.umount()
    second = workbench.device(server)
    root = second.mount(*mount_options())
    assert os.listdir(root) == ["file"]
    server.stop()
    with pytest.raises(OSError, match="Input/output error"):
        (root / "file").read_bytes()
    server.start()
    wait_until("online again", lambda: bool(second.status()["online"]), 60)
    assert (root / "file").read_bytes() == b"x" * 300_000


def test_wrong_password(workbench: Workbench, server: Server) -> None:
    device = workbench.new_device(server)
    assert_says(log_in(device, server.url, password="wrong"), "password", code=REFUSED)
    assert_says(device.command("mount", str(device.mountpoint)), "drivefs login", code=REFUSED)


def test_a_login_that_cannot_be_kept(workbench: Workbench, server: Server, device: Device) -> None:
    other = workbench.new_device(server)
    other.directories["XDG_STATE_HOME"] = other.home / "file"
    (other.home / "file").touch()
    assert_says(log_in(other, server.url), "cannot be kept at", str(other.home / "file"), "rights")
    (listed,) = [each for each in json.loads(device.run("devices", "--json")) if each["name"] == "laptop"]
    assert listed["revoked"]


def test_wrong_password_leaves_an_older_login_as_it_was(server: Server, device: Device) -> None:
    assert log_in(device, server.url, password="wrong").returncode == REFUSED
    write_file(device.mount(*mount_options()) / "file")
    device.umount()


def test_unknown_user_is_told_no_more_than_a_wrong_password(workbench: Workbench, server: Server) -> None:
    device = workbench.new_device(server)
    unknown = device.command("login", server.url, "--user", "eve", "--password-stdin", stdin="x\n")
    known = log_in(device, server.url, password="x")
    assert_says(unknown, "password", code=REFUSED)
    assert unknown.stderr == known.stderr


def test_revoked_device_keeps_what_it_has(server: Server, device: Device) -> None:
    root = device.mount(*mount_options())
    write_file(root / "before", b"sent")
    device.sync()
    server.stop()
    with sqlite3.connect(next(server.data.glob("*.db"))) as database:
        database.execute("UPDATE devices SET revoked_ns = 1")
    database.close()
    write_file(root / "after", b"kept here")
    server.start()
    refused = device.command("sync", str(root), "--wait", "--timeout", "60")
    assert refused.returncode == REFUSED, refused.stderr
    assert "revoked" in (refused.stderr + str(device.status())).lower()
    assert (root / "after").read_bytes() == b"kept here"
    device.umount("--now")
    root = device.mount(*mount_options())
    assert (root / "after").read_bytes() == b"kept here"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://192.0.2.1:8420", ["http", "https"]),
        ("http://drive.example.org", ["http", "https"]),
        ("ftp://127.0.0.1", ["ftp"]),
        ("nonsense", ["nonsense"]),
    ],
    ids=["plain http to an address", "plain http to a name", "other scheme", "no URL"],
)
def test_unusable_urls(workbench: Workbench, server: Server, url: str, words: list[str]) -> None:
    assert_says(log_in(workbench.new_device(server), url), *words, code=REFUSED)


def test_nobody_listens_there(workbench: Workbench, server: Server) -> None:
    assert_says(log_in(workbench.new_device(server), f"http://127.0.0.1:{free_port()}"), "127.0.0.1", code=UNFINISHED)


@pytest.fixture
def web_server(workbench: Workbench) -> Iterator[str]:
    """A server that answers everything with a page, and is no drivefs server."""
    place = workbench.directory("web")
    (place / "index.html").write_text("<html>Welcome to the hotel</html>")
    (place / "healthz").write_text("<html>Please log in</html>")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", place],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_until("the web server listens", lambda: listens(port))
    yield f"http://127.0.0.1:{port}"
    end(process)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_not_a_drivefs_server(workbench: Workbench, server: Server, web_server: str) -> None:
    assert_says(log_in(workbench.new_device(server), web_server), "drivefs server", code=REFUSED)


@pytest.mark.fault(20)
def test_state_directory_in_use(workbench: Workbench, device: Device) -> None:
    device.mount(*mount_options())
    other = workbench.directory("other")
    assert_says(device.command("mount", str(other)), "mounted already", str(device.mountpoint))
    # Also where the other mount cannot be seen: the lock on the state directory decides.
    device.directories["XDG_RUNTIME_DIR"] = workbench.directory("runtime2")
    device.directories["XDG_RUNTIME_DIR"].chmod(0o700)
    device.haste = {"drivefs.cli.preconditions.ENDING_SECONDS": 1.0}
    assert_says(device.command("mount", str(other)), "in use")
    assert other not in fuse_connections()
    device.directories["XDG_RUNTIME_DIR"] = device.home / "runtime"
    device.umount()


def test_unusable_mountpoints(workbench: Workbench, device: Device) -> None:
    missing, full = workbench.home / "missing", workbench.directory("full")
    file = write_file(full / "file", b"do not hide me")
    assert_says(device.command("mount", str(missing)), "does not exist", "mkdir")
    assert_says(device.command("mount", str(full)), "not empty")
    assert_says(device.command("mount", str(file)), "not a directory")
    assert file.read_bytes() == b"do not hide me"


def test_already_mounted(device: Device) -> None:
    root = device.mount(*mount_options())
    write_file(root / "file")
    assert_says(device.command("mount", str(root)), "mounted already", "drivefs umount")
    assert (root / "file").read_bytes() == b"content"


def test_not_mounted(device: Device) -> None:
    for command in (["umount", str(device.mountpoint)], ["status", str(device.mountpoint)], ["sync", "--wait"]):
        assert_says(device.command(*command), "mounted", code=NOT_MOUNTED)


def test_not_logged_in(workbench: Workbench, server: Server) -> None:
    device = workbench.new_device(server)
    assert_says(device.command("mount", str(device.mountpoint)), "drivefs login", code=REFUSED)


@pytest.mark.needs_root
def test_no_fuse_device(workbench: Workbench, device: Device) -> None:
    """In a mount namespace whose /dev has only what a program cannot do without."""
    script = (
        'set -e; mkdir -p "$1"; for name in null zero urandom; do cp -a "/dev/$name" "$1/"; done;'
        ' mount --bind "$1" /dev; shift; exec "$@"'
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", workbench.home / "dev", *DRIVEFS, "mount", device.mountpoint],
        capture_output=True, text=True, env=device.environment, timeout=READY_SECONDS, cwd="/",
    )  # fmt: skip
    assert_says(done, "/dev/fuse", "modprobe fuse")


@pytest.fixture
def second_on_small_cache(workbench: Workbench, server: Server, device: Device) -> Iterator[Device]:
    """A device that is not logged in yet, whose cache directory has 12 MiB; there is one file that it never saw."""
    write_file(device.mount(*mount_options()) / "large", LARGE)
    device.umount()
    second = workbench.new_device(server)
    cache = second.directories["XDG_CACHE_HOME"]
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m,mode=0700", "drivefs-test", cache], check=True)
    yield second
    second.clear()
    subprocess.run(["umount", cache], check=True)


@pytest.mark.fault(13)
@pytest.mark.needs_root
def test_cache_directory_full(second_on_small_cache: Device, device: Device) -> None:
    """What is not kept is fetched for each reader, and what is written goes its way."""
    second = second_on_small_cache
    second.login()
    root = second.mount(*mount_options())
    fill_up(second.directories["XDG_CACHE_HOME"] / "ballast")
    assert (root / "large").read_bytes() == LARGE
    write_file(root / "new", b"n" * 200_000)
    second.sync()
    assert (root / "new").read_bytes() == b"n" * 200_000
    second.umount()
    second.assert_sound()
    there = device.mount(*mount_options()) / "new"
    wait_until("the first device has caught up", there.exists)
    assert there.read_bytes() == b"n" * 200_000


@pytest.mark.needs_root
def test_cache_directory_full_before_anything_is_known(second_on_small_cache: Device) -> None:
    second = second_on_small_cache
    second.login()
    cache = second.directories["XDG_CACHE_HOME"]
    shutil.rmtree(cache / "drivefs")
    fill_up(cache / "ballast")
    assert_says(second.command("mount", str(second.mountpoint)), "cache directory", "no space left", "make room")
    (cache / "ballast").unlink()
    assert (second.mount(*mount_options()) / "large").read_bytes() == LARGE
    second.umount()
    second.assert_sound()


def fill_up(path: Path) -> None:
    """Take all the room there is."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.strerror == "No space left on device"  # noqa: PT017


@pytest.mark.fault(22)
def test_umount_without_server_says_what_is_left_and_keeps_it(
    workbench: Workbench, server: Server, device: Device
) -> None:
    root = device.mount(*mount_options())
    server.stop()
    write_file(root / "file", b"kept")
    done = device.command("umount", str(root), "--timeout", "1")
    assert_says(done, "not on the server yet", "journal", code=UNFINISHED)
    assert root not in fuse_connections()
    device.clear()
    root = device.mount(*mount_options())
    assert (root / "file").read_bytes() == b"kept"
    now = device.command("umount", str(root), "--now")
    assert now.returncode == 0
    assert "journal" in now.stderr + now.stdout
    device.clear()
    server.start()
    device.mount(*mount_options())
    device.umount()
    second = workbench.device(server)
    assert (second.mount(*mount_options()) / "file").read_bytes() == b"kept"


def test_sigterm_unmounts_and_leaves_a_journal_that_goes_on(server: Server, device: Device) -> None:
    root = device.mount(*mount_options())
    server.stop()
    write_file(root / "file", b"kept")
    assert device.process is not None
    assert end(device.process, signal.SIGTERM) == 0
    device.ended()
    assert root not in fuse_connections()
    root = device.mount(*mount_options())
    assert (root / "file").read_bytes() == b"kept"
    server.start()
    device.umount()


def test_logout_with_unsent_changes_is_refused(server: Server, device: Device) -> None:
    root = device.mount(*mount_options())
    server.stop()
    write_file(root / "file", b"kept")
    device.umount("--now")
    assert device.command("logout").returncode != 0
    root = device.mount(*mount_options())
    assert (root / "file").read_bytes() == b"kept"
    server.start()
    device.umount()


def test_lost_cache_costs_nothing_but_fetching(server: Server, device: Device) -> None:
    root = device.mount(*mount_options())
    write_file(root / "file", b"x" * 500_000)
    device.sync()
    server.stop()
    write_file(root / "unsent", b"y" * 500_000)
    device.umount("--now")
    shutil.rmtree(device.directories["XDG_CACHE_HOME"])
    device.directories["XDG_CACHE_HOME"].mkdir()
    root = device.mount(*mount_options())
    assert (root / "unsent").read_bytes() == b"y" * 500_000
    server.start()
    device.sync()
    wait_until("the root is listed again", lambda: sorted(os.listdir(root)) == ["file", "unsent"], 60)
    assert (root / "file").read_bytes() == b"x" * 500_000
    device.umount()
    device.assert_sound()
    server.assert_sound()


def test_listings_over_a_lost_cache_are_whole_or_an_error(server: Server, device: Device) -> None:
    """What is still in the journal is never taken for all that a directory holds."""
    root = device.mount(*mount_options())
    root.chmod(0o711)
    (root / "directory").mkdir()
    device.sync()
    before = root.stat()
    lose_cache(device)
    assert os.listdir(root) == ["directory"]
    server.stop()
    write_file(root / "unsent")
    lose_cache(device)
    with pytest.raises(OSError, match="Input/output error"):
        os.listdir(root)
    server.start()
    wait_until("online again", lambda: bool(device.status()["online"]), 60)
    assert sorted(os.listdir(root)) == ["directory", "unsent"]
    device.sync()
    assert (root.stat().st_mode, root.stat().st_nlink) == (before.st_mode, before.st_nlink)
    device.umount()
    device.assert_sound()


def lose_cache(device: Device) -> None:
    """kill -9, a deleted cache, and a new mount."""
    device.kill()
    shutil.rmtree(device.directories["XDG_CACHE_HOME"] / "drivefs")
    device.mount(*mount_options())


def test_mount_in_the_background(device: Device) -> None:
    """What a person types: the command returns when the mount answers, and the commands find it."""
    root = device.mountpoint
    device.run("mount", str(root), *mount_options())
    try:
        write_file(root / "file", b"content")
        assert str(root) in device.run("status")
        device.sync()
        assert "on the server" in device.run("file-status", str(root / "file"))
    finally:
        device.umount()
    assert root not in fuse_connections()
    assert os.listdir(root) == []


def test_systemd_starts_a_mount_again_that_was_killed(device: Device) -> None:
    """Restart=on-failure runs the lines of the unit, on a mountpoint that is dead."""
    root = device.mount(*mount_options())
    write_file(root / "file", b"content")
    device.kill()
    assert_says(device.command("status"), "dead", "drivefs mount", code=NOT_MOUNTED)
    unit = device.run("systemd-unit")
    (before,) = [line.partition("=")[2] for line in unit.splitlines() if line.startswith("ExecStartPre=")]
    words = shlex.split(before.removeprefix("-").replace("%h/%I", str(root)))
    prepared = subprocess.run(words, capture_output=True, text=True, check=False)
    assert prepared.returncode == 0 or before.startswith("-"), prepared.stderr
    device.mount(*mount_options())
    assert (root / "file").read_bytes() == b"content"


@pytest.mark.needs_root
@pytest.mark.fault(25)
def test_a_copy_of_the_mount_in_a_container_does_not_hold_it(device: Device) -> None:
    """Others have the mount in a namespace of theirs, so the kernel does not tell its process that it was unmounted."""
    root = device.mount(*mount_options())
    write_file(root / "file", b"content")
    container = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sleep", "60"])
    try:
        copies = Path(f"/proc/{container.pid}/mountinfo")
        own = os.readlink("/proc/self/ns/mnt")
        wait_until("it has a copy", lambda: os.readlink(f"/proc/{container.pid}/ns/mnt") != own)
        assert str(root) in copies.read_text()
        device.umount()
    finally:
        container.kill()
        container.wait()
    assert (device.mount(*mount_options()) / "file").read_bytes() == b"content"
