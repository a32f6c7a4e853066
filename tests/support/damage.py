"""Seeded damage of files, as disks, other programs and people do it: for tests that look what becomes of it.

Owns the kinds of damage; each is made by `random` alone, so that a seed makes the same again.
"""

import os
import random
import string
from collections.abc import Callable
from pathlib import Path

PAGE_BYTES = 2048
FUTURE = (99).to_bytes(4, "big")
USER_VERSION = 60
"""Where the version of its tables stands in a SQLite database."""

SENSELESS = ["", "null", "[]", "{", "-1", '"', "9" * 20, "\u2028", "nan", "true", "1979-05-27"]

Damage = Callable[[random.Random, bytes], bytes]


def flip_bits(chance: random.Random, data: bytes) -> bytes:
    found = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 8])):
        position = chance.randrange(len(found))
        found[position] ^= 1 << chance.randrange(8)
    return bytes(found)


def truncate(chance: random.Random, data: bytes) -> bytes:
    cut = chance.choice([0, chance.randrange(len(data)), len(data) // PAGE_BYTES // 2 * PAGE_BYTES, len(data) - 1])
    return data[:cut]


def _over_page(data: bytes, chance: random.Random, page: bytes) -> bytes:
    start = chance.randrange(-(-len(data) // PAGE_BYTES)) * PAGE_BYTES
    return (data[:start] + page + data[start + PAGE_BYTES :])[: max(len(data), start + len(page))]


def zero_page(chance: random.Random, data: bytes) -> bytes:
    return _over_page(data, chance, bytes(PAGE_BYTES))


def noise_page(chance: random.Random, data: bytes) -> bytes:
    return _over_page(data, chance, chance.randbytes(PAGE_BYTES))


def moved_page(chance: random.Random, data: bytes) -> bytes:
    """A page is written to the wrong place."""
    start = chance.randrange(-(-len(data) // PAGE_BYTES)) * PAGE_BYTES
    return _over_page(data, chance, data[start : start + PAGE_BYTES])


def zero_tail(chance: random.Random, data: bytes) -> bytes:
    cut = chance.randrange(len(data))
    return data[:cut] + bytes(len(data) - cut)


def garbage_behind(chance: random.Random, data: bytes) -> bytes:
    return data + chance.randbytes(chance.randrange(1, 5000))


def foreign(chance: random.Random, data: bytes) -> bytes:
    return chance.choice(
        [b"{}", b"not what you think\n" * 400, b"SQLite format 3\0" + bytes(4080), chance.randbytes(9000)]
    )


def future(chance: random.Random, data: bytes) -> bytes:
    return data[:USER_VERSION] + FUTURE + data[USER_VERSION + 4 :]


BYTES: list[Damage] = [
    flip_bits,
    flip_bits,
    truncate,
    zero_page,
    noise_page,
    moved_page,
    zero_tail,
    garbage_behind,
    foreign,
]


def damage(chance: random.Random, path: Path) -> str:
    """Damage one file; says how."""
    kind = chance.choice([*BYTES, "remove"])
    if path.name.endswith(".db") and chance.random() < 0.1:
        kind = future
    data = path.read_bytes()
    if kind == "remove" or not data:
        path.unlink()
        return f"{path.name} removed"
    assert callable(kind)
    path.write_bytes(kind(chance, data))
    os.chmod(path, chance.choice([0o600, 0o600, 0o600, 0o400, 0o644]))
    return f"{path.name}: {kind.__name__}"


def damage_text(chance: random.Random, text: str) -> str:
    """Settings as a person may leave them: words gone, doubled, exchanged, of other types."""
    words = text.split(" ")
    for _ in range(chance.randrange(1, 4)):
        place = chance.randrange(len(words))
        noise = "".join(chance.choices(string.printable, k=5))
        words[place] = chance.choice([words[place] * 2, chance.choice(words), noise, *SENSELESS])
    return " ".join(words)
