"""Ignore rules: which paths stay on the device, by `.drivefsignore` at the root of the drive; pure.

Owns the meaning of the rules: gitignore's, as pathspec reads them, relative to the root. The device's own patterns, for
the temporary files of editors and office programs, come before those of the drive, so that these can take them back
with `!`; they mean files only, never a directory that somebody may have called so.
"""

import os
from collections.abc import Sequence

import pathspec

NAME = b".drivefsignore"
MAX_BYTES = 2**20
"""More than this is not read as rules."""
TEMPORARY = (
    "~$*",  # Microsoft Office: who has a document open
    "~*.tmp",
    ".~lock.*#",  # LibreOffice
    ".*.sw[a-p]",  # vim
    ".*.un~",
    "*~",  # backups of many editors
    r"\#*#",  # Emacs
    ".#*",
    ".*.kate-swp",
    ".goutputstream-*",  # programs of GNOME, until they rename it
    ".DS_Store",
    "Thumbs.db",
    "desktop.ini",
)
"""What an editor, an office program or a file manager leaves beside the files that people mean."""


class Rules:
    """The rules of one device at one time."""

    def __init__(self, temporary: Sequence[str], text: bytes) -> None:
        """`temporary` are the device's own patterns, `text` is what `.drivefsignore` says."""
        lines = text[:MAX_BYTES].decode(errors="surrogateescape").splitlines()
        self._of_files = pathspec.GitIgnoreSpec.from_lines(temporary)
        own = _readable(lines)
        self._of_drive = pathspec.GitIgnoreSpec.from_lines(own)
        self.needs_paths = bool(own)
        """Whether it matters where in the drive a name is."""

    def keep_here(self, path: bytes, *, is_directory: bool) -> bool:
        """Whether something with this path, relative to the root, stays on the device.

        Where the drive's rules do not need paths, its name alone is enough.
        """
        if path == NAME:
            return False
        text = os.fsdecode(path)
        if self.needs_paths:
            said = self._of_drive.check_file(text + "/" if is_directory else text).include
            if said is not None:
                return said
        return not is_directory and bool(self._of_files.match_file(text.rpartition("/")[2]))


def _readable(lines: Sequence[str]) -> list[str]:
    """The lines that are patterns; one that is none is as if it were not there, as git has it."""
    found = []
    for line in lines:
        try:
            spec = pathspec.GitIgnoreSpec.from_lines([line])
        except ValueError:
            continue
        if any(pattern.include is not None for pattern in spec.patterns):
            found.append(line)
    return found
