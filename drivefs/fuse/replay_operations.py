"""The pyfuse3 operations of a mount beside which a player runs: its requests go to the stage, all others on.

Owns the one decision which process is which. Invariant: no request of the player ever reaches the file system.
"""

import errno
from collections.abc import Callable
from typing import Any, NoReturn

import pyfuse3
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FileNameT, FlagT, InodeT, ModeT, RequestContext

from drivefs.fs.filesystem import FileSystem
from drivefs.fuse.attributes import Translation
from drivefs.fuse.errors import translated
from drivefs.fuse.operations import Operations
from drivefs.fuse.replay_stage import HANDLE, Stage

CALLS = (
    *("lookup", "create", "mkdir", "mknod", "symlink", "link", "unlink", "rmdir", "rename", "readlink"),
    *("getattr", "setattr", "getxattr", "listxattr", "setxattr", "removexattr", "open", "opendir", "statfs"),
)
"""All that come with the process that asks, as their last argument."""


class StagedOperations(Operations):
    """One mount, with a stage."""

    def __init__(self, filesystem: FileSystem, translation: Translation, stage: Stage) -> None:
        super().__init__(filesystem, translation)
        staged = _Staged(stage, translation)
        for call in CALLS:
            setattr(self, call, _by_process(stage, getattr(self, call), getattr(staged, call, _refuse)))

    @translated
    async def release(self, fh: FileHandleT) -> None:
        """Close a file."""
        if fh != HANDLE:
            self._fs.release(fh)


def _by_process(stage: Stage, real: Callable[..., Any], staged: Callable[..., Any]) -> Callable[..., Any]:
    """A call that is answered by one or the other; it gives what is awaited, without a coroutine of its own."""

    def call(*args: Any) -> Any:
        return (staged if args[-1].pid == stage.player else real)(*args)

    return call


async def _refuse(*args: Any) -> NoReturn:
    raise pyfuse3.FUSEError(errno.EPERM)


class _Staged:
    """What the player may call, translated for the stage."""

    def __init__(self, stage: Stage, translation: Translation) -> None:
        self._stage = stage
        self._inode = translation.inode

    @translated
    async def lookup(self, parent: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        return self._stage.lookup(self._inode(parent), name)

    @translated
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._stage.attributes(self._inode(inode))

    @translated
    async def create(
        self, parent: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        made = self._stage.make("create", self._inode(parent), name)
        return FileInfo(fh=HANDLE, keep_cache=True), made

    @translated
    async def mkdir(self, parent: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext) -> EntryAttributes:
        return self._stage.make("create", self._inode(parent), name)

    @translated
    async def mknod(
        self, parent: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        return self._stage.make("create", self._inode(parent), name)

    @translated
    async def symlink(self, parent: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext) -> EntryAttributes:
        return self._stage.make("create", self._inode(parent), name)

    @translated
    async def unlink(self, parent: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        self._stage.remove("remove", (self._inode(parent), name))

    @translated
    async def rmdir(self, parent: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        self._stage.remove("remove", (self._inode(parent), name))

    @translated
    async def rename(self, *asked: Any) -> None:
        parent, name, new_parent, new_name, _, _ = asked
        self._stage.remove("rename", (self._inode(parent), name), (self._inode(new_parent), new_name))

    @translated
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        if fields.update_size or fields.update_mode or fields.update_uid or fields.update_gid:
            raise pyfuse3.FUSEError(errno.EPERM)
        return self._stage.touch(self._inode(inode))

    @translated
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        return FileInfo(fh=self._stage.open(self._inode(inode)), keep_cache=True)
