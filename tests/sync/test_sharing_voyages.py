"""Two users with two devices each, who share and change at random, show the same in the end."""

from pathlib import Path

import pytest
import trio

from tests.sync.sharing_voyage import voyage


@pytest.mark.parametrize("seed", [3, 11])
def test_all_show_the_same_in_the_end(tmp_path: Path, seed: int) -> None:
    trio.run(voyage, tmp_path, seed, 40)
