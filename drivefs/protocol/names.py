"""What may stand as a name in a directory: exact bytes, compared as bytes, never normalised.

Owns the rule only; translating a refusal into an errno is done where the name came in.
"""

MAX_NAME_BYTES = 255
MAX_TARGET_BYTES = 4095
MAX_XATTR_NAME_BYTES = 255
MAX_XATTR_VALUE_BYTES = 65536
MAX_XATTRS_TOTAL_BYTES = 65536
"""All names and values of one inode together, so that they always travel with its state."""


def is_valid_name(name: bytes) -> bool:
    """Whether a directory entry may have this name: 1 to 255 bytes, no slash, no NUL, not `.` or `..`."""
    return 0 < len(name) <= MAX_NAME_BYTES and b"/" not in name and b"\0" not in name and name not in (b".", b"..")
