"""What people are told of pins: why some of what is pinned is not here."""

from types import SimpleNamespace
from typing import Any

import pytest

from drivefs.cli import pin
from drivefs.control.pins import Pinning

MIB = 2**20


@pytest.mark.parametrize(
    ("lacking", "kept", "words"),
    [(0, 90, []), (20, 90, ["may", "pin_size"]), (20, 10, ["no room", "disk of the cache"])],
    ids=["none", "limit", "disk"],
)
def test_what_is_lacking_of_pins_is_told_with_its_reason(lacking: int, kept: int, words: list[str]) -> None:
    blocks = SimpleNamespace(protected_bytes=kept * MIB, protected_limit_bytes=100 * MIB)
    prefetcher = SimpleNamespace(lacking_bytes=lacking * MIB)
    stands: list[Any] = [SimpleNamespace(blocks=blocks), None, prefetcher]
    told = {"lacking_bytes": lacking * MIB, "kept_bytes": kept * MIB, "limit_bytes": 100 * MIB}
    for sentence in (Pinning(*stands).lacking(), pin._no_room(told)):
        assert bool(sentence) == bool(lacking)
        assert all(word in sentence for word in words)
