"""What a mount answers to `drivefs rewind`: taking a part of the drive back to what it was.

Owns the way from a path and a moment to what stood there, the refusals, and the wait for what was written before: what
is taken back is in the history first, so that taking it back can be taken back.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cache.workspace import LocalState
from drivefs.control import waiting
from drivefs.control.errors import Refused
from drivefs.control.paths import check_not_ignored, inode_at, past_refusals, shown
from drivefs.control.server import Handler, Report
from drivefs.fs import errors, virtual
from drivefs.fs.filesystem import FileSystem
from drivefs.fs.rewinding import Rewound
from drivefs.protocol.ids import MAX_ID, InodeId, Seq
from drivefs.protocol.model import InodeState
from drivefs.sync.contents import Invalidator
from drivefs.sync.engine import Engine

SENT_SECONDS = 60.0
REPORT_STEPS = 50


class TakingBack:
    """The handlers of one mount; the kernel hears of what is changed behind its back."""

    def __init__(self, filesystem: FileSystem, kernel: Invalidator, *, local: LocalState, engine: Engine) -> None:
        self._fs = filesystem
        self._kernel = kernel
        self._local = local
        self._engine = engine

    def table(self) -> dict[str, Handler]:
        """The commands."""
        return {"rewind": self.rewind}

    async def rewind(self, arguments: dict[str, Any], report: Report) -> dict[str, Any]:
        """Take what is at `path` back to the moment `to`, a time or a snapshot; `before_ns` leads back from there."""
        path: bytes = arguments["path"]
        if not await waiting.all_sent(self._engine, self._local, SENT_SECONDS):
            raise Refused(
                "unavailable",
                "there are changes that the server does not have yet, so they would not be in its history. Nothing was "
                "changed: try again when they are sent (drivefs sync --wait)",
            )

        async def progress(done: Rewound) -> None:
            if not done.total % REPORT_STEPS:
                await report({"done": done.total})

        with _refusing(path, arguments["to"]):
            seq = await self._fs.past_tree.seq_of(arguments["to"])
            before = await self._fs.history.past.at(MAX_ID)
            place, now = await self._place(path)
            if now is not None:
                check_not_ignored(self._fs, path, now.inode)
            self._fs.borders.check_writable(place[0] if now is None else now.inode)
            then = await self._then(path, seq, now)
            if now is not None and now.kind is not then.kind:
                raise Refused(
                    "kind", f"{shown(path)} was of another kind then: remove or rename it first. Nothing was changed"
                )
            done = await self._fs.rewinding.rewind(place, then, seq, self._kernel, progress)
        await self._local.journal.log_barrier()
        kinds = ("changed", "moved", "restored", "removed", "lost", "busy", "shares")
        counts = {name: getattr(done, name) for name in kinds}
        return {**counts, "before_ns": before.time_ns}

    async def _place(self, path: bytes) -> tuple[tuple[InodeId, bytes], InodeState | None]:
        """The name that is meant and what it leads to now; the drive itself has none."""
        names = [name for name in path.split(b"/") if name]
        if not names:
            return (self._fs.root, b""), self._fs.inode(self._fs.root)
        parent = await inode_at(self._fs, b"/".join(names[:-1]))
        if parent >= virtual.FIRST or (parent == self._fs.root and names[-1] == virtual.NAME):
            raise Refused("kind", f"{shown(path)} shows the past, which does not change")
        return (parent, names[-1]), await self._fs.lookup(parent, names[-1])

    async def _then(self, path: bytes, seq: Seq, now: InodeState | None) -> InodeState:
        """What it was: the same inode if that had a name then, else what had its path."""
        past = self._fs.history.past
        if now is not None:
            try:
                then = await past.inode(now.inode, seq)
                if then.nlink:
                    return then
            except errors.NotFound:
                pass
        then = await past.inode(self._fs.root, seq)
        for name in filter(None, path.split(b"/")):
            then = await past.entry(then.inode, name, seq)
        return then


@contextmanager
def _refusing(path: bytes, moment: str) -> Iterator[None]:
    """Say what the errors of the file system mean here."""
    with past_refusals("history", f"{shown(path)} was not taken back whole; to try once more does the rest"):
        try:
            yield
        except errors.AccessDenied as error:
            raise Refused(
                "forbidden", f"{shown(path)} was not taken back: it is shared with you to be read only"
            ) from error
        except errors.NotFound as error:
            raise Refused(
                "not_found",
                f"there was no {shown(path)} at {moment}, or there is no such moment. Snapshots are listed by drivefs "
                "snapshot list; the tree of a time is in .drivefs/at/TIME. Nothing was changed",
            ) from error
