"""Parts of a content that a request may ask for by HTTP's `Range` (RFC 9110, section 14); pure.

Owns which bytes are meant, and in which blocks they are. One range of bytes is served; to any other wish the answer is
the whole content, as the specification allows.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from drivefs.protocol.ids import BlockId
from drivefs.protocol.model import BlockRef

_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", re.ASCII | re.IGNORECASE)


class Part(NamedTuple):
    """Bytes from `start` on, up to `end`, which is none of them."""

    start: int
    end: int


NOTHING = Part(0, 0)
"""What is asked for lies behind the end."""


def asked(header: str | None, size: int) -> Part | None:
    """Which bytes of a content of this size a header asks for; None: all of it."""
    found = _RANGE.fullmatch(header or "")
    if found is None or not (found[1] or found[2]) or not size:
        return None
    if not found[1]:
        part = Part(max(0, size - int(found[2])), size)
    else:
        part = Part(int(found[1]), min(size, int(found[2]) + 1) if found[2] else size)
        if found[2] and int(found[2]) < int(found[1]):
            return None
    return part if part.start < part.end else NOTHING


def covering(blocks: Sequence[BlockRef], part: Part) -> tuple[list[BlockId], int]:
    """The blocks that have a part, and how many bytes of the first come before it."""
    found, before, place = list[BlockId](), 0, 0
    for ref in blocks:
        if place < part.end and place + ref.size_bytes > part.start:
            if not found:
                before = part.start - place
            found.append(ref.block)
        place += ref.size_bytes
    return found, before
