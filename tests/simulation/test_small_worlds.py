"""All histories of up to three changes, with a crash wherever one can be: none is drawn by chance, all are tried.

A history that begins as another one does has the same crash points until they part, and leaves the same bytes; so of
each only those of its last change are new. That needs no trust: disks are told apart by all their bytes, and equal ones
are recovered once. Two changes that leave the same in either order are tried in one order before a third; a crash
between them is among the histories of two, where both orders are tried.

With a server, the crashes are those of the device or of the server while the devices meet. One device's single changes
are tried here; those of two devices take minutes, and are marked so.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.simulation import worlds
from tests.simulation.histories import Alone, Start, first, memory, try_all
from tests.simulation.interception import small_sizes
from tests.simulation.worlds import CHANGES, Impossible


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    """A directory in memory, where there is one."""
    with memory() as place:
        yield place


@pytest.fixture(scope="module")
def start(base: Path) -> Start:
    """The first world, made once."""
    return first(base)


@pytest.mark.parametrize("first", list(CHANGES))
def test_one_device_shows_what_it_must_after_every_crash(start: Start, base: Path, first: str) -> None:
    alone = Alone(start, base / f"alone-{first}")

    async def run() -> int:
        skipped = 0
        for rest in itertools.chain.from_iterable(itertools.product(CHANGES, repeat=length) for length in (0, 1, 2)):
            kinds = (first, *rest)
            try:
                if len(kinds) == 3 and await alone.is_other_order(kinds[:2]):
                    skipped += 1
                else:
                    await alone.run(kinds)
            except Impossible:
                continue
        return skipped

    with small_sizes():
        skipped = trio.run(run)
    print(
        f"{first} first: {alone.history_count} histories, {alone.point_count} crash points, "
        f"{len(alone.recovered)} disks; {skipped} histories are tried in another order"
    )


@pytest.mark.parametrize("kind", list(CHANGES))
def test_what_one_device_did_arrives_whatever_crashes(start: Start, base: Path, kind: str) -> None:
    try_all(start, base / f"together-{kind}", [({"anna": (kind,)}, worlds.DEVICES)])
