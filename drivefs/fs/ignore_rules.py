"""Ignore rules: which paths stay on the device, by what a `.drivefsignore` says; pure.

Owns the meaning of the rules: gitignore's, as pathspec reads them, relative to the directory of the file. The device's
own patterns, for the temporary files of editors and office programs, come before those of the drive, so that these can
take them back with `!`; they mean files only, never a directory that somebody may have called so.
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


class Temporary:
    """The device's own patterns: they mean names of files, wherever these are."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._of_files = pathspec.GitIgnoreSpec.from_lines(patterns)

    def has(self, name: bytes) -> bool:
        """Whether a file of that name stays on the device where nothing else is said."""
        return bool(self._of_files.match_file(os.fsdecode(name)))


class Rules:
    """What one `.drivefsignore` says."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        own = _readable(text[:MAX_BYTES].decode(errors="surrogateescape").splitlines())
        self._spec = pathspec.GitIgnoreSpec.from_lines(own)
        self.has_any = bool(own)

    def say(self, path: bytes, *, is_directory: bool) -> bool | None:
        """Whether something with this path, relative to the file's directory, stays here; None: nothing is said."""
        text = os.fsdecode(path)
        return self._spec.check_file(text + "/" if is_directory else text).include


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
