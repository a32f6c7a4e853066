"""What a mount answers to the commands: the table of handlers.

Owns the shape of the answers; what they say is asked of the parts. Invariant: no answer waits for the network, but that
of `sync`, which reports while it waits.
"""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import trio

from cache.journal import RowState
from cache.workspace import LocalState
from drivefs.control import held, uploads
from drivefs.control.errors import Refused
from drivefs.control.server import Handler, Report
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind, InodeState, unpack_blocks
from drivefs.sync.engine import Engine
from drivefs.sync.export import LOST_AND_FOUND, Exporter
from drivefs.sync.guard import Guard
from drivefs.sync.presence import Presence
from drivefs.sync.status import Reporter

REPORT_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Drive:
    """What the handlers ask.

    `identity` is what `status` says first: profile, mountpoint, user and so on. `is_on_its_way` says whether the
    content of a changed file is due or being sent, rather than still being written. `notices` gives sentences about
    what people should know of the drive, now.
    """

    identity: dict[str, Any]
    local: LocalState
    engine: Engine
    reporter: Reporter
    is_on_its_way: Callable[[InodeId], bool]
    presence: Presence
    root: InodeId
    guard: Guard
    conflict_count: Callable[[], int]
    notices: Callable[[], list[str]]


class Handlers:
    """The handlers of one mount; what outlives an answer runs in `nursery`."""

    def __init__(self, drive: Drive, nursery: trio.Nursery) -> None:
        self._drive = drive
        self._nursery = nursery

    def table(self) -> dict[str, Handler]:
        """All commands that a mount answers."""
        return {
            "status": self.status,
            "sync": self.sync,
            "file_status": self.file_status,
            "cache_show": self.cache_show,
            "cache_clear": self.cache_clear,
            "export": self.export,
        }

    async def status(self, arguments: dict[str, Any], report: Report) -> dict[str, Any]:
        """Everything at once."""
        status = self._drive.reporter.status()
        is_known = status.quota_bytes is not None
        outgoing = self._drive.presence.outgoing.all() if status.online else []
        return {
            **self._drive.identity,
            "online": status.online,
            "since_ns": status.since_ns,
            "reason": status.reason,
            "revoked": status.is_revoked,
            "pending": {"mutations": status.pending_mutations, "bytes": status.pending_bytes},
            "transfers": {
                "upload": {"bytes": status.upload.bytes, "bytes_per_second": status.upload.bytes_per_second},
                "download": {"bytes": status.download.bytes, "bytes_per_second": status.download.bytes_per_second},
            },
            "cache": self._cache(),
            "quota": {"used_bytes": status.used_bytes, "limit_bytes": status.quota_bytes} if is_known else None,
            "ignored": {"files": status.ignored_files, "bytes": status.ignored_bytes},
            "unlisted_directories": status.unlisted_directories,
            "incoming": [uploads.as_fields(each) for each in self._drive.presence.incoming.all()],
            "outgoing": [uploads.as_fields(each) for each in outgoing],
            "conflicts": self._drive.conflict_count(),
            "held": self._held(),
            "attention": self._drive.notices(),
        }

    async def sync(self, arguments: dict[str, Any], report: Report) -> dict[str, Any]:
        """Send everything, also of open files; with `wait`, return when the backend has what was there at the call."""
        engine, settled, waiting = self._drive.engine, trio.Event(), trio.CancelScope()
        inodes, refused_before = list(self._drive.local.journal.drafts.draft_inodes()), engine.refused_count

        async def settle() -> None:
            with waiting:
                await engine.settle(inodes)
                settled.set()

        if arguments["wait"]:
            self._nursery.start_soon(settle)
            try:
                await self._report_until(settled, report)
            finally:
                waiting.cancel()
        else:
            engine.send_now(inodes)
        return {**self._left(), "refused": engine.refused_count - refused_before}

    async def _report_until(self, settled: trio.Event, report: Report) -> None:
        while not settled.is_set():
            with trio.move_on_after(REPORT_SECONDS):
                await settled.wait()
            await report(self._left())

    def _left(self) -> dict[str, Any]:
        status = self._drive.reporter.status()
        return {
            "mutations": status.pending_mutations,
            "bytes": status.pending_bytes,
            "online": status.online,
            "reason": status.reason,
            "revoked": status.is_revoked,
            "held": self._held(),
            "ignored": status.ignored_files,
        }

    def _held(self) -> dict[str, Any] | None:
        question = self._drive.guard.question
        return None if question is None else held.as_fields(question)

    async def export(self, arguments: dict[str, Any], report: Report) -> dict[str, Any]:
        """Copy what exists nowhere else into `directory`, which is there and empty."""

        async def progress(file_count: int, size_bytes: int) -> None:
            await report({"files": file_count, "bytes": size_bytes})

        target, rescued = (
            Path(os.fsdecode(arguments["directory"])),
            Path(self._drive.identity["state"]) / LOST_AND_FOUND,
        )
        try:
            done = await Exporter(self._drive.local, self._drive.root, target, rescued).run(progress)
        except OSError as error:
            raise Refused("failed", f"{target} cannot be written: {error.strerror}") from error
        return asdict(done)

    async def file_status(self, arguments: dict[str, Any], report: Report) -> dict[str, Any]:
        """How far one inode is, by its id `inode`; or what is on its way to a `name` in `parent` that is not here."""
        local, inode = self._drive.local, InodeId(arguments["inode"])
        if not inode:
            return self._only_incoming(InodeId(arguments["parent"]), arguments["name"])
        incoming = self._drive.presence.incoming.of(inode)
        state = local.journal.overlay.inode(inode) or local.replica.inode(inode)
        if state is None:
            raise Refused("not_found", "nothing is known of this file on this device")
        rows = [row for row in local.journal.touching(inode) if row.state is not RowState.ACKED]
        refused = next((row for row in rows if row.state is RowState.FAILED), None)
        draft = local.journal.drafts.draft(inode)
        unsent = sum(record.length for record in local.journal.drafts.records(inode)) if draft else 0
        waits = "open" if draft and not rows and not self._drive.is_on_its_way(inode) else "pending"
        waits = "ignored" if local.journal.ignored.has(inode) else waits
        return {
            "inode": inode,
            "kind": InodeKind(state.kind).name.lower(),
            "size": state.size,
            "revision": state.revision,
            "state": "failed" if refused else waits if rows or draft else "synced",
            "reason": refused.reason if refused else "",
            "mutations": len(rows) + (draft is not None),
            "bytes": unsent,
            "cached_bytes": min(state.size, self._cached_bytes(state) + unsent),
            "incoming": None if incoming is None else uploads.as_fields(incoming),
        }

    def _only_incoming(self, parent: InodeId, name: bytes) -> dict[str, Any]:
        found = self._drive.presence.incoming.of(parent=parent, name=name)
        if found is None:
            raise Refused("not_found", "nothing is known of this file on this device")
        return {
            "inode": None,
            "kind": "file",
            "size": found.size,
            "revision": 0,
            "state": "incoming",
            "reason": "",
            "mutations": 0,
            "bytes": 0,
            "cached_bytes": 0,
            "incoming": uploads.as_fields(found),
        }

    def _cached_bytes(self, state: InodeState) -> int:
        packed = state.blocks
        if packed is None:
            packed = self._drive.local.replica.content(state.inode, state.revision) or b""
        blocks = self._drive.local.blocks
        return sum(ref.size_bytes for ref in unpack_blocks(packed) if blocks.contains(ref.block))

    async def cache_show(self, arguments: dict[str, Any], report: Report) -> dict[str, Any]:
        """How much is in the block cache."""
        return self._cache()

    async def cache_clear(self, arguments: dict[str, Any], report: Report) -> dict[str, Any]:
        """Delete all fetched blocks that nobody reads now."""
        await self._drive.local.blocks.clear()
        return self._cache()

    def _cache(self) -> dict[str, Any]:
        blocks = self._drive.local.blocks
        return {
            "path": self._drive.identity["cache"],
            "used_bytes": blocks.used_bytes,
            "limit_bytes": blocks.limit_bytes,
        }
