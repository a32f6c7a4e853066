"""How two files differ, as people read it: line by line where both are text of bearable length.

Owns the comparison; what is compared, the commands know.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drivefs.cli import output
from drivefs.cli.errors import CommandError
from drivefs.protocol.names import printable

COMPARED_BYTES = 4 * 2**20
"""Longer files are only said to differ: comparing their lines would take minutes."""


@contextmanager
def reading() -> Iterator[None]:
    """Around what compares files of a drive.

    Raises:
        CommandError: one of them cannot be read.
    """
    try:
        yield
    except OSError as error:
        raise CommandError(
            f"{error.filename} cannot be read now ({error.strerror}): what is not on this device comes from the "
            "server. Try again when it can be reached (drivefs status)"
        ) from error


def sentence_or_lines(old: Path, new: Path, old_name: str, new_name: str) -> str:
    """How two files differ, line by line or in one sentence."""
    old_name, new_name = printable(old_name), printable(new_name)
    found = lines(old, new, old_name, new_name)
    if found is None:
        return (
            f"{old_name}: {_size_in_words(old)}\n{new_name}: {_size_in_words(new)}\nno text to compare line by line\n"
        )
    return found or f"{old_name}\n{new_name}\nthe two are equal\n"


def lines(old: Path, new: Path, old_name: str, new_name: str) -> str | None:
    """The unified diff of two texts, empty if they are the same; None: one is no text, too long or not there."""
    import difflib

    before, after = _content(old), _content(new)
    if before is None or after is None:
        return None
    found = difflib.unified_diff(_lines(before), _lines(after), printable(old_name), printable(new_name))
    return "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in found)


def _lines(content: bytes) -> list[str]:
    return content.decode(errors="surrogateescape").splitlines(keepends=True)


def _content(path: Path) -> bytes | None:
    """The text of a file; None if it is none, or too long."""
    try:
        if path.is_symlink() or path.stat().st_size > COMPARED_BYTES:
            return None
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    return None if b"\0" in content else content


def _size_in_words(path: Path) -> str:
    try:
        return output.in_units(path.lstat().st_size)
    except FileNotFoundError:
        return "gone"
