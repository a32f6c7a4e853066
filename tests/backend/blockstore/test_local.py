"""The local store: an object is there whole or not at all, under its own name and nowhere else."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backend.blockstore import errors, local
from backend.blockstore.local import BUFFER_BYTES, LEAST_DIRECT_BYTES, PAGE_BYTES, RESERVED_BYTES, LocalStore
from backend.blockstore.places import Places, open_places


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "blocks")
    store.prepare()
    return store


SIZES = [1, PAGE_BYTES, LEAST_DIRECT_BYTES - 1, LEAST_DIRECT_BYTES, LEAST_DIRECT_BYTES + 1, 2**20, BUFFER_BYTES + 1]


@pytest.mark.parametrize("size", SIZES)
def test_what_was_put_is_got_back_exactly(store: LocalStore, size: int) -> None:
    store.put("7f/earlier", [b"\xff" * BUFFER_BYTES])
    data = os.urandom(size)
    store.put("7f/one", [data[: size // 2], data[size // 2 :]])
    store.settle(["7f/one"])
    assert store.get("7f/one", 0, size) == data
    assert (store._objects / "7f/one").stat().st_size == size


def test_a_part_of_an_object_is_got(store: LocalStore) -> None:
    store.put("a", [b"0123456789"])
    assert store.get("a", 3, 4) == b"3456"


def test_what_is_not_there_or_too_short_is_missing(store: LocalStore) -> None:
    store.put("a", [b"0123456789"])
    for name, offset, length in [("b", 0, 1), ("a", 5, 6), ("a", 100, 1)]:
        with pytest.raises(errors.ObjectMissing):
            store.get(name, offset, length)


def names(store: LocalStore) -> list[str]:
    return [each.name for each in store.objects()]


def test_what_is_put_aside_is_found_no_more_and_kept(store: LocalStore) -> None:
    store.put("a/b", [b"bad"])
    store.quarantine("a/b")
    store.quarantine("a/b")
    assert names(store) == []
    assert (store._quarantine / "a/b").read_bytes() == b"bad"


def test_a_deleted_object_is_gone_and_deleting_again_is_fine(store: LocalStore) -> None:
    store.put("a/b", [b"x"])
    store.delete("a/b")
    store.delete("a/b")
    assert names(store) == []


def test_blocks_leave_room_for_the_metadata_on_their_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that is full to the last nothing could be removed, or given up, any more."""
    store, free_bytes = open_places(Places(tmp_path), os.urandom), RESERVED_BYTES + 10_000
    disk = {"f_frsize": 1, "f_blocks": 2**40, "f_bavail": free_bytes}
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(**disk))
    store.put("a/b", [bytes(10_000)])
    for disk["f_blocks"], disk["f_bavail"] in ((2**40, free_bytes - 1), (40_000, 11_999)):
        with pytest.raises(OSError, match="No space left"):
            store.put("a/c", [bytes(10_000)])
    disk["f_blocks"], disk["f_bavail"] = 40_000, 12_000
    store.put("a/d", [bytes(10_000)])
    disk["f_blocks"] = disk["f_bavail"] = 0  # of a file system that does not say
    store.put("a/e", [bytes(10_000)])
    assert sorted(each.name for each in store.objects()) == ["a/b", "a/d", "a/e"]


def test_all_names_are_walked(store: LocalStore) -> None:
    expected = {"a/b/c", "a/d", "e"}
    for name in expected:
        store.put(name, [b"x"])
    # What a network file system leaves of a file that is deleted while it is read.
    (store._objects / "a" / ".nfs0000000000000001").touch()
    assert set(names(store)) == expected
    assert {each.size_bytes for each in store.objects()} == {1}


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../b", "a//b", ".x", "a/.", "A", "a\0b", "a/"])
def test_no_name_leads_out_of_the_directory(store: LocalStore, name: str) -> None:
    for act in (lambda: store.put(name, [b"x"]), lambda: store.get(name, 0, 1), lambda: store.delete(name)):
        with pytest.raises(ValueError, match="no name of an object"):
            act()


def test_a_file_system_without_direct_writes_is_written_through_the_cache(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = os.open

    def open_without_direct(path: Any, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
        return real_open(path, flags, mode)

    monkeypatch.setattr(local.os, "open", open_without_direct)
    data = os.urandom(2**20)
    for name in ("a", "b"):
        store.put(name, [data])
        assert store.get(name, 0, len(data)) == data


@pytest.mark.parametrize("call", ["fsync", "rename", "ftruncate"])
def test_a_write_that_fails_leaves_nothing(store: LocalStore, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*_arguments: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    store.put("a/first", [b"x"])
    monkeypatch.setattr(local.os, call, fail)
    with pytest.raises(OSError, match="Input/output"):
        store.put("a/b", [bytes(2**20)])
    monkeypatch.undo()
    assert names(store) == ["a/first"]
    assert list(store._incoming.iterdir()) == []


def test_what_a_crash_left_half_written_is_cleared(store: LocalStore, tmp_path: Path) -> None:
    store.put("a", [b"x"])
    (store._incoming / "123-4").write_bytes(b"half")
    again = LocalStore(tmp_path / "blocks")
    again.prepare()
    assert list(store._incoming.iterdir()) == []
    assert names(again) == ["a"]


class Calls:
    """The system calls that decide what survives a power loss, in their order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        for name in ("rename", "fsync"):
            monkeypatch.setattr(local.os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name: str, real: Any) -> Any:
        def call(first: Any, *rest: Any) -> Any:
            kind = "directory" if isinstance(first, int) and os.path.isdir(f"/proc/self/fd/{first}") else "file"
            self.made.append(f"{name} {kind}" if name == "fsync" else name)
            return real(first, *rest)

        return call


@pytest.mark.parametrize("size", [100, 2**20])
def test_an_object_is_synced_then_named_then_its_directory_is_synced(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    store.put("a/first", [b"x"])
    calls = Calls(monkeypatch)
    store.put("a/b", [bytes(size)])
    store.settle(["a/b", "a/first"])
    assert calls.made == ["fsync file", "rename", "fsync directory"]
