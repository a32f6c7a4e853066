"""What goes wrong where sealed bytes are kept.

StoreError
 +-- ObjectMissing   the object, or the part of it that was asked for, is not in the store
 +-- PlaceUnusable   a directory where blocks are to lie is not there, or not the one that it was
 +-- SealBroken      the bytes do not open: damaged, exchanged for others, or sealed with another key
"""

import errno

DAMAGE = frozenset({errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENODATA, errno.EREMOTEIO})


def is_damage(error: OSError) -> bool:
    """Whether a failed read says that the disk or file system has lost what was there.

    Anything else, such as too many open files or a place that is away, says nothing of the object.
    """
    return error.errno in DAMAGE


class StoreError(Exception):
    """Base of all errors of this package; its text says what happened to which object."""


class ObjectMissing(StoreError):
    """The store has no such object, or it is shorter than the part that was asked for."""


class PlaceUnusable(StoreError):
    """A directory where blocks are to lie cannot be used; the text says why, and what to do."""


class SealBroken(StoreError):
    """Sealed bytes do not open with the key, or are not those of the block that was asked for."""
