"""A trivial pyfuse3 file system: the ceiling of this stack, against which drivefs is measured.

Owns names and attributes in memory and one backing file per regular file in a directory. Keeps nothing over a
restart, syncs nothing but what it is asked to, checks nothing that the kernel checks (`default_permissions`).
Invariant: the kernel may cache as long, and is given as much per directory reply, as with drivefs.

Run as a process of its own: python -m benchmarks.trivial MOUNTPOINT BACKING_DIRECTORY [FILES DIRECTORIES WIDE]
With a shape it begins with such a tree of empty files.
"""

import errno
import gc
import os
import stat
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pyfuse3
import trio

from benchmarks.filling import Shape, tree

KERNEL_TIMEOUT_SECONDS = 86_400.0
NANOSECONDS = 1_000_000_000


@dataclass(slots=True)
class Inode:
    """One file, directory or link. `children` only for directories."""

    id: int
    mode: int
    uid: int
    gid: int
    nlink: int = 1
    size: int = 0
    rdev: int = 0
    target: bytes = b""
    open_count: int = 0
    times: list[int] = field(default_factory=lambda: [time.time_ns()] * 3)  # atime, mtime, ctime
    children: dict[bytes, int] | None = None
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


class TrivialOperations(pyfuse3.Operations):
    """Every call is answered from memory or with one system call on the backing file."""

    enable_writeback_cache = False

    def __init__(self, backing: Path) -> None:
        self.backing = backing
        root = Inode(pyfuse3.ROOT_INODE, stat.S_IFDIR | 0o755, os.getuid(), os.getgid(), nlink=2, children={})
        self.inodes = {root.id: root}
        self.next_id = pyfuse3.ROOT_INODE + 1
        self.descriptors: dict[int, int] = {}  # descriptor → inode
        self.listings: dict[int, list[tuple[bytes, int]]] = {}
        self.next_listing = 1

    def attributes(self, inode: Inode) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode.id
        entry.st_mode = inode.mode
        entry.st_nlink = inode.nlink
        entry.st_uid = inode.uid
        entry.st_gid = inode.gid
        entry.st_rdev = inode.rdev
        entry.st_size = inode.size
        entry.st_blksize = 4096
        entry.st_blocks = (inode.size + 511) // 512
        entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns = inode.times
        entry.entry_timeout = entry.attr_timeout = KERNEL_TIMEOUT_SECONDS
        return entry

    def backing_path(self, inode_id: int) -> str:
        return f"{self.backing}/{inode_id}"

    def children(self, parent: int) -> dict[bytes, int]:
        children = self.inodes[parent].children
        if children is None:
            raise pyfuse3.FUSEError(errno.ENOTDIR)
        return children

    def child(self, parent: int, name: bytes) -> Inode:
        try:
            return self.inodes[self.children(parent)[name]]
        except KeyError:
            raise pyfuse3.FUSEError(errno.ENOENT) from None

    def add(self, parent: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext) -> Inode:
        children = self.children(parent)
        if name in children:
            raise pyfuse3.FUSEError(errno.EEXIST)
        inode = Inode(self.next_id, mode, ctx.uid, ctx.gid)
        self.next_id += 1
        self.inodes[inode.id] = inode
        children[name] = inode.id
        self.touch(parent)
        return inode

    def touch(self, inode_id: int) -> None:
        times = self.inodes[inode_id].times
        times[1] = times[2] = time.time_ns()

    def drop_link(self, inode: Inode) -> None:
        inode.nlink -= 1
        inode.times[2] = time.time_ns()
        self.reap(inode)

    def reap(self, inode: Inode) -> None:
        if inode.nlink == 0 and inode.open_count == 0:
            del self.inodes[inode.id]
            if stat.S_ISREG(inode.mode):
                os.unlink(self.backing_path(inode.id))

    def open_backing(self, inode: Inode, flags: int) -> pyfuse3.FileInfo:
        descriptor = os.open(self.backing_path(inode.id), flags, 0o600)
        self.descriptors[descriptor] = inode.id
        inode.open_count += 1
        return pyfuse3.FileInfo(fh=descriptor, keep_cache=True)

    async def lookup(self, parent_inode, name, ctx):
        if name not in self.children(parent_inode):
            missing = pyfuse3.EntryAttributes()
            missing.st_ino = 0  # the kernel remembers that the name is not there
            missing.entry_timeout = KERNEL_TIMEOUT_SECONDS
            return missing
        return self.attributes(self.child(parent_inode, name))

    async def getattr(self, inode, ctx):
        return self.attributes(self.inodes[inode])

    async def setattr(self, inode, attr, fields, fh, ctx):
        found = self.inodes[inode]
        found.times[2] = time.time_ns()
        if fields.update_mode:
            found.mode = stat.S_IFMT(found.mode) | stat.S_IMODE(attr.st_mode)
        if fields.update_uid:
            found.uid = attr.st_uid
        if fields.update_gid:
            found.gid = attr.st_gid
        if fields.update_atime:
            found.times[0] = attr.st_atime_ns
        if fields.update_mtime:
            found.times[1] = attr.st_mtime_ns
        if fields.update_size:
            os.truncate(self.backing_path(inode), attr.st_size)
            found.size = attr.st_size
            found.times[1] = found.times[2]
        return self.attributes(found)

    async def create(self, parent_inode, name, mode, flags, ctx):
        inode = self.add(parent_inode, name, stat.S_IFREG | stat.S_IMODE(mode), ctx)
        return self.open_backing(inode, os.O_RDWR | os.O_CREAT), self.attributes(inode)

    async def open(self, inode, flags, ctx):
        found = self.inodes[inode]
        if flags & os.O_TRUNC:
            found.size = 0
            self.touch(inode)
        return self.open_backing(found, os.O_RDWR | (flags & os.O_TRUNC))

    async def read(self, fh, off, size):
        return os.pread(fh, size, off)

    async def write(self, fh, off, buf):
        written = os.pwrite(fh, buf, off)
        inode = self.inodes[self.descriptors[fh]]
        inode.size = max(inode.size, off + written)
        inode.times[1] = inode.times[2] = time.time_ns()
        return written

    async def flush(self, fh):
        return None

    async def fsync(self, fh, datasync):
        await trio.to_thread.run_sync(os.fdatasync if datasync else os.fsync, fh)

    async def fsyncdir(self, fh, datasync):
        return None

    async def release(self, fh):
        inode = self.inodes[self.descriptors.pop(fh)]
        os.close(fh)
        inode.open_count -= 1
        self.reap(inode)

    async def mkdir(self, parent_inode, name, mode, ctx):
        inode = self.add(parent_inode, name, stat.S_IFDIR | stat.S_IMODE(mode), ctx)
        inode.children = {}
        inode.nlink = 2
        self.inodes[parent_inode].nlink += 1
        return self.attributes(inode)

    async def symlink(self, parent_inode, name, target, ctx):
        inode = self.add(parent_inode, name, stat.S_IFLNK | 0o777, ctx)
        inode.target = target
        inode.size = len(target)
        return self.attributes(inode)

    async def readlink(self, inode, ctx):
        return self.inodes[inode].target

    async def link(self, inode, new_parent_inode, new_name, ctx):
        children = self.children(new_parent_inode)
        if new_name in children:
            raise pyfuse3.FUSEError(errno.EEXIST)
        found = self.inodes[inode]
        children[new_name] = inode
        found.nlink += 1
        found.times[2] = time.time_ns()
        self.touch(new_parent_inode)
        return self.attributes(found)

    async def unlink(self, parent_inode, name, ctx):
        inode = self.child(parent_inode, name)
        del self.children(parent_inode)[name]
        self.touch(parent_inode)
        self.drop_link(inode)

    async def rmdir(self, parent_inode, name, ctx):
        inode = self.child(parent_inode, name)
        if self.children(inode.id):
            raise pyfuse3.FUSEError(errno.ENOTEMPTY)
        del self.children(parent_inode)[name]
        self.inodes[parent_inode].nlink -= 1
        self.touch(parent_inode)
        del self.inodes[inode.id]

    async def rename(self, parent_inode_old, name_old, parent_inode_new, name_new, flags, ctx):
        if flags:
            raise pyfuse3.FUSEError(errno.EINVAL)
        inode = self.child(parent_inode_old, name_old)
        if name_new in self.children(parent_inode_new):
            replaced = self.child(parent_inode_new, name_new)
            if replaced is inode:
                return
            remove = self.unlink if replaced.children is None else self.rmdir
            await remove(parent_inode_new, name_new, ctx)
        del self.children(parent_inode_old)[name_old]
        self.children(parent_inode_new)[name_new] = inode.id
        if inode.children is not None:
            self.inodes[parent_inode_old].nlink -= 1
            self.inodes[parent_inode_new].nlink += 1
        self.touch(parent_inode_old)
        self.touch(parent_inode_new)

    async def opendir(self, inode, ctx):
        handle = self.next_listing
        self.next_listing += 1
        self.listings[handle] = list(self.children(inode).items())
        return handle

    async def readdir(self, fh, start_id, token):
        listing = self.listings[fh]
        for position in range(start_id, len(listing)):
            name, inode_id = listing[position]
            inode = self.inodes.get(inode_id)
            if inode is None:
                continue
            if not pyfuse3.readdir_reply(token, name, self.attributes(inode), position + 1):
                return

    async def releasedir(self, fh):
        del self.listings[fh]

    async def getxattr(self, inode, name, ctx):
        # Answered, like drivefs does: "not supported" would spare the kernel one request for each first write.
        try:
            return self.inodes[inode].xattrs[name]
        except KeyError:
            raise pyfuse3.FUSEError(errno.ENODATA) from None

    async def setxattr(self, inode, name, value, ctx):
        self.inodes[inode].xattrs[name] = value

    async def listxattr(self, inode, ctx):
        return list(self.inodes[inode].xattrs)

    async def removexattr(self, inode, name, ctx):
        if self.inodes[inode].xattrs.pop(name, None) is None:
            raise pyfuse3.FUSEError(errno.ENODATA)

    async def statfs(self, ctx):
        below = os.statvfs(self.backing)
        answer = pyfuse3.StatvfsData()
        for name in ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail"):
            setattr(answer, name, getattr(below, name))
        return answer


def grow(operations: TrivialOperations, shape: Shape) -> None:
    """Makes a tree in memory; its files have no backing file, so they can be looked at only."""
    times, xattrs, owner = [time.time_ns()] * 3, {}, (os.getuid(), os.getgid())

    def add(parent: int, name: bytes, children: dict[bytes, int] | None) -> int:
        number, mode = operations.next_id, stat.S_IFREG | 0o644 if children is None else stat.S_IFDIR | 0o755
        operations.next_id += 1
        operations.inodes[number] = Inode(number, mode, *owner, times=times, children=children, xattrs=xattrs)
        operations.children(parent)[name] = number
        return number

    directories: list[int] = []
    for parent, name, is_directory in tree(shape):
        above = pyfuse3.ROOT_INODE if parent is None else directories[parent]
        number = add(above, name, {} if is_directory else None)
        if is_directory:
            directories.append(number)


def main() -> None:
    """Mounts until it is unmounted."""
    mountpoint, backing = sys.argv[1], Path(sys.argv[2])
    options = {"fsname=trivial", "subtype=trivial", "default_permissions"}
    operations = TrivialOperations(backing)
    if sys.argv[3:]:
        grow(operations, Shape(*map(int, sys.argv[3:])))
        gc.freeze()
    pyfuse3.init(operations, mountpoint, options)
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=False)


if __name__ == "__main__":
    main()
