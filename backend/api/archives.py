"""Tar archives as a stream: what is in front of each member, and what is behind it; pure.

Owns the form (POSIX pax, so names of any length, bytes that are no text, and large files are told as they are).
"""

import os
import tarfile

from drivefs.protocol.model import InodeKind, InodeState

END = bytes(2 * tarfile.BLOCKSIZE)
"""An archive that lacks it broke off."""
TYPES = {InodeKind.FILE: tarfile.REGTYPE, InodeKind.DIRECTORY: tarfile.DIRTYPE, InodeKind.SYMLINK: tarfile.SYMTYPE}
"""What is put into an archive; devices, sockets and pipes are not."""


def header(path: bytes, state: InodeState) -> bytes:
    """What stands in front of a member's content."""
    member = tarfile.TarInfo(os.fsdecode(path))
    member.type = TYPES[state.kind]
    member.mode = state.mode
    member.mtime = state.mtime_ns // 10**9
    if state.kind is InodeKind.FILE:
        member.size = state.size
    if state.kind is InodeKind.SYMLINK:
        member.linkname = os.fsdecode(state.target)
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def padding(size: int) -> bytes:
    """What stands behind a content of so many bytes."""
    return bytes(-size % tarfile.BLOCKSIZE)
