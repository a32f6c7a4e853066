"""Mounts on machines that misbehave: a disk that fails to sync, clocks that are wrong, a mountpoint that hangs."""

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivefs.cli.exit_codes import ExitCode
from tests.mount.conftest import mount_options
from tests.mount.oracle import write_file
from tests.support.mounts import (
    READY_SECONDS,
    ROOT,
    Device,
    Server,
    Workbench,
    bare_environment,
    fuse_connections,
    wait_until,
)

DAY_SECONDS = 86_400


@pytest.fixture
def server(workbench: Workbench) -> Server:
    return workbench.server()


def odd_device(workbench: Workbench, server: Server, clock: int = 0) -> Device:
    """A device on a machine that misbehaves as the files in its `machine` say."""
    device = workbench.device(server)
    machine = device.home / "machine"
    machine.mkdir()
    (machine / "clock").write_text(str(clock))
    device.program = ["tests.support.odd_machine", str(machine)]
    device.mount(*mount_options())
    return device


def refusal(path: Path, content: bytes) -> int | None:
    """The errno with which writing a file and syncing it is refused, if it is."""
    try:
        with path.open("wb", buffering=0) as file:
            file.write(content)
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno
    return None


@pytest.mark.fault(12)
def test_a_failed_sync_is_told_to_whoever_waits_and_nothing_is_taken_until_a_restart(
    workbench: Workbench, server: Server
) -> None:
    """[sync-failed]"""
    device = odd_device(workbench, server)
    root = device.mountpoint
    write_file(root / "before", b"before" * 20_000)
    device.sync()
    server.stop()
    write_file(root / "unsent", b"unsent" * 20_000)
    (device.home / "machine/fsync fails").touch()
    assert refusal(root / "synced", b"synced" * 20_000) == errno.EIO
    (device.home / "machine/fsync fails").unlink()
    wait_until("it says why it sends nothing", lambda: "Check the disk" in device.status()["reason"])
    # The disk may have dropped what it was to write, and now says that all is well: it is not believed.
    assert refusal(root / "later", b"later") is not None
    with pytest.raises(OSError, match=r"Input/output|Read-only"):
        os.rename(root / "before", root / "renamed")
    assert (root / "before").read_bytes() == b"before" * 20_000
    assert (root / "unsent").read_bytes() == b"unsent" * 20_000
    ended = device.command("umount", str(root), "--now")
    assert ended.returncode == ExitCode.FAILED
    assert "Check the disk, then mount again" in ended.stderr
    assert device.process is not None
    assert device.process.wait(READY_SECONDS) == ExitCode.FAILED
    device.ended()
    assert "Check the disk and mount again" in device.log.read_text().splitlines()[-1]
    server.start()
    device.mount(*mount_options())
    assert refusal(root / "later", b"later") is None
    device.sync()
    assert (root / "unsent").read_bytes() == b"unsent" * 20_000
    assert (root / "before").read_bytes() == b"before" * 20_000
    device.umount()
    device.assert_sound()
    server.assert_sound()


@pytest.mark.fault(36)
def test_clocks_that_are_wrong_move_times_and_never_the_order(workbench: Workbench, server: Server) -> None:
    early, late = odd_device(workbench, server, -DAY_SECONDS), odd_device(workbench, server, DAY_SECONDS)
    for round_number, (writer, reader) in enumerate([(late, early), (early, late)] * 2):
        content = b"%d of %s" % (round_number, writer.name.encode())
        write_file(writer.mountpoint / "file", content)
        write_file(writer.mountpoint / "beside", content)
        os.rename(writer.mountpoint / "beside", writer.mountpoint / "saved")
        writer.sync()
        for name in ("file", "saved"):
            path = reader.mountpoint / name
            wait_until(
                "the other has it", lambda path=path, content=content: path.exists() and path.read_bytes() == content
            )
        if round_number == 0:
            assert (writer.mountpoint / "file").stat().st_mtime > time.time() + DAY_SECONDS / 2
        # It jumps while it is mounted, too.
        (writer.home / "machine/clock").write_text(str(DAY_SECONDS * (round_number - 2)))
    for device in (early, late):
        assert sorted(os.listdir(device.mountpoint)) == ["file", "saved"]
        device.umount()
        device.assert_sound()
    server.assert_sound()


@pytest.fixture
def hanging(workbench: Workbench, server: Server) -> Iterator[Device]:
    """A device at whose mountpoint a mount hangs that somebody else holds open."""
    device = workbench.device(server)
    state, cache = workbench.directory("hanging state"), workbench.directory("hanging cache")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.local_mount", state, cache, device.mountpoint],
        env=bare_environment(),
        cwd=ROOT,
    )
    wait_until("it is mounted", lambda: device.mountpoint in fuse_connections())
    process.send_signal(signal.SIGSTOP)
    yield device
    process.kill()
    process.wait()


@pytest.mark.fault(25)
@pytest.mark.needs_root
def test_a_mountpoint_that_hangs_is_cleared_without_touching_it(hanging: Device) -> None:
    root = hanging.mount(*mount_options())
    write_file(root / "file", b"content")
    hanging.sync()
    assert (root / "file").read_bytes() == b"content"
    hanging.umount()


@pytest.mark.needs_root
def test_a_connection_is_controlled_where_nobody_has_mounted_the_files_for_that(
    workbench: Workbench, server: Server
) -> None:
    """Elsewhere systemd does that at boot; a hung mount could else not be cleared."""
    device = workbench.device(server)
    root = device.mount(*mount_options())
    number = fuse_connections()[root]
    unmounted = 'while umount /sys/fs/fuse/connections 2>/dev/null; do :; done; exec "$@"'
    asked = f"from drivefs.fuse import connection; print(connection.set_max_background({number}, 77))"
    command = ["unshare", "--mount", "sh", "-c", unmounted, "sh", sys.executable, "-c", asked]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=READY_SECONDS, check=True)
    assert ended.stdout == "True\n"


def test_what_a_command_brought_about_is_seen_right_after_it(workbench: Workbench, server: Server) -> None:
    """[refused-for-good] [trash]: however late the kernel is told."""
    device = odd_device(workbench, server)
    root = device.mountpoint
    write_file(root / "known", b"before")
    device.sync()
    (device.home / "machine/told late").touch()
    (root / "known").unlink()
    assert not (root / "known").exists()
    device.run("trash", "restore", str(root / "known"))
    assert (root / "known").read_bytes() == b"before"
    server.stop()
    write_file(root / "known", bytes(2_000_000))
    assert (root / "known").stat().st_size == 2_000_000
    with sqlite3.connect(server.data / "metadata.db") as database:
        database.execute("UPDATE accounts SET file_bytes = 1000000")
    database.close()
    server.start()
    assert device.command("sync", str(root), "--wait").returncode == ExitCode.REFUSED
    assert (root / "known").stat().st_size == 6


def test_a_drive_whose_mount_cannot_be_asked_is_said_to_be_there_and_what_to_do(
    workbench: Workbench, server: Server
) -> None:
    device = workbench.device(server)
    root = device.mount(*mount_options())
    device.directories["XDG_RUNTIME_DIR"] = workbench.directory("runtime")
    for command in ("status", "sync"):
        ended = device.command(command, str(root))
        assert ended.returncode == ExitCode.NOT_MOUNTED
        assert "XDG_RUNTIME_DIR" in ended.stderr
    assert root in fuse_connections()
    device.directories["XDG_RUNTIME_DIR"] = device.home / "runtime"
    assert device.process is not None
    device.process.send_signal(signal.SIGSTOP)
    ended = device.command("status", str(root))
    device.process.send_signal(signal.SIGCONT)
    assert ended.returncode == ExitCode.FAILED
    assert f"kill -CONT {device.process.pid}" in ended.stderr
    device.umount()
