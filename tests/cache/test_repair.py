"""Repair: what is wrong is mended, nothing that exists only here is removed, and a journal is made anew of its rows."""

import contextlib
import random
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import trio

from cache import check as checking
from cache import repair as repairing
from cache import salvage
from cache.check import check
from cache.database import PAGE_BYTES
from cache.errors import Corrupt, StateInUse
from cache.findings import Severity
from cache.pages import Image, Tree
from cache.repair import Repaired, repair
from drivefs.protocol import blocks as codec
from drivefs.protocol.ids import InodeId
from tests.cache.states import Bench, change_mode, content_of, create, draft_of, inline

FILE_COUNT = 60
LONG = 100_000


async def quiet(_done: int, _total: int) -> None:
    await trio.lowlevel.checkpoint()


def mend(bench: Bench, name: str = "one") -> Repaired:
    async def run() -> Repaired:
        return await repair(*bench.places(name), offload=inline, progress=quiet)

    return trio.run(run)


def content(number: int) -> bytes:
    return random.Random(number).randbytes(3000)


def fill(bench: Bench) -> dict[InodeId, bytes]:
    """A state with many files: their content in the database, of one in staging."""
    local = bench.open()
    expected = {}
    for number in range(FILE_COUNT):
        inode, _ = create(local.journal, b"file %d" % number, content=content(number))
        expected[inode] = content(number)
        change_mode_of(local, inode)
    inode, _ = create(local.journal, b"long", content=b"")
    with local.journal.transaction():
        local.journal.drafts.put_draft(draft_of(inode))
        staged = local.staging.append(inode, b"6" * LONG)
        local.journal.drafts.add_record(inode, 0, b"6" * LONG, staged)
        state = local.journal.overlay.inode(inode)
        assert state is not None
        state.size = LONG
        local.journal.overlay.put_inode(state, local.journal.last_op())
    expected[inode] = b"6" * LONG
    assert not bench.close(local)
    return expected


def change_mode_of(local: Any, inode: InodeId) -> None:
    state = local.journal.overlay.inode(inode)
    change_mode(local.journal, inode, 0o600)
    after = local.journal.overlay.inode(inode)
    after.size = state.size
    local.journal.overlay.put_inode(after, local.journal.last_op())


def roots(path: Path) -> dict[str, int]:
    connection = sqlite3.connect(path)
    found = dict(connection.execute("SELECT name, rootpage FROM sqlite_schema").fetchall())
    connection.close()
    return found


def pages_of(path: Path, table: str) -> list[int]:
    tree = Tree(Image(path, PAGE_BYTES), roots(path)[table])
    list(tree.rows())
    assert not tree.holes
    return sorted(tree.pages)


def overwrite(path: Path, page: int, data: bytes = b"\xff" * PAGE_BYTES) -> None:
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE_BYTES)
        file.write(data)


def everything_in(directory: Path) -> bytes:
    return b"\0".join(path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())


def test_pages_have_the_rows_that_sqlite_has(bench: Bench) -> None:
    fill(bench)
    path = bench.places()[0] / "journal.db"
    connection = sqlite3.connect(path)
    image = Image(path, PAGE_BYTES)
    for table in ("mutations", "records", "drafts", "inodes", "dentries", "counters", "id_ranges"):
        expected = connection.execute(f"SELECT * FROM {table}").fetchall()
        assert sorted(Tree(image, roots(path)[table]).rows(), key=repr) == sorted(expected, key=repr), table
        assert expected
    free = connection.execute("PRAGMA freelist_count").fetchone()[0]
    assert len(image.free_pages() or ()) == free
    connection.close()


def test_pages_of_a_log_are_read_too(bench: Bench) -> None:
    local = bench.open()
    create(local.journal, b"a", content=content(1))
    path = bench.crash() / "journal.db"
    assert Path(f"{path}-wal").stat().st_size
    image = Image(path, PAGE_BYTES)
    found = list(Tree(image, roots(bench.crash("again") / "journal.db")["records"]).rows())
    assert [row[-1] for row in found] == [content(1)]


def test_a_sound_state_needs_nothing(bench: Bench) -> None:
    fill(bench)
    assert mend(bench) == Repaired([], [])


def test_a_state_in_use_is_left_alone(bench: Bench) -> None:
    bench.open()
    with pytest.raises(StateInUse):
        mend(bench)


@pytest.mark.parametrize("table", ["mutations", "records", "drafts", "inodes", "dentries", "mutations_by_inode"])
def test_a_journal_with_a_bad_page_is_made_anew_of_what_can_be_read(bench: Bench, table: str) -> None:
    """All content is in its file, or in lost+found; the journal as it was found is there too."""
    expected = fill(bench)
    state, _ = bench.places()
    path = state / "journal.db"
    pages = pages_of(path, table)
    overwrite(path, pages[len(pages) // 2])
    before = path.read_bytes()
    assert check(*bench.places())
    done = mend(bench)
    assert done.found
    assert not done.left, done
    kept = everything_in(state / "lost+found")
    if table != "mutations_by_inode":
        assert before in kept
        with pytest.raises(AssertionError):
            assert before == path.read_bytes()
    local = bench.open()
    lost = [inode for inode, data in expected.items() if content_of(local, inode) != data]
    for inode in lost:
        pieces = [data for data in (content_of(local, inode), expected[inode]) if data]
        assert expected[inode][:3000] in kept or table == "records", (table, inode, pieces)
    if table in ("inodes", "dentries", "mutations_by_inode", "mutations"):
        assert not lost
    if table == "records":
        assert len(lost) < FILE_COUNT
    bench.close(local)


def test_what_was_not_in_the_log_yet_makes_no_draft_of_a_part(bench: Bench) -> None:
    """The draft of a file some of whose records are lost is given up, with what was written to it last."""
    local = bench.open()
    files = [create(local.journal, b"%d" % number, content=content(number))[0] for number in range(FILE_COUNT)]
    local.journal._database.empty_log()
    for inode in files:
        with local.journal.transaction():
            local.journal.drafts.put_draft(draft_of(inode))
            local.journal.drafts.add_record(inode, 3000, b"more")
    path = bench.crash(flushed=False) / "journal.db"
    assert local.journal._database._redo is not None
    assert len(local.journal._database._redo.accepted) == FILE_COUNT
    pages = pages_of(path, "records")
    overwrite(path, pages[len(pages) // 2])
    mend(bench, "crashed")
    again = bench.open("crashed")
    whole = [inode for number, inode in enumerate(files) if content_of(again, inode) == content(number) + b"more"]
    assert 0 < len(whole) < FILE_COUNT
    assert {content_of(again, inode) for inode in set(files) - set(whole)} == {b""}


@pytest.mark.parametrize("is_known", [True, False])
def test_what_was_not_in_the_log_yet_comes_along_or_is_put_aside(bench: Bench, *, is_known: bool) -> None:
    local = bench.open()
    local.journal._database.empty_log()
    inode, _ = create(local.journal, b"last", content=b"what was written last")
    state = bench.crash(flushed=False)
    path = state / "journal.db"
    overwrite(path, pages_of(path, "dentries")[0])
    if not is_known:
        overwrite(path, pages_of(path, "meta")[0])
    done = mend(bench, "crashed")
    assert any("1 changes" in each.what for each in done.found) is not is_known
    assert content_of(bench.open("crashed"), inode) == (b"what was written last" if is_known else b"")
    assert b"what was written last" in everything_in(state / "lost+found")


def test_a_journal_that_only_seemed_whole_is_made_anew_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own check does not see all that is wrong."""
    expected = fill(bench)
    path = bench.places()[0] / "journal.db"
    overwrite(path, pages_of(path, "inodes")[0])
    with monkeypatch.context() as patch:
        for module in (checking, repairing):
            patch.setattr(module, "is_sound", lambda *_database: True)
        assert [each.severity for each in check(*bench.places())] == [Severity.DAMAGE]
        done = mend(bench)
    assert done.found
    assert not done.left, done
    local = bench.open()
    assert [inode for inode, data in expected.items() if content_of(local, inode) != data] == []
    bench.close(local)


@pytest.mark.parametrize("table", ["mutations", "records", "inodes"])
def test_rows_below_a_bad_page_of_the_tree_are_found(bench: Bench, table: str) -> None:
    """The leaves are there: only the way to them is lost."""
    expected = fill(bench)
    state, _ = bench.places()
    path = state / "journal.db"
    overwrite(path, roots(path)[table])
    done = mend(bench)
    assert not done.left, done
    local = bench.open()
    if table == "mutations":
        assert local.journal.pending_count == 2 * FILE_COUNT + 1
    kept = everything_in(state / "lost+found")
    for inode, data in expected.items():
        assert content_of(local, inode) == data or data in kept


@pytest.mark.parametrize("damage", ["header", "first page", "half", "empty", "gone", "noise"])
def test_a_journal_that_is_no_database_any_more_is_refused_and_then_made_anew(bench: Bench, damage: str) -> None:
    expected = fill(bench)
    state, _ = bench.places()
    path = state / "journal.db"
    whole = path.read_bytes()
    damaged = {
        "header": b"\0" * 100 + whole[100:],
        "first page": b"\0" * PAGE_BYTES + whole[PAGE_BYTES:],
        "half": whole[: len(whole) // 2 // PAGE_BYTES * PAGE_BYTES],
        "empty": b"",
        "gone": b"",
        "noise": random.Random(0).randbytes(len(whole)),
    }[damage]
    path.write_bytes(damaged)
    if damage == "gone":
        path.unlink()
    if damage != "half":  # SQLite notices that one when it gets there
        with pytest.raises(Corrupt) as refused:
            bench.open()
        assert "check --repair" in str(refused.value)
    assert damage == "gone" or path.read_bytes() == damaged
    assert any(each.severity is Severity.DAMAGE for each in check(*bench.places()))
    done = mend(bench)
    assert not done.left, done
    assert any(each.severity is Severity.DAMAGE for each in done.found)
    kept = everything_in(state / "lost+found")
    assert damaged in kept
    local = bench.open()
    if damage in ("header", "first page"):
        assert all(content_of(local, inode) == data or data in kept for inode, data in expected.items())
    assert b"6" * LONG in kept or any(content_of(local, inode) == b"6" * LONG for inode in expected)
    _, n = create(local.journal, b"after")
    assert n > local.journal.pending_count


def test_a_crash_at_any_step_leaves_the_damaged_journal_or_the_new_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = fill(bench)
    state, _ = bench.places()
    path = state / "journal.db"
    overwrite(path, pages_of(path, "inodes")[1])
    for step in range(4):
        name = f"crash {step}"
        bench.crash(name)
        replaced = 0

        def replace(source: Any, target: Any, step: int = step, real: Any = salvage.os.replace) -> None:
            nonlocal replaced
            if replaced == step:
                raise KeyboardInterrupt
            replaced += 1
            real(source, target)

        with monkeypatch.context() as patched:
            patched.setattr(salvage.os, "replace", replace)
            with contextlib.suppress(KeyboardInterrupt):
                mend(bench, name)
        done = mend(bench, name)
        assert not done.left, (step, done)
        local = bench.open(name)
        assert all(content_of(local, inode) == data for inode, data in expected.items()), step
        bench.close(local, name)


def test_what_the_server_has_is_removed_when_it_is_damaged(bench: Bench) -> None:
    expected = fill(bench)
    _, cache = bench.places()
    (cache / "replica.db").write_bytes(b"noise" * 1000)
    done = mend(bench)
    assert len(done.found) >= 1
    assert not done.left
    local = bench.open()
    assert all(content_of(local, inode) == data for inode, data in expected.items())


def test_damaged_cached_blocks_are_dropped(bench: Bench) -> None:
    local = bench.open()
    data = [random.Random(seed).randbytes(300_000) for seed in range(3)]

    async def keep() -> None:
        await local.blocks.keep([(codec.block_id(each), each) for each in data])

    trio.run(keep)
    bench.close(local)
    _, cache = bench.places()
    damaged = cache / "blocks" / "own" / codec.block_id(data[0]).hex()
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    done = mend(bench)
    assert ["were not what they should be" in each.what for each in done.found] == [True]
    assert not done.left
    assert mend(bench) == Repaired([], [])
    local = bench.open()
    assert [local.blocks.contains(codec.block_id(each)) for each in data] == [False, True, True]


def test_modes_are_mended_and_foreign_files_moved_aside(bench: Bench) -> None:
    fill(bench)
    state, _ = bench.places()
    (state / "journal.db").chmod(0o644)
    (state / "staging" / "notes.txt").write_text("not ours")
    done = mend(bench)
    assert len(done.found) >= 2
    assert not done.left
    assert (state / "lost+found" / "foreign-notes.txt").read_text() == "not ours"
    shutil.rmtree(state / "lost+found")
