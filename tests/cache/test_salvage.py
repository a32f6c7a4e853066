"""A journal that is made anew: what was given up, or given out, before it was damaged does not come back."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cache.database import PAGE_BYTES
from cache.pages import Image
from cache.workspace import LocalState
from tests.cache.states import Bench, create
from tests.cache.test_repair import mend, overwrite, pages_of, roots

TAKEN = 5000


def take_ops(local: LocalState) -> int:
    numbers = [local.journal.next_op() for _ in range(TAKEN)]
    return numbers[-1]


def take_files(local: LocalState) -> int:
    numbers = [local._take_number() for _ in range(TAKEN)]
    return numbers[-1]


@pytest.mark.parametrize(
    ("take", "again"),
    [(take_ops, lambda local: local.journal.next_op()), (take_files, lambda local: local._take_number())],
)
def test_numbers_go_on_far_behind_all_that_may_have_been_given_out(
    bench: Bench, local: LocalState, take: Callable[[LocalState], int], again: Callable[[LocalState], int]
) -> None:
    """And the server is to take what comes for that of another life, in which no number was used."""
    create(local.journal, b"file")
    last = take(local)
    for fact in ("nonce", "next_nonce"):
        local.journal.set_meta(fact, b"n" * 16)
    bench.close(local)
    path = bench.places()[0] / "journal.db"
    overwrite(path, pages_of(path, "counters")[0])
    assert mend(bench).found
    local = bench.open()
    assert again(local) > last
    assert [local.journal.meta(fact) for fact in ("nonce", "next_nonce")] == [None, None]


def test_what_was_settled_and_lies_in_a_page_that_is_free_is_not_sent_again(bench: Bench, local: LocalState) -> None:
    numbers = [create(local.journal, b"%d" % number)[1] for number in range(100)]
    bench.close(local)
    local = bench.open()
    for n in numbers[:60]:
        local.journal.remove(n)
    bench.close(local)
    path = bench.places()[0] / "journal.db"
    image = Image(path, PAGE_BYTES)
    lying = {number: image.cells(number)[1] for number in image.free_pages() or () if is_leaf(path, number)}
    assert any(cell.row[0] in numbers[:60] for cells in lying.values() for cell in cells), "else this tells nothing"
    overwrite(path, roots(path)["mutations"])
    assert mend(bench).found
    local = bench.open()
    assert {row.n for row in local.journal.unsettled(1000)} == set(numbers[60:])


def is_leaf(path: Path, page: int) -> bool:
    """Whether a page is still what it was: a leaf of a table."""
    return path.read_bytes()[(page - 1) * PAGE_BYTES] == 13
