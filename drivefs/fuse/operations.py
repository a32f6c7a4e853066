"""The pyfuse3 operations: each translates a request, makes one call, and translates the answer.

Owns nothing but the translation. Handlers run as tasks of pyfuse3's nursery; none of them may raise anything but
`FUSEError` (`errors.translated`, `errors.looked_up`). FLUSH is not wired: the kernel sends it once, hears ENOSYS, and
closes files without it from then on; it has written mapped pages back before that.
"""

import errno
import stat
from collections.abc import Sequence
from typing import cast

import pyfuse3
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
    XAttrNameT,
)

from drivefs.fs import virtual
from drivefs.fs.attributes import Wanted
from drivefs.fs.filesystem import FileSystem
from drivefs.fs.namespace import NewInode
from drivefs.fuse.attributes import BLOCK_BYTES, Translation
from drivefs.fuse.errors import looked_up, translated
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.protocol.names import MAX_NAME_BYTES

KNOWN_RENAME_FLAGS = pyfuse3.RENAME_NOREPLACE | pyfuse3.RENAME_EXCHANGE
INODES = 2**40
"""How many inodes `statfs` says there can be: there is no such limit."""


class Operations(pyfuse3.Operations):
    """One mount."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, filesystem: FileSystem, translation: Translation) -> None:
        super().__init__()
        self._fs = filesystem
        self._acting = filesystem.acting
        self._translation = translation
        self._inode = translation.inode
        self._attributes = translation.attributes

    # -- names -------------------------------------------------------------------------------------------------------

    @translated
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        """What a name leads to."""
        state = await self._fs.lookup(self._inode(parent_inode), name)
        return self._translation.absent if state is None else self._attributes(state)

    @translated
    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        """Make and open a file."""
        self._acting(ctx.pid)
        new = NewInode(parent=self._inode(parent_inode), name=name, kind=InodeKind.FILE, mode=stat.S_IMODE(mode))
        state, number = await self._fs.create_file(new, flags, ctx)
        return FileInfo(fh=number, keep_cache=True), self._attributes(state)

    @translated
    async def mkdir(self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext) -> EntryAttributes:
        """Make a directory."""
        self._acting(ctx.pid)
        new = NewInode(parent=self._inode(parent_inode), name=name, kind=InodeKind.DIRECTORY, mode=stat.S_IMODE(mode))
        return self._attributes(await self._fs.create(new, ctx))

    @translated
    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        """Make a file or a special one."""
        self._acting(ctx.pid)
        kind = InodeKind(stat.S_IFMT(mode) or stat.S_IFREG)
        new = NewInode(parent=self._inode(parent_inode), name=name, kind=kind, mode=stat.S_IMODE(mode), rdev=rdev)
        return self._attributes(await self._fs.create(new, ctx))

    @translated
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """Make a symbolic link."""
        self._acting(ctx.pid)
        parent = self._inode(parent_inode)
        new = NewInode(parent=parent, name=name, kind=InodeKind.SYMLINK, mode=0o777, target=target)
        return self._attributes(await self._fs.create(new, ctx))

    @translated
    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """Give an inode one more name."""
        self._acting(ctx.pid)
        return self._attributes(await self._fs.link(self._inode(inode), self._inode(new_parent_inode), new_name))

    @translated
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        """Remove a name."""
        self._acting(ctx.pid)
        await self._fs.unlink(self._inode(parent_inode), name)

    @translated
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        """Remove a directory."""
        self._acting(ctx.pid)
        parent = self._inode(parent_inode)
        there = self._fs.shown(parent, name)
        await self._fs.rmdir(parent, name)
        self._told_gone(there)

    @translated
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        """Move a name, or swap two; RENAME_WHITEOUT is refused."""
        self._acting(ctx.pid)
        source, target = (self._inode(parent_inode_old), name_old), (self._inode(parent_inode_new), name_new)
        if flags & ~KNOWN_RENAME_FLAGS or flags == KNOWN_RENAME_FLAGS:
            raise pyfuse3.FUSEError(errno.EINVAL)
        if flags & pyfuse3.RENAME_EXCHANGE:
            await self._fs.exchange(source, target)
        else:
            there = self._fs.shown(*target)
            await self._fs.rename(source, target, replace=not flags & pyfuse3.RENAME_NOREPLACE)
            self._told_gone(there)

    def _told_gone(self, state: InodeState | None) -> None:
        if state is not None and state.kind is InodeKind.DIRECTORY:
            self._translation.removed(state.inode)

    @looked_up
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        """Where a symbolic link leads."""
        return self._fs.target_of(self._inode(inode))

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        """The kernel has dropped inodes: nobody opens them again by a name that they had."""
        for number, _count in inode_list:
            self._fs.contents.forgotten(self._inode(number))

    # -- attributes --------------------------------------------------------------------------------------------------

    @looked_up
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        """The attributes of an inode."""
        return self._attributes(self._fs.inode(self._inode(inode)))

    @looked_up
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        """Change attributes; ctime is always now."""
        self._acting(ctx.pid)
        wanted = Wanted(
            mode=stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            is_unprivileged=ctx.uid != 0,
        )
        return self._attributes(self._fs.set_attributes(self._inode(inode), wanted, fh))

    @looked_up
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        """The value of an extended attribute."""
        return self._fs.xattr(self._inode(inode), name)

    @looked_up
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        """The names of the extended attributes."""
        return self._fs.xattr_names(self._inode(inode))

    @looked_up
    async def setxattr(self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext) -> None:
        """Set an extended attribute."""
        self._acting(ctx.pid)
        self._fs.set_xattr(self._inode(inode), name, value)

    @looked_up
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        """Remove an extended attribute."""
        self._acting(ctx.pid)
        self._fs.remove_xattr(self._inode(inode), name)

    # -- files -------------------------------------------------------------------------------------------------------

    @looked_up
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        """Open a file; the kernel keeps right pages, but those of a virtual one, which nobody tells it of."""
        self._acting(ctx.pid)
        opened = self._inode(inode)
        number = self._fs.open(opened, flags, ctx)
        keeps = inode < virtual.FIRST and self._translation.opened(opened)
        return FileInfo(fh=number, keep_cache=keeps, direct_io=number >= virtual.UNSIZED)

    @translated
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        """Read bytes; any buffer will do."""
        return cast(bytes, await self._fs.read(fh, off, size))

    @translated
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        """Write bytes."""
        return self._fs.write(fh, off, buf)

    @translated
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        """Make what was written durable."""
        await self._fs.sync(fh)

    @translated
    async def release(self, fh: FileHandleT) -> None:
        """Close a file."""
        self._fs.release(fh)

    # -- directories -------------------------------------------------------------------------------------------------

    @translated
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        """Open a directory."""
        return self._fs.open_directory(self._inode(inode))

    @translated
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        """Fill the reply with entries, as many as it takes."""
        reply, attributes = pyfuse3.readdir_reply, self._attributes
        for name, state, place in await self._fs.read_directory(fh, start_id):
            if not reply(token, name, attributes(state), place):
                return

    @translated
    async def releasedir(self, fh: FileHandleT) -> None:
        """Close a directory."""
        self._fs.release_directory(fh)

    @translated
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        """Make the names of a directory durable."""
        await self._fs.sync_directory()

    # -- the whole ---------------------------------------------------------------------------------------------------

    @translated
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        """The quota."""
        space, told = self._fs.space(), StatvfsData()
        told.f_bsize = told.f_frsize = BLOCK_BYTES
        told.f_blocks = space.size_bytes // BLOCK_BYTES
        told.f_bfree = told.f_bavail = space.free_bytes // BLOCK_BYTES
        told.f_files = told.f_ffree = told.f_favail = INODES
        told.f_namemax = MAX_NAME_BYTES
        return told
