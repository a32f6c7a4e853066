"""Inodes, dentries and contents as both sides see them.

Owns the shapes and the packed form of block lists. States are whole values: a newer one of an inode replaces the
older. Times are nanoseconds since 1970; sizes are bytes.
"""

import enum
import stat
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
from blake3 import blake3

from drivefs.protocol.ids import BLOCK_ID_BYTES, BlockId, InodeId, LineageId, RevisionNumber, RunId, Seq

MAX_MODE = 0o7777
MAX_OWNER = 2**32 - 2
"""The number behind it means no user to the system."""
MIN_TIME_NS = -(2**63)
MAX_TIME_NS = 2**63 - 1


class InodeKind(enum.IntEnum):
    """What an inode is; the values are the file-type bits of `st_mode`."""

    FILE = stat.S_IFREG
    DIRECTORY = stat.S_IFDIR
    SYMLINK = stat.S_IFLNK
    FIFO = stat.S_IFIFO
    SOCKET = stat.S_IFSOCK
    CHARACTER_DEVICE = stat.S_IFCHR
    BLOCK_DEVICE = stat.S_IFBLK


class InodeState(msgspec.Struct, omit_defaults=True, gc=False):
    """Everything known of one inode, as of `seq`.

    `mode` holds the permission bits only (12 bits). `uid` and `gid` are None for "mine": shown as the mounting user.
    `blocks` is the packed block list (`pack_blocks`) of the current revision, or None when it is long and has to be
    asked for; `revision` 0 means that there never was content. `xattrs` are the `user.*` and other stored ones.
    `nlink` of a directory is 2 plus its subdirectories; 0 is an inode without a name. Many are in memory, and none can
    be part of a cycle: the garbage collector need not look at them.
    """

    inode: InodeId
    kind: InodeKind
    mode: int
    uid: int | None = None
    gid: int | None = None
    rdev: int = 0
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    nlink: int = 1
    size: int = 0
    revision: RevisionNumber = RevisionNumber(0)
    lineage: LineageId = LineageId(0)
    blocks: bytes | None = b""
    target: bytes = b""
    xattrs: dict[bytes, bytes] = {}
    seq: Seq = Seq(0)


class DentryState(msgspec.Struct, omit_defaults=True, gc=False):
    """What (parent, name) leads to as of `seq`; `inode` 0 means that the name is gone."""

    parent: InodeId
    name: bytes
    inode: InodeId = InodeId(0)
    seq: Seq = Seq(0)


class BlockRef(NamedTuple):
    """One block of a revision: its id and how many bytes of plaintext it has."""

    block: BlockId
    size_bytes: int


_PACKED = struct.Struct(f">{BLOCK_ID_BYTES}sI")
PACKED_BLOCK_BYTES = _PACKED.size
MAX_RUN_BLOCKS = 1024
MAX_INLINE_BLOCKS = 16
"""Block lists up to this length travel within the inode's state."""


def pack_blocks(blocks: Iterable[BlockRef]) -> bytes:
    """Pack a block list: 36 bytes for each block, its id and then its size as a big-endian 32-bit number."""
    return b"".join([_PACKED.pack(block, size) for block, size in blocks])


def unpack_blocks(packed: bytes) -> list[BlockRef]:
    """Unpack what `pack_blocks` packed.

    Raises:
        ValueError: the length is not a multiple of 36.
    """
    if len(packed) % PACKED_BLOCK_BYTES:
        raise ValueError(f"a packed block list of {len(packed)} bytes is not a multiple of {PACKED_BLOCK_BYTES}")
    return [BlockRef(BlockId(block), size) for block, size in _PACKED.iter_unpack(packed)]


def cut_runs(blocks: Sequence[BlockRef]) -> Iterator[bytes]:
    """Cut a block list into packed runs: a run ends after a block whose id begins with a zero byte, or at 1,024."""
    start = 0
    for position, ref in enumerate(blocks, start=1):
        if ref.block[0] == 0 or position - start == MAX_RUN_BLOCKS or position == len(blocks):
            yield pack_blocks(blocks[start:position])
            start = position


def run_id(packed: bytes) -> RunId:
    """Name a packed run: the BLAKE3-256 of its packed bytes."""
    return RunId(blake3(packed).digest())


def with_content_of(known: InodeState, own: InodeState) -> InodeState:
    """The state `own` with the content of another one."""
    content = {"size": known.size, "mtime_ns": known.mtime_ns, "revision": known.revision, "blocks": known.blocks}
    return msgspec.structs.replace(own, **content)
