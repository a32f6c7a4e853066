"""The table of safety steps fits the code: each step stands where it says, once, and its tests exist."""

import pytest

from tests.gate import ROOT
from tests.weakenings.table import WEAKENINGS
from tests.weakenings.weakening import Weakening


@pytest.mark.parametrize("row", WEAKENINGS, ids=lambda row: row.name)
def test_the_step_stands_where_the_table_says(row: Weakening) -> None:
    assert (ROOT / row.path).read_text().count(row.step) == 1
    assert row.without != row.step
    for test in row.tests.split():
        assert (ROOT / test.partition("::")[0]).exists()


def test_no_step_is_there_twice() -> None:
    assert len({row.name for row in WEAKENINGS}) == len(WEAKENINGS) >= 20
