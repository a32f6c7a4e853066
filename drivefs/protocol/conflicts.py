"""What a conflict copy carries: whose name it lost, and on what it was based.

Owns the mark's shape and the name of the stored extended attribute that holds it. The attribute lies outside every
namespace that programs may set; it travels as an ordinary `SetXattr` on the copy, and goes when people have settled
the conflict.
"""

import msgspec

from drivefs.protocol import wire
from drivefs.protocol.ids import NO_INODE, InodeId, RevisionNumber

CONFLICT_XATTR = b"drivefs.conflict"
"""The stored attribute of a conflict copy; its value is an encoded `ConflictMark`."""


class ConflictMark(msgspec.Struct, frozen=True, array_like=True):
    """Why a copy exists.

    `of` is the inode that kept the name `name` in directory `parent`. `base_revision` is the revision on which the
    copy's content was made (0: there is no common base), by its number among those of the inode `base_of`: an inode
    that takes over a name has other numbers from then on. In marks of earlier versions that is 0, and the number one
    of the history of `of`. `their_revision` is the one that was there instead (0: not known). `device` made the copy,
    at `time_ns`.
    """

    of: InodeId
    name: bytes
    parent: InodeId
    base_revision: RevisionNumber
    their_revision: RevisionNumber
    device: str
    time_ns: int
    base_of: InodeId = NO_INODE


def encode_mark(mark: ConflictMark) -> bytes:
    """The value of the attribute."""
    return wire.encode(mark)


def decode_mark(value: bytes) -> ConflictMark:
    """Read the value of the attribute.

    Raises:
        ProtocolError: `malformed`.
    """
    return wire.decode(value, ConflictMark)
