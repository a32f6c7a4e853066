"""Paths as the commands name them, and what they lead to.

Owns the way from a path, relative to the drive's root, to an inode, and the refusals on it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from drivefs.control.errors import Refused
from drivefs.fs import errors, virtual
from drivefs.fs.filesystem import FileSystem
from drivefs.protocol.ids import InodeId


async def inode_at(filesystem: FileSystem, path: bytes) -> InodeId:
    """What a path leads to.

    Raises:
        Refused: to nothing (`not_found`) or into the tree that is made as it is read (`virtual`), or it cannot be found
            out now (`unavailable`).
    """
    inode = filesystem.root
    try:
        for name in filter(None, path.split(b"/")):
            state = await filesystem.lookup(inode, name)
            if state is None:
                raise errors.NotFound
            inode = state.inode
    except (errors.NotFound, errors.NotDirectory) as error:
        raise Refused(
            "not_found", f"there is no {shown(path)} in the drive. drivefs trash list shows what was removed"
        ) from error
    except errors.Unavailable as error:
        raise Refused("unavailable", str(error)) from error
    if inode >= virtual.FIRST:
        raise Refused("virtual", f"{shown(path)} only shows what is in the drive elsewhere: name that file or folder")
    return inode


async def sent_inode_at(filesystem: FileSystem, path: bytes) -> InodeId:
    """The same of what the server has, or will have.

    Raises:
        Refused: as `inode_at`; or it is ignored (`kind`).
    """
    inode = await inode_at(filesystem, path)
    check_not_ignored(filesystem, path, inode)
    return inode


def check_not_ignored(filesystem: FileSystem, path: bytes, inode: InodeId) -> None:
    """Refuse what the server never hears of.

    Raises:
        Refused: it is ignored (`kind`).
    """
    if filesystem.kept.has(inode):
        raise Refused("kind", f"{shown(path)} is ignored: it is on this device only, and the server has nothing of it")


def shown(path: bytes) -> str:
    """A path for people."""
    return path.decode(errors="replace") or "the drive itself"


@contextmanager
def past_refusals(holding: str, outcome: str) -> Iterator[None]:
    """Say what errors mean to whoever asks for something of the past.

    `holding` is what the server has and could not be asked for, `outcome` what became of the request.

    Raises:
        Refused: `forbidden`, `unavailable` or `failed`.
    """
    try:
        yield
    except errors.AccessDenied as error:
        raise Refused("forbidden", f"{outcome}: it is shared with you to be read only") from error
    except errors.NotPermitted as error:
        raise Refused("forbidden", f"the server refuses this: {error}") from error
    except errors.Unavailable as error:
        raise Refused("unavailable", f"the server, which has the {holding}, cannot be asked now: {error}") from error
    except errors.FileSystemError as error:
        kind = type(error).__name__
        raise Refused("failed", f"{outcome}: {kind} ({error.errno}) {error}".rstrip()) from error
