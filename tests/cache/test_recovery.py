"""What is there after a crash: of the process, of the power, of the disk; and after crashes while recovering."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import trio

from cache.check import check
from cache.errors import Corrupt, NewerState
from cache.findings import Severity
from cache.journal import RowState
from cache.overlay import MISSING
from cache.workspace import LocalState
from drivefs.protocol.ids import NO_OP, InodeId, Seq
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.protocol.wal import FRAME_HEADER_BYTES, HEADER_BYTES, checksum
from tests.cache.states import (
    ROOT,
    Bench,
    change_mode,
    content_of,
    create,
    damage,
    damage_row,
    draft_of,
    power_cut,
    unlink,
)
from tests.cache.writer import pattern
from tests.support.journals import mark_sent

BIG = pattern(100_000)
FRAME_BYTES = FRAME_HEADER_BYTES + 2048


def kill_after(bench: Bench, line_count: int) -> dict[bytes, int]:
    """Let a process write, kill it after so many calls have returned; gives what it had written of each file."""
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.cache.writer", *map(str, bench.places())], stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    promised: dict[bytes, int] = {}
    lines = [writer.stdout.readline() for _ in range(line_count)]
    writer.kill()
    for line in [*lines, *writer.stdout.read().splitlines(keepends=True)]:
        if line.endswith(b"\n"):
            name, length = line.split()
            promised[name] = int(length)
    writer.wait()
    writer.stdout.close()
    return promised


@pytest.mark.fault(1)
@pytest.mark.parametrize("line_count", [1, 2, 40, 301, 1500])
def test_a_killed_process_loses_nothing_whose_call_returned(bench: Bench, line_count: int) -> None:
    promised = kill_after(bench, line_count)
    assert len(promised) >= line_count // 3
    local = bench.open()
    # A write that had not returned may have left its bytes, no more.
    assert [finding for finding in local.report if finding.severity is not Severity.NOTE] == []
    for name, length in promised.items():
        inode = local.journal.overlay.dentry(ROOT, name)
        assert isinstance(inode, int)
        found = content_of(local, inode)
        assert len(found) >= length
        assert found == pattern(206_000)[: len(found)]
    assert bench.close(local) == []


def stage(local: LocalState, inode: InodeId, offset: int, data: bytes) -> int:
    with local.journal.transaction():
        staged = local.staging.append(inode, data)
        local.journal.drafts.add_record(inode, offset, data, staged)
        state = local.journal.overlay.inode(inode)
        assert state is not None
        size = max(state.size, offset + len(data))
        local.journal.overlay.put_inode(msgspec.structs.replace(state, size=size), NO_OP)
    return staged.file


class TestLog:
    """A torn tail is what was never promised; rot is told, and costs as little as can be."""

    @pytest.fixture
    def image(self, bench: Bench, local: LocalState) -> Path:
        for index in range(60):
            create(local.journal, b"%d" % index, content=b"content of %d" % index)
            bench.flush()
        return bench.crash()

    def names(self, local: LocalState) -> set[bytes]:
        return {name for name, _ in local.journal.overlay.children(ROOT)}

    def frames(self, image: Path) -> list[tuple[int, int]]:
        """Page and commit mark of each frame; zeros follow the last."""
        data = (image / "journal.db-wal").read_bytes()[HEADER_BYTES:]
        found = [
            (int.from_bytes(data[at : at + 4], "big"), int.from_bytes(data[at + 4 : at + 8], "big"))
            for at in range(0, len(data), FRAME_BYTES)
        ]
        return [frame for frame in found if frame[0]]

    def end(self, image: Path) -> int:
        return HEADER_BYTES + len(self.frames(image)) * FRAME_BYTES

    @pytest.mark.fault(10)
    def test_a_torn_tail_is_cut_in_silence(self, bench: Bench, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        power_cut(monkeypatch)
        os.truncate(image / "journal.db-wal", self.end(image) - 1000)
        os.truncate(image / "redo", 0)
        local = bench.open("crashed")
        assert local.report == []
        assert self.names(local) == {b"%d" % index for index in range(59)}
        assert bench.close(local, "crashed") == []

    @pytest.mark.fault(10)
    def test_a_garbled_last_commit_is_a_torn_tail(
        self, bench: Bench, image: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        power_cut(monkeypatch)
        damage(image / "journal.db-wal", self.end(image) - 500, b"garbage")
        os.truncate(image / "redo", 0)
        local = bench.open("crashed")
        assert local.report == []
        assert len(self.names(local)) == 59

    def test_rot_in_a_page_that_was_written_again_later_costs_nothing(self, bench: Bench, image: Path) -> None:
        frames = self.frames(image)
        page = frames[-1][0]
        index = next(index for index, (each, _) in enumerate(frames) if each == page)
        assert index < len(frames) - 20
        damage(image / "journal.db-wal", HEADER_BYTES + index * FRAME_BYTES + 900, b"rot")
        assert [finding.severity for finding in check(image, image.parent / "cache")] == [Severity.DAMAGE]
        local = bench.open("crashed")
        assert [finding.severity for finding in local.report] == [Severity.WARNING]
        assert len(self.names(local)) == 60
        assert len(local.journal.unsettled(100)) == 60
        assert bench.close(local, "crashed") == []
        aside = list((image / "lost+found").iterdir())
        assert [sorted(path.name for path in each.iterdir()) for each in aside] == [["journal.db", "journal.db-wal"]]

    def test_rot_in_the_header_costs_nothing(self, bench: Bench, image: Path) -> None:
        damage(image / "journal.db-wal", 12, b"rot")
        local = bench.open("crashed")
        assert [finding.severity for finding in local.report] == [Severity.WARNING]
        assert len(self.names(local)) == 60
        assert bench.close(local, "crashed") == []

    def test_a_first_page_that_rotted_and_is_whole_in_the_log_costs_nothing(self, bench: Bench, image: Path) -> None:
        """SQLite does not look at it then: neither is the size of pages that it names believed."""
        assert 1 in {page for page, _ in self.frames(image)}
        damage(image / "journal.db", 16, b"\x55\x33")
        local = bench.open("crashed")
        assert len(self.names(local)) == 60
        assert bench.close(local, "crashed") == []

    @pytest.mark.fault(11)
    def test_rot_that_breaks_the_database_costs_what_came_after_and_is_told(self, bench: Bench, image: Path) -> None:
        frames = self.frames(image)
        last_of_page = {page: index for index, (page, _) in enumerate(frames)}
        index = min(last_of_page.values())
        commits = sum(1 for _, commit in frames[:index] if commit)
        damage(image / "journal.db-wal", HEADER_BYTES + index * FRAME_BYTES + FRAME_HEADER_BYTES, bytes(2048))
        original = (image / "journal.db-wal").read_bytes()
        local = bench.open("crashed")
        assert [finding.severity for finding in local.report] == [Severity.DAMAGE]
        assert len(self.names(local)) <= commits
        (aside,) = (image / "lost+found").glob("journal-*")
        assert (aside / "journal.db-wal").read_bytes() == original
        assert bench.close(local, "crashed") == []

    @pytest.mark.fault(11)
    @pytest.mark.parametrize("offset", range(7, FRAME_BYTES * 20, 2999))
    def test_no_rot_in_the_log_is_ever_silent(self, bench: Bench, image: Path, offset: int) -> None:
        data = (image / "journal.db-wal").read_bytes()
        position = HEADER_BYTES + offset
        damage(image / "journal.db-wal", position, bytes([data[position] ^ 0x10]))
        local = bench.open("crashed")
        assert local.report
        lost = {b"%d" % index for index in range(60)} - self.names(local)
        assert not lost or any(finding.severity is Severity.DAMAGE for finding in local.report)
        assert bench.close(local, "crashed") == []

    def test_checksums_are_those_of_sqlite(self, image: Path) -> None:
        header = (image / "journal.db-wal").read_bytes()[:HEADER_BYTES]
        big_endian = bool(header[3] & 1)
        sums = (int.from_bytes(header[24:28], "big"), int.from_bytes(header[28:32], "big"))
        assert checksum(header[:24], (0, 0), big_endian=big_endian) == sums


class TestPowerCut:
    """Records may outlive their bytes: each file is as it was before the first write that is not there."""

    def test_writes_are_kept_up_to_the_first_that_is_not_there(
        self, bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, _ = create(local.journal, b"one", content=b"12345")
        two, _ = create(local.journal, b"two", content=b"12345")
        for inode in (one, two):
            file = stage(local, inode, 5, BIG)
            stage(local, inode, 5 + len(BIG), BIG)
            stage(local, inode, 5 + 2 * len(BIG), b"end")
        image = bench.crash()
        damage(image / "staging" / f"{file:016x}", len(BIG) + 70_000, bytes(100))
        power_cut(monkeypatch)
        again = bench.open("crashed")
        assert content_of(again, one) == b"12345" + BIG + BIG + b"end"
        assert content_of(again, two) == b"12345" + BIG
        state = again.journal.overlay.inode(two)
        assert state is not None
        assert state.size == 5 + len(BIG)
        (finding,) = again.report
        assert finding.severity is Severity.DAMAGE
        (kept,) = (image / "lost+found").iterdir()
        assert kept.read_bytes()[5 + 2 * len(BIG) :] == b"end"
        assert bench.close(again, "crashed") == []

    @pytest.mark.fault(2)
    def test_an_unsynced_last_write_is_undone(
        self, bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inode, _ = create(local.journal, b"one", content=b"12345")
        file = stage(local, inode, 5, BIG)
        image = bench.crash()
        os.truncate(image / "staging" / f"{file:016x}", 10)
        power_cut(monkeypatch)
        again = bench.open("crashed")
        assert content_of(again, inode) == b"12345"
        assert [finding.severity for finding in again.report] == [Severity.WARNING, Severity.NOTE]

    @pytest.mark.fault(4)
    def test_bytes_without_a_record_are_kept_in_lost_and_found(self, bench: Bench, local: LocalState) -> None:
        local.staging.append(InodeId(7), BIG)
        image = bench.crash()
        again = bench.open("crashed")
        (kept,) = (image / "lost+found").iterdir()
        assert kept.read_bytes() == BIG
        assert [finding.severity for finding in again.report] == [Severity.NOTE]
        assert bench.close(again, "crashed") == []

    def test_after_an_orderly_close_nothing_is_read_back(
        self, bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inode, _ = create(local.journal, b"one")
        local.journal.drafts.put_draft(draft_of(inode))
        stage(local, inode, 0, BIG)
        assert bench.close(local) == []
        power_cut(monkeypatch)
        assert bench.open().report == []

    def test_a_truncation_counts_when_the_size_is_found_again(
        self, bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inode, _ = create(local.journal, b"one", content=b"12345")
        local.journal.drafts.add_truncate(inode, 3)
        file = stage(local, inode, 3, BIG)
        image = bench.crash()
        os.truncate(image / "staging" / f"{file:016x}", 10)
        power_cut(monkeypatch)
        again = bench.open("crashed")
        assert content_of(again, inode) == b"123"
        assert bench.close(again, "crashed") == []


class TestRows:
    """A row that does not verify is put aside and told; what can be made again is."""

    @pytest.fixture
    def image(self, bench: Bench, local: LocalState) -> Path:
        inode, n = create(local.journal, b"kept", content=b"12345")
        create(local.journal, b"other", content=b"other")
        change_mode(local.journal, InodeId(77), 0o600)
        local.journal.drafts.put_base_blocks(inode, bytes(36))
        local.journal.set_meta("n", str(n).encode())
        self.inode, self.n = inode, n
        image = bench.crash()
        damage_row(image, "UPDATE meta SET value = value WHERE key = 'open'")  # and the log is emptied on closing
        return image

    def opened(self, bench: Bench, expected: Severity) -> LocalState:
        local = bench.open("crashed")
        assert expected in {finding.severity for finding in local.report}
        return local

    def finish(self, bench: Bench, local: LocalState) -> None:
        assert bench.close(local, "crashed") == []
        again = bench.open("crashed")
        assert again.report == []

    @pytest.mark.fault(11)
    def test_a_mutation_is_put_aside_and_its_content_rescued(self, bench: Bench, image: Path) -> None:
        damage_row(image, f"UPDATE mutations SET body = body || x'00' WHERE n = {self.n}")
        assert any(finding.severity is Severity.DAMAGE for finding in check(image, image.parent / "cache"))
        local = self.opened(bench, Severity.DAMAGE)
        assert local.journal.get(self.n) is None
        assert local.journal.overlay.dentry(ROOT, b"kept") is MISSING
        (kept,) = (image / "lost+found").iterdir()
        assert kept.read_bytes() == b"12345"
        assert len(local.journal.unsettled(10)) == 2
        self.finish(bench, local)

    @pytest.mark.parametrize("column", ["state = 2", "seq = 1", "status = 'ok'"])
    def test_what_became_of_a_mutation_is_guarded_too(self, bench: Bench, image: Path, column: str) -> None:
        damage_row(image, f"UPDATE mutations SET {column} WHERE n = {self.n}")
        self.finish(bench, self.opened(bench, Severity.DAMAGE))

    def test_an_inode_is_made_again_from_its_creation(self, bench: Bench, image: Path) -> None:
        damage_row(image, f"UPDATE inodes SET state = x'01' WHERE inode = {self.inode}")
        local = self.opened(bench, Severity.WARNING)
        state = local.journal.overlay.inode(self.inode)
        assert state is not None
        assert (state.mode, state.nlink, state.size) == (0o644, 1, 5)
        assert content_of(local, self.inode) == b"12345"
        self.finish(bench, local)

    def test_a_draft_over_a_revision_gets_its_inode_from_the_replica(
        self, bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known = InodeState(InodeId(77), InodeKind.FILE, 0o640, size=3)
        local.journal.overlay.put_inode(known, local.journal.next_op())
        local.journal.drafts.put_draft(draft_of(InodeId(77), base_size=3))
        local.journal.drafts.add_record(InodeId(77), 3, b"more")
        local.replica.put_inodes([known], Seq(1))
        image = bench.crash()
        damage_row(image, "UPDATE inodes SET state = x'01' WHERE inode = 77")
        again = self.opened(bench, Severity.WARNING)
        state = again.journal.overlay.inode(InodeId(77))
        assert state is not None
        assert (state.mode, state.size) == (0o640, 7)
        self.finish(bench, again)

    def test_an_inode_of_the_server_shows_as_the_replica_has_it(self, bench: Bench, image: Path) -> None:
        damage_row(image, "UPDATE inodes SET op = op + 1 WHERE inode = 77")
        local = self.opened(bench, Severity.WARNING)
        assert local.journal.overlay.inode(InodeId(77)) is None

    def test_an_entry_is_made_again_from_the_journal(self, bench: Bench, image: Path) -> None:
        damage_row(image, "UPDATE dentries SET name = x'ff' WHERE name = CAST('kept' AS BLOB)")
        local = self.opened(bench, Severity.WARNING)
        assert [name for name, _ in local.journal.overlay.children(ROOT)] == [b"kept", b"other"]
        assert local.journal.overlay.dentry(ROOT, b"kept") == self.inode
        self.finish(bench, local)

    def test_a_draft_whose_row_is_damaged_is_rescued(self, bench: Bench, image: Path) -> None:
        damage_row(image, f"UPDATE drafts SET state = x'90' WHERE inode = {self.inode}")
        local = self.opened(bench, Severity.DAMAGE)
        assert local.journal.drafts.draft(self.inode) is None
        (kept,) = (image / "lost+found").iterdir()
        assert kept.read_bytes() == b"12345"

    def test_a_damaged_base_is_unknown(self, bench: Bench, image: Path) -> None:
        damage_row(image, f"UPDATE bases SET blocks = x'00' WHERE inode = {self.inode}")
        local = self.opened(bench, Severity.NOTE)
        assert local.journal.drafts.base_blocks(self.inode) is None
        self.finish(bench, local)

    def test_a_damaged_record_undoes_that_write(self, bench: Bench, image: Path) -> None:
        damage_row(image, "UPDATE records SET file_offset = 9 WHERE data = CAST('12345' AS BLOB)")
        local = self.opened(bench, Severity.WARNING)
        assert content_of(local, self.inode) == b""
        self.finish(bench, local)

    def test_a_damaged_range_of_ids_is_not_used(self, bench: Bench, image: Path) -> None:
        damage_row(image, "UPDATE id_ranges SET next = next - 1000")
        local = self.opened(bench, Severity.NOTE)
        assert local.journal.allocate_inode() > 0
        self.finish(bench, local)

    def test_what_was_put_aside_can_still_be_read(self, bench: Bench, image: Path) -> None:
        damage_row(image, f"UPDATE mutations SET body = body || x'00' WHERE n = {self.n}")
        bench.close(self.opened(bench, Severity.DAMAGE), "crashed")
        connection = sqlite3.connect(image / "journal.db")
        ((origin, content),) = connection.execute("SELECT origin, content FROM quarantine").fetchall()
        connection.close()
        assert origin == "mutations"
        assert b"kept" in msgspec.msgpack.decode(content)[6]


@pytest.mark.fault(16)
def test_rot_that_is_met_while_mounted_is_dealt_with_at_the_next_start(bench: Bench, local: LocalState) -> None:
    inode, _ = create(local.journal, b"one", content=b"12345")
    file = stage(local, inode, 5, BIG)
    state, _ = bench.places()
    damage(state / "staging" / f"{file:016x}", 5, b"rot")
    staged = local.journal.drafts.records(inode)[1]
    assert staged.staged is not None
    with pytest.raises(Corrupt):
        local.staging.load(staged.staged, staged.digest)
    bench.close(local)
    again = bench.open()
    assert content_of(again, inode) == b"12345"
    assert [finding.severity for finding in again.report] == [Severity.WARNING, Severity.NOTE]
    assert bench.close(again) == []


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.fault(9)
def test_crashes_while_recovering_lead_to_the_same_end(
    bench: Bench, local: LocalState, monkeypatch: pytest.MonkeyPatch
) -> None:
    inode, n = create(local.journal, b"one", content=b"12345")
    other, _ = create(local.journal, b"two", content=b"12345")
    file = stage(local, other, 5, BIG)
    stage(local, other, 5 + len(BIG), BIG)
    local.staging.append(InodeId(9), BIG)
    image = bench.crash()
    damage_row(image, f"UPDATE mutations SET body = body || x'00' WHERE n = {n}")
    damage(image / "staging" / f"{file:016x}", 5, b"rot")
    power_cut(monkeypatch)
    step_count = crash_at_every_step(bench, monkeypatch)
    assert step_count > 20
    again = bench.open("crashed")
    assert again.journal.overlay.names_of(inode) == []
    assert content_of(again, other) == b"12345"
    kept = {path.name: path.read_bytes() for path in (image / "lost+found").iterdir()}
    assert sorted(name.split("-")[0] for name in kept) == ["inode", "inode", "staging", "staging"]
    assert BIG in kept.values()
    assert b"12345" in kept.values()
    assert bench.close(again, "crashed") == []


def crash_at_every_step(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> int:
    """Start again and again, each time killed one step later, until a start comes through; gives the steps."""
    steps = [os.fsync, os.fdatasync, os.replace, os.unlink, os.pwrite, os.open]
    for limit in range(1, 500):
        left = [limit]

        def step(real: Callable[..., object], left: list[int]) -> Callable[..., object]:
            def killing(*args: object, **named: object) -> object:
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                return real(*args, **named)

            return killing

        with monkeypatch.context() as patch:
            for real in steps:
                patch.setattr(os, real.__name__, step(real, left))
            try:
                local = bench.open("crashed")
            except Killed:
                continue
        bench.close(local, "crashed")
        return limit
    raise AssertionError("recovery never came through")


@pytest.mark.fault(24)
def test_a_newer_state_is_refused_and_left_as_it_is(bench: Bench, local: LocalState) -> None:
    create(local.journal, b"a")
    bench.close(local)
    state, _ = bench.places()
    damage_row(state, "INSERT INTO meta VALUES ('x', x'00')")
    connection = sqlite3.connect(state / "journal.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = {path.name: path.read_bytes() for path in state.glob("journal*")}
    with pytest.raises(NewerState, match="newer drivefs"):
        bench.open()
    assert {path.name: path.read_bytes() for path in state.glob("journal*")} == before


def test_the_log_of_a_newer_state_is_not_mended(bench: Bench, local: LocalState) -> None:
    create(local.journal, b"a")
    image = bench.crash()
    damage(image / "journal.db", 60, (99).to_bytes(4, "big"))
    damage(image / "journal.db-wal", HEADER_BYTES + 100, b"rot")
    before = {path: path.read_bytes() for path in image.rglob("*") if path.is_file()}
    with pytest.raises(NewerState, match="newer drivefs"):
        bench.open("crashed")
    assert {path: path.read_bytes() for path in image.rglob("*") if path.is_file()} == before


@pytest.mark.fault(7)
def test_answers_survive_a_crash(bench: Bench, local: LocalState) -> None:
    inode, n = create(local.journal, b"a")
    m = unlink(local.journal, b"a", inode)
    mark_sent(local.journal, [n, m])
    local.journal.settle(n, Seq(4))
    bench.crash()
    journal = bench.open("crashed").journal
    assert [(row.n, row.state) for row in journal.unsettled(10)] == [(m, RowState.SENT)]
    assert journal.get(n) is not None
    trio.run(journal.barrier)
