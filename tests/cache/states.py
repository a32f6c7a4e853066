"""Local states for tests: opened, closed, and copied as a crash would leave them.

A crash image is a copy of the files while they are open: what a killed process leaves. Every state that a test closes
in order is checked, invariant by invariant.
"""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio

from cache import workspace
from cache.check import check
from cache.drafts import DraftRow
from cache.findings import Finding
from cache.journal import Journal
from cache.workspace import LocalState
from drivefs.protocol.changes import Base, Create, SetAttributes, Unlink
from drivefs.protocol.ids import NO_INODE, InodeId, OpNumber
from drivefs.protocol.model import InodeKind, InodeState

ROOT = InodeId(1)
FIRST_ID = InodeId(2**20)
CACHE_BYTES = 2**30
T0 = 1_700_000_000_000_000_000


async def inline(work: Callable[..., Any], /, *args: Any) -> Any:
    """An `offload` that stays on the loop, with a moment in which others run."""
    await trio.lowlevel.checkpoint()
    return work(*args)


class Bench:
    """States below one directory, each by name."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._opened: list[LocalState] = []

    def places(self, name: str = "one") -> tuple[Path, Path]:
        return self._directory / name / "state", self._directory / name / "cache"

    def open(self, name: str = "one", offload: Any = inline) -> LocalState:
        state, cache = self.places(name)
        local = LocalState(state, cache, offload=offload, cache_limit_bytes=CACHE_BYTES)
        if not local.journal.ids_left():
            local.journal.add_id_range(FIRST_ID)
        self._opened.append(local)
        return local

    def close(self, local: LocalState, name: str = "one") -> list[Finding]:
        """Close in order; gives what the check then finds."""
        self._opened.remove(local)
        local.close()
        return check(*self.places(name))

    def flush(self) -> None:
        """Bring what all open states have accepted into their logs."""
        for local in self._opened:
            local.journal._database.flush()

    def crash(self, name: str = "crashed", source: str = "one", *, flushed: bool = True) -> Path:
        """Copy a state as it is on disk now, or with all that was accepted in the log; gives its state directory."""
        if flushed:
            self.flush()
        for origin, target in zip(self.places(source), self.places(name), strict=True):
            shutil.copytree(origin, target, ignore=shutil.ignore_patterns("*-shm", "reserve"))
        return self.places(name)[0]

    def close_all(self) -> None:
        for local in self._opened:
            local.close()


def create(journal: Journal, name: bytes, *, parent: InodeId = ROOT, content: bytes = b"") -> tuple[InodeId, OpNumber]:
    """Make a file as the file system does: mutation, overlay and content in one transaction."""
    with journal.transaction():
        inode, n = journal.allocate_inode(), journal.next_op()
        journal.append(
            Create(n=n, time_ns=T0 + n, inode=inode, parent=parent, name=name, kind=InodeKind.FILE, mode=0o644)
        )
        journal.overlay.put_inode(InodeState(inode, InodeKind.FILE, 0o644, mtime_ns=T0 + n, size=len(content)), n)
        journal.overlay.put_dentry(parent, name, inode, n)
        if content:
            journal.drafts.put_draft(draft_of(inode))
            journal.drafts.add_record(inode, 0, content)
    return inode, n


def draft_of(inode: InodeId, base_size: int = 0) -> DraftRow:
    return DraftRow(inode, Base(), base_size, base_size, base_size, T0)


def unlink(journal: Journal, name: bytes, inode: InodeId, *, parent: InodeId = ROOT) -> OpNumber:
    with journal.transaction():
        n = journal.next_op()
        journal.append(Unlink(n=n, time_ns=T0 + n, parent=parent, name=name, inode=inode))
        journal.overlay.put_dentry(parent, name, NO_INODE, n)
    return n


def change_mode(journal: Journal, inode: InodeId, mode: int) -> OpNumber:
    with journal.transaction():
        n = journal.next_op()
        journal.append(SetAttributes(n=n, time_ns=T0 + n, inode=inode, mode=mode))
        journal.overlay.put_inode(InodeState(inode, InodeKind.FILE, mode), n)
    return n


def content_of(local: LocalState, inode: InodeId) -> bytes:
    """What the records make of an empty base."""
    found = bytearray()
    for record in local.journal.drafts.records(inode):
        end = record.file_offset + record.length
        found.extend(bytes(max(0, end - len(found))))
        if record.is_truncation:
            del found[record.file_offset :]
        elif record.staged is not None:
            found[record.file_offset : end] = local.staging.load(record.staged, record.digest)
        else:
            found[record.file_offset : end] = local.journal.drafts.record_data(record)
    return bytes(found)


def damage(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def damage_row(state: Path, sql: str) -> None:
    """Change a row behind everyone's back."""
    with closing(sqlite3.connect(state / "journal.db")) as connection, connection:
        assert connection.execute(sql).rowcount == 1
        connection.execute("DELETE FROM meta WHERE key = 'log'")  # it goes when this connection is closed


def power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next start is in another boot."""
    monkeypatch.setattr(workspace, "boot_id", lambda: b"another")
