"""What may stand as a name in a directory: exact bytes, compared as bytes, never normalised.

Owns the rule, and how a name is written where a terminal reads it; translating a refusal into an errno is done where
the name came in.
"""

import re

MAX_NAME_BYTES = 255
MAX_TARGET_BYTES = 4095
MAX_XATTR_NAME_BYTES = 255
MAX_XATTR_VALUE_BYTES = 65536
MAX_XATTRS_TOTAL_BYTES = 65536
"""All names and values of one inode together, so that they always travel with its state."""

_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters, and those that end a line or turn its direction."""


def is_valid_name(name: bytes) -> bool:
    """Whether a directory entry may have this name: 1 to 255 bytes, no slash, no NUL, not `.` or `..`."""
    return 0 < len(name) <= MAX_NAME_BYTES and b"/" not in name and b"\0" not in name and name not in (b".", b"..")


def printable(text: str) -> str:
    """A text with names that somebody else may have chosen, as one line without what a terminal obeys.

    What the bytes of a name that is not UTF-8 became (lone surrogates) is left as it is.
    """
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)
