"""FIFOs, sockets and device nodes, held against ext4.

Owns the first half of the section "Special files and memory maps" of SEMANTICS.md.
"""

import os
import socket
import stat
from pathlib import Path

import pytest

from tests.mount.oracle import Pair, Refused


def test_fifo_passes_bytes_between_processes(both: Pair) -> None:
    """[fifo]"""

    def work(root: Path) -> tuple[bytes, bool, int]:
        os.mkfifo(root / "fifo", 0o640)
        child = os.fork()
        if child == 0:
            with open(root / "fifo", "wb") as writing:
                writing.write(b"through the fifo")
            os._exit(0)
        with open(root / "fifo", "rb") as reading:
            content = reading.read()
        os.waitpid(child, 0)
        found = (root / "fifo").stat()
        return content, stat.S_ISFIFO(found.st_mode), found.st_size

    assert both(work) == (b"through the fifo", True, 0)


def test_fifo_without_a_reader_is_refused_when_not_blocking(both: Pair) -> None:
    """[fifo]"""

    def work(root: Path) -> int:
        os.mkfifo(root / "fifo")
        return os.open(root / "fifo", os.O_WRONLY | os.O_NONBLOCK)

    assert both(work) == Refused("ENXIO")


def test_socket_is_bound_connected_and_removed(both: Pair) -> None:
    """[socket]"""

    def work(root: Path) -> tuple[bytes, bool, object, list[str]]:
        before = Path.cwd()
        os.chdir(root)  # a socket's path may be 107 bytes long
        try:
            with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
                server.bind("socket")
                server.listen()
                client.connect("socket")
                accepted, _ = server.accept()
                with accepted:
                    client.sendall(b"hello")
                    received = accepted.recv(5)
            is_socket = stat.S_ISSOCK(os.stat("socket").st_mode)
            try:
                opened: object = os.open("socket", os.O_RDONLY)
            except OSError as error:
                opened = error.strerror
            os.unlink("socket")
            return received, is_socket, opened, os.listdir(".")
        finally:
            os.chdir(before)

    assert both(work) == (b"hello", True, "No such device or address", [])


@pytest.mark.needs_root
@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
@pytest.mark.parametrize(("major", "minor"), [(1, 3), (0, 0), (259, 65_537), (4095, 255)])
def test_device_files_keep_kind_and_number(both: Pair, kind: int, major: int, minor: int) -> None:
    """[device-file]"""

    def work(root: Path) -> tuple[int, int, int]:
        os.mknod(root / "device", kind | 0o620, os.makedev(major, minor))
        found = (root / "device").stat()
        os.rename(root / "device", root / "renamed")
        again = (root / "renamed").stat()
        return found.st_mode, found.st_rdev, again.st_rdev

    both(work)
    both.assert_same_tree()


def test_mknod_makes_regular_files(both: Pair) -> None:
    """[mknod-regular]"""

    def work(root: Path) -> tuple[bytes, bool]:
        os.mknod(root / "file", stat.S_IFREG | 0o644)
        (root / "file").write_bytes(b"regular")
        os.mknod(root / "plain")
        return (root / "file").read_bytes(), stat.S_ISREG((root / "plain").stat().st_mode)

    assert both(work) == (b"regular", True)
    assert both(lambda root: os.mknod(root / "file", stat.S_IFREG)) == Refused("EEXIST")
