"""The shape of a safety step in the tables of them."""

from typing import NamedTuple


class Weakening(NamedTuple):
    """A step: where it stands, without it, and who notices."""

    name: str
    path: str
    step: str
    without: str
    tests: str
