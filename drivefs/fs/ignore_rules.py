"""Ignore rules: which paths stay on the device, by what a `.drivefsignore` says; pure.

Owns the meaning of the rules: gitignore's, as pathspec reads them, relative to the directory of the file. The device's
own patterns, for the temporary files of editors and office programs, come before those of the drive, so that these can
take them back with `!`; they mean files only, never a directory that somebody may have called so.

A share brings rules that somebody else wrote, so none may take long, whatever it says: a part of a pattern that more
wildcards follow is found at its first place, and not looked for again (`_steady`).
"""

import os
import re
from collections.abc import Sequence
from functools import cached_property

import pathspec
from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

NAME = b".drivefsignore"
MAX_BYTES = 2**15
"""More than this is not read as rules: it would take seconds, where somebody means it to."""
MAX_LINE = 4096
"""A line that is longer than any path is none: a second's work, where it is made of wildcards."""
MOST_LINES = 2000
"""Lines after these are not read either: each takes a tenth of a millisecond."""
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

_UNREADABLE = (ValueError, re.error, RecursionError, OverflowError)
"""What pathspec, and `re` below it, raise for a line that is no pattern."""

# How pathspec writes wildcards as regular expressions.
_STAR, _DEEP_START, _DEEP = "[^/]*", "^(?:.+/)?", "(?:/.+)?"
_ONE = r"(?:\\.|\[\^?\]?(?:\\.|[^\]\\])*\](?![*+])|[^\\\[\](){}.*+?|^$/])"
_STARS = re.compile(r"(?:\[\^/\]\*){2,}")
_BETWEEN_STARS = re.compile(rf"\[\^/\]\*({_ONE}+)(?=\[\^/\]\*)", re.DOTALL)


class Temporary:
    """The device's own patterns: they mean names of files, wherever these are."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._of_files = pathspec.GitIgnoreSpec.from_lines(patterns)

    def has(self, name: bytes) -> bool:
        """Whether a file of that name stays on the device where nothing else is said."""
        return bool(self._of_files.match_file(os.fsdecode(name)))


class Rules:
    """What one `.drivefsignore` says; its lines are read when it is asked first, since most files never are."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    @cached_property
    def _spec(self) -> pathspec.GitIgnoreSpec:
        lines = self.text[:MAX_BYTES].decode(errors="surrogateescape").splitlines()[:MOST_LINES]
        return pathspec.GitIgnoreSpec(_readable(lines), backend="simple")

    def say(self, path: bytes, *, is_directory: bool) -> bool | None:
        """Whether something with this path, relative to the file's directory, stays here; None: nothing is said."""
        text = os.fsdecode(path)
        return self._spec.check_file(text + "/" if is_directory else text).include


def is_pattern(line: str) -> bool:
    """Whether a line can be read as a pattern, be it one that says nothing, such as a comment."""
    try:
        _read(line)
    except _UNREADABLE:
        return False
    return True


def _readable(lines: Sequence[str]) -> list[GitIgnoreSpecPattern]:
    """The lines that are patterns; one that is none is as if it were not there, as git has it."""
    found = []
    for line in lines:
        if len(line) > MAX_LINE:
            continue
        try:
            pattern = _read(line)
        except _UNREADABLE:
            continue
        if pattern is not None:
            found.append(pattern)
    return found


def _read(line: str) -> GitIgnoreSpecPattern | None:
    """The pattern that a line is; None if it says nothing. Raises one of `_UNREADABLE`."""
    expression, is_kept = GitIgnoreSpecPattern.pattern_to_regex(line)
    if expression is None or is_kept is None:
        return None
    return GitIgnoreSpecPattern(re.compile(_steady(expression)), is_kept)


def _steady(expression: str) -> str:
    """The same expression, of which no part is tried at a later place than the first where another wildcard follows."""
    expression = _BETWEEN_STARS.sub(r"(?>[^/]*?\1)", _STARS.sub(lambda _: _STAR, expression))
    first, *others = expression.split(_DEEP)
    if not others:
        return expression
    if first.startswith(_DEEP_START):
        first = f"^(?>(?:.+?/)??{first.removeprefix(_DEEP_START)}(?=/))"
    between = "".join(f"(?>(?:/.+?)??{part}(?=/))" for part in others[:-1])
    return f"{first}{between}{_DEEP}{others[-1]}"
