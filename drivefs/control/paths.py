"""Paths as the commands name them, and what they lead to.

Owns the way from a path, relative to the drive's root, to an inode, and the refusals on it.
"""

from drivefs.control.errors import Refused
from drivefs.fs import errors
from drivefs.fs.filesystem import FileSystem
from drivefs.protocol.ids import InodeId


async def inode_at(filesystem: FileSystem, path: bytes) -> InodeId:
    """What a path leads to.

    Raises:
        Refused: to nothing (`not_found`), or it cannot be found out now (`unavailable`).
    """
    inode = filesystem.root
    try:
        for name in filter(None, path.split(b"/")):
            state = await filesystem.lookup(inode, name)
            if state is None:
                raise errors.NotFound
            inode = state.inode
    except (errors.NotFound, errors.NotDirectory) as error:
        raise Refused("not_found", f"there is no {shown(path)} in the drive") from error
    except errors.Unavailable as error:
        raise Refused("unavailable", str(error)) from error
    return inode


def shown(path: bytes) -> str:
    """A path for people."""
    return path.decode(errors="replace") or "the drive itself"
