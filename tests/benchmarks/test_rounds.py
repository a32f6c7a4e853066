"""The benchmark itself, small: on a plain directory and on the trivial file system, which is a real mount."""

import hashlib
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import processes, rounds, source_tree
from benchmarks.settings import MEBIBYTE, STANDARD, Settings
from benchmarks.targets import PlainDirectory, Target, TrivialMount

TINY = Settings(
    rounds=1,
    workloads=STANDARD,
    large_bytes=2 * MEBIBYTE,
    small_file_count=20,
    random_count=10,
    tree_file_count=30,
    transaction_count=5,
)
LOCAL_ROWS = {
    *("create", "stat", "scandir", "small_read", "rename", "unlink"),
    *("write", "read_warm", "read_cold", "random_read", "random_write"),
    *("untar", "find", "grep", "copy", "remove", "git_add", "git_commit", "git_add_commit", "git_status", "sqlite"),
}


@pytest.fixture(autouse=True)
def _caches_of_this_machine_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "drop_kernel_caches", lambda: False)


def quiet(_: str) -> None:
    """Says nothing."""


@pytest.mark.parametrize("make", [PlainDirectory, TrivialMount])
def test_every_local_row_is_measured(make: Callable[[Path], Target], tmp_path: Path) -> None:
    target = make(tmp_path / "target")
    found = rounds.measure([target], TINY, tmp_path, quiet)
    assert found.failures == []
    assert set(found.values) >= LOCAL_ROWS
    assert all(values[target.name][0] > 0 for values in found.values.values())


def test_trivial_file_system_keeps_bytes_names_and_links(tmp_path: Path) -> None:
    target = TrivialMount(tmp_path / "target")
    try:
        target.start()
        place = target.directory / "a"
        place.mkdir()
        (place / "old").write_bytes(b"content")
        (place / "old").rename(target.directory / "new")
        (target.directory / "link").hardlink_to(target.directory / "new")
        (target.directory / "new").unlink()
        place.rmdir()
        assert (target.directory / "link").read_bytes() == b"content"
        assert [entry.name for entry in target.directory.iterdir()] == ["link"]
        assert target.memory_bytes()
    finally:
        target.stop()
    assert not processes.is_mounted(target.directory)


class Broken(PlainDirectory):
    name = "broken"

    def start(self) -> None:
        raise processes.BenchmarkError("it is not there")


def test_target_that_does_not_start_is_reported_and_others_go_on(tmp_path: Path) -> None:
    targets = [Broken(tmp_path / "broken"), PlainDirectory(tmp_path / "plain")]
    settings = Settings(rounds=1, workloads=("sqlite",), transaction_count=2)
    found = rounds.measure(targets, settings, tmp_path, quiet)
    assert found.failures == [("broken", "could not be set up: it is not there")]
    assert list(found.values["sqlite"]) == ["plain"]


def test_command_that_fails_tells_its_last_words() -> None:
    with pytest.raises(processes.BenchmarkError, match="No such file"):
        processes.run("ls", "/no/such/place")


def test_same_seed_makes_the_same_tree(tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        source_tree.make_tar(tmp_path / name, random.Random("seed"), 40)
        digests.append(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    with tarfile.open(tmp_path / "one") as tar:
        assert len(tar.getnames()) == 40
