"""What a mount answers to `drivefs revisions` and `drivefs diff`.

Owns the shape of the answers, their refusals, and the wait for what was saved just now: the backend alone knows the
history, so a file's own changes are sent first. Bringing back is an ordinary change: it is in the journal when it is
answered, and what it replaces was a revision before.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import trio

from cache.journal import RowState
from cache.workspace import LocalState
from drivefs.control.errors import Refused
from drivefs.control.paths import past_refusals, sent_inode_at, shown
from drivefs.control.server import Handler, Report
from drivefs.fs import errors
from drivefs.fs.filesystem import FileSystem
from drivefs.protocol.history import RevisionInfo
from drivefs.protocol.ids import InodeId, RevisionNumber
from drivefs.protocol.model import BlockRef
from drivefs.sync.connection import Connection
from drivefs.sync.contents import Invalidator
from drivefs.sync.publications import Publications

SENT_SECONDS = 10.0
"""How long the list waits for what was saved just now; without it, it is that of the revisions which there are."""
PUBLISHED_SECONDS = 60.0
LOOK_SECONDS = 0.02


class Looking:
    """The handlers of one mount; the kernel hears of what is changed behind its back."""

    def __init__(
        self,
        filesystem: FileSystem,
        kernel: Invalidator,
        *,
        local: LocalState,
        publications: Publications,
        connection: Connection,
    ) -> None:
        self._fs = filesystem
        self._kernel = kernel
        self._journal = local.journal
        self._publications = publications
        self._connection = connection

    def table(self) -> dict[str, Handler]:
        """The commands."""
        return {
            "revisions": self.revisions,
            "revision_keep": self.keep,
            "revision_restore": self.restore,
            "revision_compare": self.compare,
        }

    async def revisions(self, arguments: dict[str, Any], report: Report) -> dict[str, Any]:
        """All revisions of the file at `path`, by number; `is_changed`: it has changes that are none yet."""
        path: bytes = arguments["path"]
        inode = await sent_inode_at(self._fs, path)
        await self._sent(inode, SENT_SECONDS)
        with _refusing(path):
            try:
                found = await self._fs.history.of(inode)
            except errors.NotFound:
                found = []  # it was made here, and has not arrived at the backend
        return {"revisions": [_fields(each) for each in found], "is_changed": self._is_pending(inode)}

    async def keep(self, arguments: dict[str, Any], report: Report) -> None:
        """Keep revision `number` of the file at `path` for good, or (`is_kept` false) no longer."""
        path: bytes = arguments["path"]
        inode = await sent_inode_at(self._fs, path)
        await self._sent(inode, SENT_SECONDS)
        with _refusing(path, arguments["number"]):
            await self._fs.history.keep(inode, RevisionNumber(arguments["number"]), is_kept=arguments["is_kept"])

    async def restore(self, arguments: dict[str, Any], report: Report) -> dict[str, Any]:
        """Give the file at `path` the content of revision `number` again.

        `revision` is the number that it has then, None if that is not known yet; `is_same`: it had that content.
        """
        path, number = arguments["path"], RevisionNumber(arguments["number"])
        inode = await sent_inode_at(self._fs, path)
        with _refusing(path, number):
            self._fs.borders.check_writable(inode)
            await self._published(inode, path)
            # A rename that is still to be sent decides which history the file goes on with.
            await self._sent(inode, SENT_SECONDS)
            blocks = await self._fs.history.blocks(inode, number)
            if blocks == await self._fs.history.blocks_now(inode):
                return {"revision": self._fs.inode(inode).revision, "is_same": True}
            await self._published(inode, path)
            # Nobody else runs from here on until the change is in the journal.
            self._fs.history.bring_back(inode, blocks)
        self._kernel.inode(inode, content=True)
        await self._journal.log_barrier()
        is_sent = await self._sent(inode, SENT_SECONDS)
        return {"revision": self._fs.inode(inode).revision if is_sent else None, "is_same": False}

    async def compare(self, arguments: dict[str, Any], report: Report) -> dict[str, Any]:
        """How the blocks of revision `old` and of `new` (None: the newest) of the file at `path` differ."""
        path, old, new = arguments["path"], arguments["old"], arguments["new"]
        inode = await sent_inode_at(self._fs, path)
        await self._sent(inode, SENT_SECONDS)
        with _refusing(path, old):
            before = await self._fs.history.blocks(inode, old)
        with _refusing(path, new):
            after = await (self._fs.history.blocks_now(inode) if new is None else self._fs.history.blocks(inode, new))
        return _difference(before, after)

    def _is_pending(self, inode: InodeId) -> bool:
        if self._fs.history.is_changed(inode):
            return True
        return any(row.state in (RowState.PENDING, RowState.SENT) for row in self._journal.touching(inode))

    async def _sent(self, inode: InodeId, seconds: float) -> bool:
        """Wait until the backend has all changes of a file; False: it does not have them yet."""
        self._publications.forced([inode] if self._fs.history.is_changed(inode) else [])
        with trio.move_on_after(seconds):
            while self._connection.reach.online:
                if not self._is_pending(inode):
                    return True
                await trio.sleep(LOOK_SECONDS)
        return not self._is_pending(inode)

    async def _published(self, inode: InodeId, path: bytes) -> None:
        """Wait until what is in a file is a revision: then it is in its history when something takes its place."""
        deadline = trio.current_time() + PUBLISHED_SECONDS
        while self._fs.history.is_changed(inode):
            if not self._connection.reach.online or trio.current_time() > deadline:
                raise Refused(
                    "unavailable",
                    f"{shown(path)} has changes that the server does not have yet, so they would not be in its "
                    "history. Nothing was changed: try again when they are sent (drivefs sync --wait)",
                )
            await self._sent(inode, deadline - trio.current_time())


def _fields(revision: RevisionInfo) -> dict[str, Any]:
    return {
        "number": revision.number,
        "size": revision.size,
        "time_ns": revision.time_ns,
        "mtime_ns": revision.mtime_ns,
        "device": revision.device or None,
        "user": revision.user or None,
        "kept": revision.is_kept,
    }


def _difference(before: Sequence[BlockRef], after: Sequence[BlockRef]) -> dict[str, Any]:
    """How many bytes and blocks two contents have, and have in common."""
    old, new = Counter(before), Counter(after)
    same = old & new
    return {
        "old_size": _size(old),
        "new_size": _size(new),
        "old_blocks": old.total(),
        "new_blocks": new.total(),
        "same_size": _size(same),
        "same_blocks": same.total(),
    }


def _size(blocks: Counter[BlockRef]) -> int:
    return sum(ref.size_bytes * count for ref, count in blocks.items())


@contextmanager
def _refusing(path: bytes, number: int | None = None) -> Iterator[None]:
    """Say what the errors of the file system mean here."""
    what = shown(path)
    with past_refusals("history", f"{what} stays as it was"):
        try:
            yield
        except errors.NotFound as error:
            missing = what if number is None else f"revision {number} of {what}"
            raise Refused(
                "not_found",
                f"there is no {missing}, or it is not kept any more. drivefs revisions lists those there are",
            ) from error
        except errors.IsDirectory as error:
            raise Refused(
                "directory",
                f"{what} is a directory, and only files have revisions. As it was at a time, it is in .drivefs/at/TIME "
                "at the root of the drive",
            ) from error
        except errors.Invalid as error:
            raise Refused("kind", f"{what} is no regular file, and only files have revisions") from error
