"""Two users with two devices each, who share and change at random, show the same in the end, and nothing is lost."""

from pathlib import Path

import pytest
import trio
import trio.testing

from tests.sync.sharing_voyage import voyage


@pytest.mark.parametrize(("seed", "steps", "is_stormy"), [(3, 40, False), (11, 60, True)])
def test_all_show_the_same_in_the_end(tmp_path: Path, seed: int, steps: int, is_stormy: bool) -> None:
    trio.run(voyage, tmp_path, seed, steps, is_stormy, clock=trio.testing.MockClock(autojump_threshold=0))
