"""What may stand as a name in a directory: exact bytes, compared as bytes, never normalised.

Owns the rule, how a name is written where a terminal reads it, and how another is made of it; translating a refusal
into an errno is done where the name came in.
"""

import re

MAX_NAME_BYTES = 255
MAX_EXTENSION_BYTES = 16
"""What is longer behind a dot is no extension."""
MAX_TARGET_BYTES = 4095
MAX_XATTR_NAME_BYTES = 255
MAX_XATTR_VALUE_BYTES = 65536
MAX_XATTRS_TOTAL_BYTES = 65536
"""All names and values of one inode together, so that they always travel with its state."""

MEANT_OTHERWISE = frozenset({b".drivefs", b".drivefsignore"})
"""Names that mean something to a mount at the top of a drive: what others share is not to come there under one."""

_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters, and those that end a line or turn its direction."""


def is_valid_name(name: bytes) -> bool:
    """Whether a directory entry may have this name: 1 to 255 bytes, no slash, no NUL, not `.` or `..`."""
    return 0 < len(name) <= MAX_NAME_BYTES and b"/" not in name and b"\0" not in name and name not in (b".", b"..")


def is_text(text: str) -> bool:
    """Whether UTF-8 can say it: what the bytes of other names became cannot be."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    """A text with names that somebody else may have chosen, as one line without what a terminal obeys.

    What the bytes of a name that is not UTF-8 became (lone surrogates) is left as it is.
    """
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


def with_mark(name: bytes, mark: bytes, most_bytes: int = MAX_NAME_BYTES) -> bytes:
    """A name with a mark before its extension; what is then too long is cut from its stem.

    `mark` has 160 bytes at most, `most_bytes` is 200 at least.
    """
    stem, dot, extension = name.rpartition(b".")
    if not stem or len(extension) > MAX_EXTENSION_BYTES:
        stem, dot, extension = name, b"", b""
    return cut_between_letters(stem, most_bytes - len(mark) - len(dot) - len(extension)) + mark + dot + extension


def cut_between_letters(text: bytes, size_bytes: int) -> bytes:
    """The first bytes of a text, without a part of a letter of UTF-8 at their end, which has four bytes at most."""
    end = size_bytes
    while end < len(text) and size_bytes - end < 3 and text[end] & 0xC0 == 0x80:
        end -= 1
    return text[:end]
