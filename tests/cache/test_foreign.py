"""What lies in the place of a file of the state and is none is told of in words, and left as it is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from cache.check import check
from cache.errors import Foreign
from cache.findings import Severity
from cache.repair import Repaired, repair
from cache.workspace import LocalState
from tests.cache.states import Bench, content_of, create
from tests.cache.test_recovery import BIG, stage


async def nothing_said(_done: int, _total: int) -> None:
    await trio.lowlevel.checkpoint()


def mend(state: Path, cache: Path) -> Repaired:
    async def main() -> Repaired:
        return await repair(state, cache, offload=trio.to_thread.run_sync, progress=nothing_said)

    return trio.run(main)


def a_link(path: Path) -> None:
    path.symlink_to("/nowhere/at/all")


@contextmanager
def instead_of(path: Path, made: Callable[[Path], None]) -> Iterator[None]:
    """Something else lies in a place for a while."""
    kept = path.with_name("kept")
    is_there = path.exists()
    if is_there:
        path.rename(kept)
    made(path)
    yield
    path.unlink() if path.is_symlink() else path.rmdir()
    if is_there:
        kept.rename(path)


def test_what_is_no_file_is_told_of_and_the_file_brought_back_has_all(bench: Bench, local: LocalState) -> None:
    inode, _ = create(local.journal, b"one", content=b"12345")
    staged = stage(local, create(local.journal, b"two", content=b"12345")[0], 5, BIG)
    bench.crash()
    state, cache = bench.places("crashed")
    files = [state / name for name in ("journal.db", "redo", "reserve", "lock", f"staging/{staged:016x}")]
    odd = [(path, made) for path in [*files, cache / "replica.db"] for made in (a_link, Path.mkdir)]
    for path, made in [*odd, (state / "staging", a_link)]:
        with instead_of(path, made):
            (told,) = check(state, cache)
            assert told.severity is Severity.DAMAGE
            assert str(path) in told.what
            assert mend(state, cache).left == [told]
            with pytest.raises(Foreign, match=path.name):
                bench.open("crashed")
    again = bench.open("crashed")
    assert again.report == []
    assert content_of(again, inode) == b"12345"
