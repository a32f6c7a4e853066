"""How results are shown: JSON for programs, sizes, times and words for people.

Owns no decision about what is shown. Results go to standard output, everything else to standard error. Invariant: no
name of a file, user, device or share, which others may have chosen, says anything to a terminal but how it is written.
"""

import json
import sys
from typing import Any

from drivefs.protocol.names import is_text, printable


def print_json(value: Any) -> None:
    """Print one JSON value on standard output, and nothing else.

    It is UTF-8 whatever names there are: bytes of names that are not are escapes of lone surrogates.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    print(text if is_text(text) else json.dumps(value, indent=2))


def tell(*lines: str) -> None:
    """Print lines of the result for people."""
    for line in lines:
        print(printable(line))


def say(message: str) -> None:
    """Tell the user something beside the result, in one line."""
    print(f"drivefs: {printable(message)}", file=sys.stderr)


def clause(error: BaseException | str) -> str:
    """An error's sentence without its full stop, to be put into one of ours."""
    return str(error).rstrip(".")


def in_units(size_bytes: float) -> str:
    """Write a size for people: three digits and a unit of 1024."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1000 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def count_of(number: int, noun: str) -> str:
    """Write a count with its noun: `1 change`, `2 changes`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def ignored_in_words(count: int) -> str:
    """Write how much is ignored, of whatever kind."""
    return "1 ignored file or directory" if count == 1 else f"{count:,} ignored files and directories"


def pending_in_words(mutations: int, size_bytes: int) -> str:
    """Say how much the server does not have yet."""
    if not mutations:
        return "nothing"
    return f"{count_of(mutations, 'change')} ({in_units(size_bytes)} of content)"


def upload_in_words(upload: dict[str, Any]) -> str:
    """Say what is on its way, how far it is and from where."""
    where = upload["path"] or f"{upload['name']}, in a directory not known here yet"
    part = 100 * upload["sent"] // upload["size"] if upload["size"] else 100
    sender = f" from {upload['device']}" if upload.get("device") else ""
    since = upload.get("stalled_since_ns")
    stalled = f"; nothing heard of it since {time_in_words(since)}" if since else ""
    return f"{where}: {in_units(upload['sent'])} of {in_units(upload['size'])} ({part} %){sender}{stalled}"


def time_in_words(time_ns: int) -> str:
    """Write a moment for people, in local time."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(time_ns / 1e9, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
