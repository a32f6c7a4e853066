"""Names as bytes, and how long they may be, held against ext4.

Owns the name lines of the section "Directories and names" of SEMANTICS.md.
"""

import os
import unicodedata
from pathlib import Path

import pytest

from tests.mount.oracle import Operation, Pair, Refused, write_file

ODD_NAMES = [
    b"\xff\xfe not utf-8 \x80",
    b"line\nbreak\ttab",
    b" leading and trailing ",
    b"...",
    b"..name",
    b"-rf",
    b"*?[a]{b}\\\"'$`;|&<>",
    b"\x01\x7f control",
    "ünïcödé 名前 \U0001f600".encode(),
    b"%00 %2f",
    b"con.txt:stream",
    b"name.",
    b"x" * 255,
    b"\xff" * 255,
]


@pytest.mark.parametrize("name", ODD_NAMES, ids=range(len(ODD_NAMES)))
def test_any_bytes_are_a_name(both: Pair, name: bytes) -> None:
    """[name-bytes]"""

    def work(root: Path) -> tuple[list[bytes], bytes, list[bytes]]:
        place = os.fsencode(root) + b"/"
        write_file(Path(os.fsdecode(place + name)), b"content")
        os.mkdir(place + b"directory")
        os.rename(place + name, place + b"directory/" + name)
        os.link(place + b"directory/" + name, place + name)
        os.symlink(name, place + b"link")
        with open(place + b"link", "rb") as file:
            content = file.read()
        os.unlink(place + name)
        return os.listdir(place + b"directory"), content, sorted(os.listdir(place))

    assert both(work) == ([name], b"content", [b"directory", b"link"])
    both.assert_same_tree()


@pytest.mark.fault(64)
def test_case_and_normal_forms_differ(both: Pair) -> None:
    """[name-exact]"""
    composed = unicodedata.normalize("NFC", "é")
    decomposed = unicodedata.normalize("NFD", "é")
    names = ["name", "Name", "NAME", composed, decomposed]

    def work(root: Path) -> tuple[list[str], list[bytes]]:
        for name in names:
            write_file(root / name, name.encode())
        return sorted(os.listdir(root)), [(root / name).read_bytes() for name in names]

    assert both(work) == (sorted(names), [name.encode() for name in names])


TOO_LONG = "x" * 256

CALLS: dict[str, Operation] = {
    "create": lambda root: os.open(root / TOO_LONG, os.O_CREAT | os.O_WRONLY),
    "open": lambda root: os.open(root / TOO_LONG, os.O_RDONLY),
    "stat": lambda root: os.stat(root / TOO_LONG),
    "mkdir": lambda root: os.mkdir(root / TOO_LONG),
    "rmdir": lambda root: os.rmdir(root / TOO_LONG),
    "unlink": lambda root: os.unlink(root / TOO_LONG),
    "symlink": lambda root: os.symlink("x", root / TOO_LONG),
    "readlink": lambda root: os.readlink(root / TOO_LONG),
    "link": lambda root: os.link(root / "file", root / TOO_LONG),
    "rename to": lambda root: os.rename(root / "file", root / TOO_LONG),
    "rename from": lambda root: os.rename(root / TOO_LONG, root / "other"),
    "mkfifo": lambda root: os.mkfifo(root / TOO_LONG),
    "chmod": lambda root: os.chmod(root / TOO_LONG, 0o600),
    "truncate": lambda root: os.truncate(root / TOO_LONG, 0),
    "setxattr": lambda root: os.setxattr(root / TOO_LONG, "user.x", b"1"),
    "inner": lambda root: os.stat(root / TOO_LONG / "x"),
}


@pytest.mark.parametrize("name", CALLS)
def test_names_of_256_bytes_are_refused_by_every_call(both: Pair, name: str) -> None:
    """[name-too-long]"""
    both(lambda root: write_file(root / "file").name)
    assert both(CALLS[name]) == Refused("ENAMETOOLONG")
    both.assert_same_tree()


def test_paths_of_4096_bytes_are_refused(both: Pair) -> None:
    """[name-too-long]"""
    assert both(lambda root: os.stat(f"{root}/" + "./" * 2048 + "x")) == Refused("ENAMETOOLONG")
    assert both(lambda root: os.stat(f"{root}/" + "./" * 1900 + "x")) == Refused("ENOENT")
