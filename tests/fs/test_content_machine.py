"""Any order of writes, truncations, publications, crashes and reopenings shows the bytes that were written."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cache.check import check
from drivefs.fs import compaction, contents
from drivefs.fs.attributes import Wanted
from drivefs.fs.snapshots import Snapshot
from drivefs.protocol.ids import InodeId, OpNumber
from tests.fs.bench import FsBench
from tests.support.examples import examples

LONGEST = 100
INLINE_BYTES = 24


class ContentMachine(RuleBasedStateMachine):
    """One file, against a bytearray; what a snapshot showed when it was taken must stay what it shows."""

    @initialize()
    def begin(self) -> None:
        self.patched = pytest.MonkeyPatch()
        self.patched.setattr(contents, "MAX_INLINE_BYTES", INLINE_BYTES)
        self.patched.setattr(contents, "MAX_SYNCED_INLINE_BYTES", 4 * INLINE_BYTES)
        self.patched.setattr(compaction, "LEAST_WRITTEN_BYTES", 100)
        self.patched.setattr(compaction, "LOG_BYTES", 3 * INLINE_BYTES)
        self.patched.setattr(compaction, "WASTE", 2)
        self.patched.setattr(compaction, "PIECE_BYTES", 7)
        self.place = Path(tempfile.mkdtemp())
        self.bench = FsBench(self.place)
        self.expected = bytearray()
        self.snapshot: Snapshot | None = None
        self.frozen = b""
        self.op: OpNumber | None = None
        self.inode: InodeId = self.bench.file(b"file")
        self.number: int | None = None
        self.written = 0

    def teardown(self) -> None:
        if hasattr(self, "bench"):
            self.bench.close()
            assert check(self.place / "state", self.place / "cache") == []
            self.patched.undo()
            shutil.rmtree(self.place)

    @rule()
    def open_or_close(self) -> None:
        if self.number is None:
            self.number = self.bench.open_file(self.inode)
        else:
            self.bench.fs.release(self.number)
            self.number = None

    @rule(offset=st.integers(0, LONGEST), length=st.integers(1, 40))
    def write(self, offset: int, length: int) -> None:
        data = bytes((self.written + index) % 251 + 1 for index in range(length))
        self.written += length
        number = self.number or self.bench.open_file(self.inode, os.O_WRONLY)
        self.bench.fs.write(number, offset, data)
        if self.number is None:
            self.bench.fs.release(number)
        self.expected.extend(bytes(max(0, offset - len(self.expected))))
        self.expected[offset : offset + length] = data

    @precondition(lambda self: self.number is not None)
    @rule()
    def sync(self) -> None:
        self.bench.run(self.bench.fs.sync, self.number)

    @rule(size=st.integers(0, LONGEST))
    def truncate(self, size: int) -> None:
        number = self.bench.open_file(self.inode, os.O_WRONLY)
        self.bench.fs.set_attributes(self.inode, Wanted(size=size))
        self.bench.fs.release(number)
        del self.expected[size:]
        self.expected.extend(bytes(size - len(self.expected)))

    @precondition(lambda self: self.op is None)
    @rule()
    def freeze(self) -> None:
        self.snapshot = self.bench.freeze(self.inode)
        self.frozen = bytes(self.expected)

    @precondition(lambda self: self.snapshot is not None and self.op is None)
    @rule(block_bytes=st.integers(1, 50))
    def store(self, block_bytes: int) -> None:
        assert self.snapshot is not None
        self.op = self.bench.store(self.snapshot, block_bytes=block_bytes)
        assert self.op is not None

    @precondition(lambda self: self.op is not None)
    @rule()
    def commit(self) -> None:
        assert self.op is not None
        self.bench.commit(self.op)
        self.op = self.snapshot = None
        assert b"".join(self.bench.backend.blocks[ref] for ref in self.revision_blocks()) == self.frozen

    def revision_blocks(self) -> list[bytes]:
        state = self.bench.fs.inode(self.inode)
        packed = state.blocks
        if packed is None:
            packed = self.bench.backend.contents[self.inode, state.revision]
        return [packed[start : start + 32] for start in range(0, len(packed), 36)]

    @rule()
    def crash(self) -> None:
        self.bench.reopen()
        self.number = None
        if self.op is None:
            self.snapshot = None
        else:
            found = self.bench.fs.contents.frozen(self.inode)
            assert found is not None
            self.snapshot = found[0]

    @rule()
    def forget_what_is_idle(self) -> None:
        self.bench.fs._contents._idle.clear()
        self.bench.fs._view._inodes.clear()

    @invariant()
    def content_is_what_was_written(self) -> None:
        if hasattr(self, "bench"):
            assert self.bench.fs.inode(self.inode).size == len(self.expected)
            assert self.bench.read(self.inode) == bytes(self.expected)

    @invariant()
    def snapshot_stays_what_it_was(self) -> None:
        if getattr(self, "snapshot", None) is not None:
            assert self.snapshot is not None
            assert self.bench.content_of(self.snapshot) == self.frozen
            dirty = self.snapshot.dirty_ranges()
            base = b"".join(self.bench.backend.blocks[ref.block] for ref in self.snapshot.base_blocks)
            clean = set(range(self.snapshot.size)) - {at for start, end in dirty for at in range(start, end)}
            assert all(base[at] == self.frozen[at] for at in clean)

    @invariant()
    def pending_bytes_are_those_not_published(self) -> None:
        if hasattr(self, "bench"):
            content = self.bench.fs._contents.load(self.inode)
            assert self.bench.fs.quota.pending_bytes >= content.dirty_bytes


ContentMachine.TestCase.settings = settings(max_examples=examples(40), stateful_step_count=30, deadline=None)
TestContentMachine = ContentMachine.TestCase
