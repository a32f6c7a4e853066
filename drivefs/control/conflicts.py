"""What a mount answers to `drivefs conflicts`: which there are, and settling one of them.

Owns the shape of the answers and the order of steps. Settling is made of ordinary changes, so it works offline and
reaches the other devices like any change; what another device changed in between is never overwritten, since each
change says on what it was made.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from drivefs.control.errors import Refused
from drivefs.control.paths import inode_at, shown
from drivefs.control.server import Handler, Report
from drivefs.fs import errors
from drivefs.fs.conflicts import ENTRIES, Conflict, mark_of
from drivefs.fs.filesystem import FileSystem
from drivefs.fs.view import Name
from drivefs.fs.virtual import NAME
from drivefs.protocol.model import InodeKind
from drivefs.sync.contents import Invalidator


class Settling:
    """The handlers of one mount; the kernel hears of what is changed behind its back."""

    def __init__(self, filesystem: FileSystem, kernel: Invalidator) -> None:
        self._fs = filesystem
        self._kernel = kernel
        self._ways: dict[str, Callable[[Conflict], Awaitable[None]]] = {
            "keep-mine": self._keep_mine,
            "keep-theirs": self._keep_theirs,
            "keep-both": self._keep_both,
        }

    def table(self) -> dict[str, Handler]:
        """The commands."""
        return {"conflicts": self.conflicts, "conflict": self.conflict, "settle": self.settle}

    async def conflicts(self, arguments: dict[str, Any], report: Report) -> list[dict[str, Any]]:
        """All that are known on this device, oldest first; paths are relative to the root, None where not known."""
        return [self._told(each) for each in self._fs.conflicts.all()]

    async def conflict(self, arguments: dict[str, Any], report: Report) -> dict[str, Any]:
        """The one that the file at `path` is about."""
        return self._told(await self._at(arguments["path"]))

    async def settle(self, arguments: dict[str, Any], report: Report) -> dict[str, Any]:
        """End the one at `path`; `how` is `keep-mine`, `keep-theirs` or `keep-both`."""
        conflict = await self._at(arguments["path"])
        try:
            await self._ways[arguments["how"]](conflict)
        except errors.FileSystemError as error:
            raise Refused(
                "failed", f"the conflict stays as it was: {type(error).__name__} ({error.errno}) {error}".rstrip()
            ) from error
        self._tell_kernel(conflict)
        return self._told(conflict)

    def _tell_kernel(self, conflict: Conflict) -> None:
        lost = (conflict.mark.parent, conflict.mark.name)
        for parent, name in {conflict.place, conflict.original or lost}:
            self._kernel.entry(parent, name)
            self._kernel.inode(parent, content=False)
        for inode in filter(None, (conflict.copy.inode, conflict.theirs)):
            self._kernel.inode(inode, content=False)

    def _told(self, conflict: Conflict) -> dict[str, Any]:
        mark = conflict.mark
        entry = b"/".join((NAME, ENTRIES, self._fs.conflict_entries.name_of(conflict)))
        return {
            "path": self._path(conflict.place),
            "name": conflict.place[1],
            "original": self._path(conflict.original),
            "original_name": mark.name,
            "entry": entry,
            "device": mark.device,
            "time_ns": mark.time_ns,
            "base_revision": mark.base_revision,
            "their_revision": mark.their_revision,
            "inode": conflict.copy.inode,
        }

    def _path(self, place: Name | None) -> bytes | None:
        return None if place is None else self._fs.conflicts.path(place)

    async def _at(self, path: bytes) -> Conflict:
        """The conflict of a path: its copy, or what was kept if there is one copy only."""
        inode = await inode_at(self._fs, path)
        found = self._fs.conflicts.about(inode)
        if not found:
            raise Refused(
                "not_found", f"{shown(path)} is in no conflict: it is no conflict copy, and there is none of it"
            )
        if len(found) > 1:
            names = "; ".join(each.place[1].decode(errors="replace") for each in found)
            raise Refused(
                "several", f"there are {len(found)} conflict copies of {shown(path)}: name the one to settle ({names})"
            )
        return found[0]

    async def _keep_mine(self, conflict: Conflict) -> None:
        """The copy takes the place of what kept the name, whose history goes on with it."""
        target, mark = conflict.original, conflict.mark
        if target is not None:
            theirs = self._fs.inode(conflict.theirs)
            if theirs.kind is InodeKind.DIRECTORY or conflict.copy.kind is InodeKind.DIRECTORY:
                raise Refused("directory", "one of the two is a directory: move what you want to keep by hand")
            if theirs.nlink > 1:
                raise Refused(
                    "links",
                    "the file that kept the name has several names (hard links), and the copy can take one only. "
                    "Write the copy's content into it (cp COPY ORIGINAL), then settle with keep-theirs",
                )
        elif (directory := self._fs.known(mark.parent)) is None or not directory.nlink:
            raise Refused(
                "gone", "the directory in which it was is gone: move the copy by hand, or settle with keep-both"
            )
        await self._fs.rename(conflict.place, target or (mark.parent, mark.name))
        if mark_of(self._fs.inode(conflict.copy.inode)) is not None:
            self._fs.settle(conflict.copy.inode)

    async def _keep_theirs(self, conflict: Conflict) -> None:
        """The copy is removed."""
        if conflict.original is None:
            raise Refused(
                "gone", "what kept the name is gone: the copy is all there is. Settle with keep-mine or keep-both"
            )
        if conflict.copy.kind is InodeKind.DIRECTORY:
            raise Refused("directory", "the copy is a directory: remove it by hand when nothing in it is needed")
        await self._fs.unlink(*conflict.place)
        if self._fs.inode(conflict.copy.inode).nlink:
            self._fs.settle(conflict.copy.inode)

    async def _keep_both(self, conflict: Conflict) -> None:
        """The copy stays, as an ordinary file."""
        self._fs.settle(conflict.copy.inode)


def sentence(count: int) -> str:
    """That there are conflicts, for people."""
    copies = "1 conflict copy waits" if count == 1 else f"{count:,} conflict copies wait"
    return f"{copies} to be settled: drivefs conflicts list"
