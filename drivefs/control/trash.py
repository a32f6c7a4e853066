"""What a mount answers to `drivefs trash`: what was removed and is kept, and bringing it back.

Owns the shape of the answers, how a path leads to something removed, and the wait for removals that the backend has not
heard of yet. Bringing back is made of ordinary changes: it reaches the other devices like any other.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Any

import trio

from cache.workspace import LocalState
from drivefs.control.errors import Refused
from drivefs.control.paths import inode_at, past_refusals, shown
from drivefs.control.server import Handler, Report
from drivefs.fs import errors
from drivefs.fs.filesystem import FileSystem
from drivefs.fs.view import Name
from drivefs.protocol.history import TrashEntry
from drivefs.protocol.ids import NO_INODE, InodeId, Seq
from drivefs.sync.connection import Connection
from drivefs.sync.contents import Invalidator

SENT_SECONDS = 5.0
ARRIVED_SECONDS = 25.0
"""So much longer is waited for something that is asked for by name, and is not in the trash."""
AGAIN_SECONDS = 0.5
LOOK_SECONDS = 0.02
PART_SECONDS = 60.0
"""So long a command may take to hear of one part of what is in the trash."""


class TrashCan:
    """The handlers of one mount; the kernel hears of what is changed behind its back."""

    def __init__(
        self, filesystem: FileSystem, kernel: Invalidator, *, local: LocalState, connection: Connection
    ) -> None:
        self._fs = filesystem
        self._kernel = kernel
        self._journal = local.journal
        self._connection = connection

    def table(self) -> dict[str, Handler]:
        """The commands."""
        return {"trash": self.show, "trash_restore": self.restore, "trash_empty": self.empty}

    async def show(self, arguments: dict[str, Any], report: Report) -> list[dict[str, Any]]:
        """Report what was removed from directories that are there, the latest first, in parts: of all there may be more
        than one answer holds.
        """
        await self._sent()
        with _refusing(b"the trash"):
            async with aclosing(self._fs.history.past.removed(NO_INODE)) as pages:
                async for page in pages:
                    await report([_fields(each) for each in page], PART_SECONDS)
        return []

    async def empty(self, arguments: dict[str, Any], report: Report) -> dict[str, Any]:
        """Let all that was removed up to the commit `until` go for good; `count` is how much that was."""
        count = 0
        with _refusing(b"the trash"):
            async with aclosing(self._fs.history.past.empty_trash(Seq(arguments["until"]))) as parts:
                async for part in parts:
                    count += part
                    await report({"count": count})
        return {"count": count}

    async def restore(self, arguments: dict[str, Any], report: Report) -> dict[str, Any]:
        """Bring back what was last removed at `path`, or what has the id `id`, with all that was in it.

        Its directories come back where they were removed too. `path` of the answer is where it is now.
        """
        await self._sent()
        path: bytes = arguments["path"]
        with _refusing(path):
            parent, entries = await self._found(path, arguments["id"])
            self._fs.borders.check_writable(parent)
            for directory in entries[:-1]:
                place = await self._free(parent, directory)
                self._fs.undeleting.bring_back_alone(directory.inode, place)
                self._tell_kernel(place)
                parent = directory.inode.inode
            place = await self._free(parent, entries[-1])

            async def progress(count: int) -> None:
                await report({"files": count})

            count = await self._fs.undeleting.bring_back(entries[-1], place, progress)
        self._tell_kernel(place)
        await self._journal.log_barrier()
        return {"path": self._fs.conflicts.path(place), "name": place[1], "files": count, "original": path}

    def _tell_kernel(self, place: Name) -> None:
        self._kernel.entry(*place)
        self._kernel.inode(place[0], content=False)

    async def _all(self, parent: InodeId, name: bytes = b"") -> AsyncGenerator[TrashEntry, None]:
        async with aclosing(self._fs.history.past.removed(parent, name)) as pages:
            async for page in pages:
                for entry in page:
                    yield entry

    async def _found(self, path: bytes, by_id: int) -> tuple[InodeId, list[TrashEntry]]:
        """What is to be brought back; waits on for what is not there yet, while the backend has not heard of all."""
        with trio.move_on_after(ARRIVED_SECONDS):
            while self._connection.reach.online and self._journal.pending_count:
                with suppress(errors.NotFound):
                    return await (self._by_id(by_id) if by_id else self._way(path))
                await trio.sleep(AGAIN_SECONDS)
        return await (self._by_id(by_id) if by_id else self._way(path))

    async def _by_id(self, inode: int) -> tuple[InodeId, list[TrashEntry]]:
        async with aclosing(self._all(NO_INODE)) as found:
            async for entry in found:
                if entry.inode.inode == inode:
                    return await inode_at(self._fs, entry.path or b""), [entry]
        raise errors.NotFound

    async def _way(self, path: bytes) -> tuple[InodeId, list[TrashEntry]]:
        """The last directory that is there on the way to something removed, and what was removed from there on."""
        names = list(filter(None, path.split(b"/")))
        if not names:
            raise errors.NotFound
        parent, removed = self._fs.root, list[TrashEntry]()
        for name in names[:-1]:
            state = None if removed else await self._fs.lookup(parent, name)
            if state is None:
                removed.append(await self._latest(parent, name))
                parent = removed[-1].inode.inode
            else:
                parent = state.inode
        removed.append(await self._latest(parent, names[-1]))
        return removed[0].place.parent, removed

    async def _latest(self, parent: InodeId, name: bytes) -> TrashEntry:
        async with aclosing(self._all(parent, name)) as found:
            async for entry in found:
                return entry
        raise errors.NotFound

    async def _free(self, parent: InodeId, entry: TrashEntry) -> Name:
        """The name that something gets again; its removal elsewhere is waited for where it is not known here yet."""
        place = (parent, entry.place.name)
        with trio.move_on_after(SENT_SECONDS):
            while True:
                try:
                    await self._fs.lookup(*place)
                except errors.NotFound:
                    break
                if self._fs.leads_to(*place) != entry.inode.inode:
                    break
                await trio.sleep(LOOK_SECONDS)
        return self._fs.undeleting.free_name(place)

    async def _sent(self) -> None:
        """Wait a moment for what was removed just now to be known to the backend."""
        with trio.move_on_after(SENT_SECONDS):
            while self._connection.reach.online:
                if not self._journal.pending_count:
                    return
                await trio.sleep(LOOK_SECONDS)


def _fields(entry: TrashEntry) -> dict[str, Any]:
    path = None if entry.path is None else b"/".join(filter(None, (entry.path, entry.place.name)))
    return {
        "id": entry.inode.inode,
        "path": path,
        "kind": entry.inode.kind.name.lower(),
        "size": entry.inode.size,
        "seq": entry.place.seq,
        "time_ns": entry.time_ns,
        "device": entry.device or None,
        "user": entry.user or None,
    }


@contextmanager
def _refusing(path: bytes) -> Iterator[None]:
    """Say what the errors of the file system mean here."""
    what = shown(path)
    with past_refusals("trash", f"{what} was not brought back"):
        try:
            yield
        except errors.NotFound as error:
            raise Refused(
                "not_found",
                f"{what} is not in the trash, or was removed too long ago. drivefs trash list shows what is",
            ) from error
