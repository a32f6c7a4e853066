"""Why a file-system call fails: each error carries the errno that the caller sees.

Owns the tree, and the table that gives an errno to the errors of the local state and of the network.

FileSystemError (errno)
 +-- NotFound         ENOENT    the name or inode does not exist
 +-- Exists           EEXIST    the name is taken
 +-- NotDirectory     ENOTDIR
 +-- IsDirectory      EISDIR
 +-- NotEmpty         ENOTEMPTY
 +-- Invalid          EINVAL
 +-- NotPermitted     EPERM
 +-- AccessDenied     EACCES    it is shared to be read only
 +-- CrossDevice      EXDEV     into a share or out of it, or between the drive and what is on this device only
 +-- Busy             EBUSY     a share hangs there: leaving it, or ending it, takes it away
 +-- NameTooLong      ENAMETOOLONG
 +-- TooLarge         EFBIG     past the limit of file size
 +-- OverQuota        EDQUOT
 +-- NoSpace          ENOSPC    refused before anything was accepted
 +-- NoAttribute      ENODATA   no such extended attribute
 +-- NotSupported     EOPNOTSUPP
 +-- OutOfRange       ERANGE
 +-- BadHandle        EBADF
 +-- ReadOnly         EROFS     the device was revoked: nobody would ever get what is changed here
 +-- Unavailable      EIO       bytes or names that are not here and could not be fetched within the deadline
"""

import errno as codes

import trio

from cache import errors as cache_errors
from drivefs.remote import errors as remote_errors


class FileSystemError(Exception):
    """A call that fails with `errno`."""

    errno = codes.EIO


class NotFound(FileSystemError):
    """The name or the inode does not exist."""

    errno = codes.ENOENT


class Exists(FileSystemError):
    """The name is taken."""

    errno = codes.EEXIST


class NotDirectory(FileSystemError):
    """A directory was needed."""

    errno = codes.ENOTDIR


class IsDirectory(FileSystemError):
    """Anything but a directory was needed."""

    errno = codes.EISDIR


class NotEmpty(FileSystemError):
    """The directory still has entries."""

    errno = codes.ENOTEMPTY


class Invalid(FileSystemError):
    """The arguments make no sense together."""

    errno = codes.EINVAL


class NotPermitted(FileSystemError):
    """Nobody may do this."""

    errno = codes.EPERM


class AccessDenied(FileSystemError):
    """It belongs to a share in which this user may only read."""

    errno = codes.EACCES


class CrossDevice(FileSystemError):
    """What is in a share, or on this device only, stays there: it can be copied, not moved or linked elsewhere."""

    errno = codes.EXDEV


class Busy(FileSystemError):
    """A share hangs there, and is not removed like a directory."""

    errno = codes.EBUSY


class NameTooLong(FileSystemError):
    """A name over 255 bytes, or a link target over 4,095."""

    errno = codes.ENAMETOOLONG


class TooLarge(FileSystemError):
    """The file would grow past the server's limit."""

    errno = codes.EFBIG


class OverQuota(FileSystemError):
    """What is stored and what waits to be stored would exceed the account's quota."""

    errno = codes.EDQUOT


class NoSpace(FileSystemError):
    """The local disk, the range of inode ids or the room for extended attributes is used up; nothing was accepted."""

    errno = codes.ENOSPC


class NoAttribute(FileSystemError):
    """No extended attribute of that name."""

    errno = codes.ENODATA


class NotSupported(FileSystemError):
    """This file system does not do that."""

    errno = codes.EOPNOTSUPP


class OutOfRange(FileSystemError):
    """A name or value has a length that cannot be."""

    errno = codes.ERANGE


class BadHandle(FileSystemError):
    """The descriptor is not open for this."""

    errno = codes.EBADF


class ReadOnly(FileSystemError):
    """Nothing may be changed here (any more)."""

    errno = codes.EROFS


class Unavailable(FileSystemError):
    """What is asked for is not on this machine and could not be fetched within the deadline."""

    errno = codes.EIO


OF_OTHERS: dict[type[Exception], int] = {
    cache_errors.DiskFull: codes.ENOSPC,
    cache_errors.OutOfIds: codes.ENOSPC,
    cache_errors.CacheError: codes.EIO,
    remote_errors.RemoteError: codes.EIO,
    trio.TooSlowError: codes.EIO,
}
"""What errors of the parts below mean for a caller; that of the nearest class in the tree counts."""


def errno_of(error: Exception) -> int | None:
    """The errno of an expected error; None for one that nobody expects."""
    if isinstance(error, FileSystemError):
        return error.errno
    return next((OF_OTHERS[kind] for kind in type(error).__mro__ if kind in OF_OTHERS), None)
