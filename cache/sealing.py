"""Checksums of rows and of written bytes: XXH3-64, as a signed number that fits a column.

Owns how a digest is computed, nothing else. It tells rot from truth; it is no protection against forgery.
"""

import struct
from typing import Any

import xxhash

_NUMBERS = [struct.Struct(f">{count}q") for count in range(8)]


def digest(data: bytes | memoryview) -> int:
    """The checksum of some bytes."""
    return xxhash.xxh3_64_intdigest(data) - 2**63


def row_digest(data: bytes, *numbers: int) -> int:
    """The checksum of a row: its numbers, each a signed 64-bit one, and its bytes."""
    return xxhash.xxh3_64_intdigest(_NUMBERS[len(numbers)].pack(*numbers) + data) - 2**63


def is_sealed(found: object, data: Any, *numbers: Any) -> bool:
    """Whether the checksum that a row has is that of its numbers and bytes. A value of another type was not written."""
    try:
        return row_digest(data, *numbers) == found
    except (TypeError, struct.error):
        return False
