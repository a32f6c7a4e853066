"""What devices have accepted of programs, and where it must be in the end.

Owns the account of contents, each of which is written once. Invariant: content that no program has written over or
removed, as far as its device showed it, is in a drive, in the history on the server, or in `lost+found` of a device.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import Connection, select

from backend.metadata import schema
from drivefs.fs.errors import FileSystemError
from drivefs.protocol import blocks as codec
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.remote.errors import RemoteError
from tests.sync.fleet import Device, Fleet
from tests.sync.stand_ins import NotServed


class Accepted:
    """The contents of one run."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._known: set[bytes] = set()
        self._given_up: set[bytes] = set()

    async def during(self, device: Device, work: Callable[[Device], Awaitable[None]]) -> None:
        """Let a program do something; what it can no longer read afterwards it has given up itself."""
        before = await readable(device)
        try:
            await work(device)
        finally:
            after = await readable(device)
            self._known |= after
            self._given_up |= before - after

    async def lost(self) -> set[bytes]:
        """What ought to be there and is nowhere."""
        found = await self._fleet.served.ground.database.read(_named_blocks)
        kept: set[bytes] = set()
        for device in self._fleet.devices:
            kept |= await readable(device)
            kept |= {path.read_bytes() for path in device.place.glob("state/lost+found/**/*") if path.is_file()}
        # Nothing is written only once: an empty file that is there says nothing of another.
        expected = self._known - self._given_up - kept - {b""}
        return {each for each in expected if codec.block_id(each) not in found}


async def readable(device: Device) -> set[bytes]:
    """The contents that a device shows, and can show now."""
    found, directories = set[bytes](), [device.root]
    seen: set[InodeId] = set()
    while directories:
        directory = directories.pop()
        seen.add(directory)
        try:
            entries = await device.entries(directory)
        except (FileSystemError, RemoteError):
            entries = _own(device, directory)
        for _, state in entries:
            if state.kind is InodeKind.DIRECTORY and state.inode not in seen:
                directories.append(state.inode)
            elif state.kind is InodeKind.FILE:
                found |= await _read(device, state.inode)
    return found


def _own(device: Device, directory: InodeId) -> list[tuple[bytes, InodeState]]:
    """What own changes have put into a directory that cannot be listed: programs find that by its names."""
    overlay, replica = device.local.journal.overlay, device.local.replica
    found = ((name, overlay.inode(inode) or replica.inode(inode)) for name, inode in overlay.children(directory))
    return [(name, state) for name, state in found if state is not None]


async def _read(device: Device, inode: InodeId) -> set[bytes]:
    try:
        return {await device.content(inode)}
    except (FileSystemError, RemoteError, NotServed):
        return set()


def _named_blocks(connection: Connection) -> bytes:
    """All blocks that any revision of any account names, one behind the other."""
    tables: tuple[Any, ...] = (schema.runs.c.packed, schema.inodes.c.blocks, schema.inode_versions.c.blocks)
    return b"".join(
        packed for column in tables for (packed,) in connection.execute(select(column).where(column.is_not(None)))
    )
