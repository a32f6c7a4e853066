"""How two files differ, as people read it: line by line where both are text of bearable length.

Owns the comparison; what is compared, the commands know.
"""

from pathlib import Path

from drivefs.cli import output

COMPARED_BYTES = 4 * 2**20
"""Longer files are only said to differ: comparing their lines would take minutes."""


def sentence_or_lines(old: Path, new: Path) -> str:
    """How two files differ, line by line or in one sentence."""
    found = lines(old, new, str(old), str(new))
    if found is not None:
        return found
    sizes = [f"{each} ({_size_in_words(each)})" for each in (old, new)]
    return f"{sizes[0]} and {sizes[1]} cannot be compared line by line\n"


def lines(old: Path, new: Path, old_name: str, new_name: str) -> str | None:
    """The unified diff of two texts, empty if they are the same; None: one is no text, too long or not there."""
    import difflib

    before, after = _content(old), _content(new)
    if before is None or after is None:
        return None
    found = difflib.unified_diff(_lines(before), _lines(after), old_name, new_name)
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
