"""What a path on a mount leads to, as the mount knows it: its number there is its identity everywhere.

Owns the look at the mount, which may hang as any program's, and the refusal of what only shows other things.
"""

from pathlib import Path

from drivefs.cli.errors import CommandError
from drivefs.protocol.ids import MAX_ID


def inode_at(path: Path) -> int:
    """The identity of a file or directory.

    Raises:
        OSError: nothing is there.
        CommandError: it is in `.drivefs`.
    """
    inode = path.lstat().st_ino
    if inode > MAX_ID:
        raise CommandError(f"{path} only shows what is in the drive elsewhere: name that file or folder")
    return inode
