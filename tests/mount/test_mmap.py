"""Memory maps, held against ext4.

Owns the second half of the section "Special files and memory maps" of SEMANTICS.md.
"""

import mmap
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.mount.oracle import Pair, write_file

SIZE = 300_000


def test_shared_map_shows_the_file_and_later_writes(both: Pair) -> None:
    """[mmap-read]"""

    def work(root: Path) -> list[bytes]:
        path = write_file(root / "file", b"a" * SIZE)
        with open(path, "r+b", buffering=0) as file, mmap.mmap(file.fileno(), SIZE, prot=mmap.PROT_READ) as view:
            seen = [view[:3], view[-3:]]
            os.pwrite(file.fileno(), b"written", 100_000)
            seen.append(view[99_998:100_009])
            return seen

    assert both(work) == [b"aaa", b"aaa", b"aawrittenaa"]


@pytest.mark.parametrize("end", ["flush", "close", "exit"])
def test_writes_into_a_shared_map_reach_the_file(both: Pair, end: str) -> None:
    """[mmap-write]"""

    def change(path: Path) -> None:
        with open(path, "r+b") as file:
            view = mmap.mmap(file.fileno(), SIZE)
            view[0:5] = b"begin"
            view[150_000:150_006] = b"middle"
            view[-3:] = b"end"
            if end == "exit":
                os._exit(0)
            if end == "flush":
                view.flush()
            view.close()

    def work(root: Path) -> bool:
        path = write_file(root / "file", b"-" * SIZE)
        child = os.fork()
        if child == 0:
            change(path)
            os._exit(0)
        os.waitpid(child, 0)
        content = path.read_bytes()
        return content == b"begin" + b"-" * 149_995 + b"middle" + b"-" * 149_991 + b"end"

    assert both(work) is True


def test_reads_show_what_was_written_into_a_map_at_once(both: Pair) -> None:
    """[mmap-write]"""

    def work(root: Path) -> bytes:
        path = write_file(root / "file", b"-" * SIZE)
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), SIZE) as view:
            view[10:15] = b"fresh"
            return os.pread(file.fileno(), 7, 9)

    assert both(work) == b"-fresh-"


def test_map_of_a_grown_sparse_file_is_written(both: Pair) -> None:
    """[mmap-write]"""

    def work(root: Path) -> tuple[int, bytes]:
        path = root / "file"
        with open(path, "w+b") as file:
            file.truncate(10 * 2**20)
            with mmap.mmap(file.fileno(), 10 * 2**20) as view:
                view[5 * 2**20 : 5 * 2**20 + 6] = b"inside"
        content = path.read_bytes()
        return content.count(b"\0"), content[5 * 2**20 :][:8]

    assert both(work) == (10 * 2**20 - 6, b"inside\0\0")


def test_writes_into_a_private_map_stay_private(both: Pair) -> None:
    """[mmap-private]"""

    def work(root: Path) -> tuple[bytes, bytes]:
        path = write_file(root / "file", b"original")
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_COPY) as view:
            view[:] = b"changed!"
            seen = view[:]
        return seen, path.read_bytes()

    assert both(work) == (b"changed!", b"original")


def test_programs_run_from_the_drive(both: Pair) -> None:
    """[mmap-exec]"""

    def work(root: Path) -> tuple[str, str]:
        shutil.copy("/bin/echo", root / "program")
        (root / "program").chmod(0o755)
        write_file(root / "script", b"#!/bin/sh\necho script $1\n", mode=0o755)
        outputs = [
            subprocess.run(command, check=True, capture_output=True, text=True).stdout
            for command in ([root / "program", "binary"], [root / "script", "argument"])
        ]
        return outputs[0], outputs[1]

    assert both(work) == ("binary\n", "script argument\n")


@pytest.mark.parametrize("how", ["unlink", "replace", "rename"])
def test_map_outlives_the_name_of_its_file(both: Pair, how: str) -> None:
    """[mmap-renamed]"""

    def work(root: Path) -> tuple[bytes, bytes]:
        path = write_file(root / "file", b"x" * SIZE)
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), SIZE) as view:
            if how == "unlink":
                os.unlink(path)
            elif how == "replace":
                os.rename(write_file(root / "new", b"new"), path)
            else:
                os.rename(path, root / "other")
            view[200_000:200_003] = b"map"
            view.flush()
            return view[199_999:200_004], os.pread(file.fileno(), 5, 199_999)

    assert both(work) == (b"xmapx", b"xmapx")
