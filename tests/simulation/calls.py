"""What programs do on a mount, by path or by descriptor, as the kernel would pass it on.

Owns the walk along a path and the numbers that programs keep; what a number means may change while they have it.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from drivefs.fs.attributes import Wanted
from drivefs.fs.filesystem import FileSystem
from drivefs.fs.namespace import NewInode
from drivefs.fuse.attributes import Translation
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind, InodeState
from tests.fs.bench import ME

Tree = dict[str, InodeState]


class Calls:
    """The calls of all programs on one mount."""

    def __init__(self, fs: FileSystem, translation: Translation) -> None:
        self.fs = fs
        self.number = translation.number
        self.meant = translation.inode
        self.count = 0

    # -- names -------------------------------------------------------------------------------------------------------

    async def find(self, path: str) -> InodeState | None:
        """What a path leads to."""
        state = self.fs.inode(self.fs.root)
        number = self.number(state.inode)
        for name in filter(None, path.encode().split(b"/")):
            self.count += 1
            found = await self.fs.lookup(self.meant(number), name)
            if found is None:
                return None
            state, number = found, self.number(found.inode)
        return state

    def shown(self, path: str) -> InodeId | None:
        """The inode to which a path leads at this moment, as far as that is known here; never waits."""
        number = self.number(self.fs.root)
        for name in filter(None, path.encode().split(b"/")):
            state = self.fs.shown(self.meant(number), name)
            if state is None:
                return None
            number = self.number(state.inode)
        return self.meant(number)

    def has_name(self, inode: InodeId) -> bool:
        """Whether any name leads to an inode, as far as that is known here."""
        known = self.fs.known(inode)
        return known is not None and known.nlink > 0

    async def known(self, path: str) -> InodeState:
        found = await self.find(path)
        if found is None:
            raise FileNotFoundError(path)
        return found

    async def place(self, path: str) -> tuple[InodeId, bytes]:
        """The directory in which a path ends, and its last name."""
        parent, _, name = path.rpartition("/")
        return (await self.known(parent)).inode, name.encode()

    async def places(self, first: str, second: str) -> list[tuple[InodeId, bytes]]:
        """Of two paths; the kernel goes along one after the other, and keeps numbers meanwhile."""
        found = [(self.number(inode), name) for inode, name in (await self.place(first), await self.place(second))]
        return [(self.meant(number), name) for number, name in found]

    async def create(self, path: str, kind: InodeKind, mode: int = 0o644, target: bytes = b"") -> InodeState:
        parent, name = await self.place(path)
        return await self.fs.create(NewInode(parent=parent, name=name, kind=kind, mode=mode, target=target), ME)

    async def link(self, old: str, new: str) -> None:
        number = self.number((await self.known(old)).inode)
        parent, name = await self.place(new)
        await self.fs.link(self.meant(number), parent, name)

    async def unlink(self, path: str) -> None:
        await self.fs.unlink(*await self.place(path))

    async def rmdir(self, path: str) -> None:
        await self.fs.rmdir(*await self.place(path))

    async def rename(self, old: str, new: str, *, replace: bool = True) -> None:
        source, target = await self.places(old, new)
        await self.fs.rename(source, target, replace=replace)

    async def exchange(self, first: str, second: str) -> None:
        await self.fs.exchange(*await self.places(first, second))

    async def set_mode(self, path: str, mode: int) -> None:
        self.fs.set_attributes((await self.known(path)).inode, Wanted(mode=mode))

    async def set_attributes(self, path: str, wanted: Wanted) -> None:
        self.fs.set_attributes((await self.known(path)).inode, wanted)

    async def remove_xattr(self, path: str, name: bytes) -> None:
        self.fs.remove_xattr((await self.known(path)).inode, name)

    async def set_xattr(self, path: str, name: bytes, value: bytes) -> None:
        self.fs.set_xattr((await self.known(path)).inode, name, value)

    # -- contents ----------------------------------------------------------------------------------------------------

    async def open(self, path: str, flags: int) -> tuple[InodeId, int]:
        """Open, or with O_CREAT make, a file; gives its inode and the descriptor."""
        if flags & os.O_CREAT:
            parent, name = await self.place(path)
            new = NewInode(parent=parent, name=name, kind=InodeKind.FILE, mode=0o644)
            state, number = await self.fs.create_file(new, flags, ME)
            return state.inode, number
        found = await self.known(path)
        return found.inode, self.fs.open(found.inode, flags, ME)

    async def read(self, inode: InodeId) -> bytes:
        """A whole file."""
        self.count += 1
        number = self.fs.open(inode, os.O_RDONLY, ME)
        try:
            return bytes(await self.fs.read(number, 0, 2**30))
        finally:
            self.fs.release(number)

    # -- directories -------------------------------------------------------------------------------------------------

    async def entries(self, directory: InodeId) -> list[tuple[bytes, InodeState]]:
        async with self._opened(directory) as number:
            found = await self.fs.read_directory(number, 0)
            return [(name, state) for name, state, _ in found if name not in (b".", b"..")]

    @asynccontextmanager
    async def _opened(self, directory: InodeId) -> AsyncIterator[int]:
        self.count += 1
        number = self.fs.open_directory(directory)
        try:
            yield number
        finally:
            self.fs.release_directory(number)

    async def tree(self) -> Tree:
        """All paths, with what they lead to."""
        found: Tree = {"": self.fs.inode(self.fs.root)}
        waiting = [("", self.fs.root)]
        while waiting:
            prefix, directory = waiting.pop()
            for name, state in await self.entries(directory):
                path = prefix + name.decode(errors="surrogateescape")
                found[path] = state
                if state.kind is InodeKind.DIRECTORY:
                    waiting.append((path + "/", state.inode))
        # What was known of it before it was first listed is a stand-in.
        found[""] = self.fs.inode(self.fs.root)
        return found
