"""Randomness of a run: independent streams that all come from one seed.

Each part of a simulation draws from a stream of its own, by name, so that another draw in one part (a fault more, a
retry less) leaves what the others draw as it was.
"""

import random

from blake3 import blake3


class Streams:
    """The streams of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def of(self, *names: object) -> random.Random:
        """The stream of this name, from its beginning."""
        text = "/".join([str(self.seed), *map(str, names)])
        return random.Random(blake3(text.encode()).digest())


class RandomBytes:
    """Bytes out of a stream, as `ground.RandomBytes` gives them."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def __call__(self, count: int) -> bytes:
        return self._chance.randbytes(count)
