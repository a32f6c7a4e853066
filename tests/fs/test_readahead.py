"""How far ahead is fetched: for readers that go on, for those that jump, and never twice."""

from hypothesis import given
from hypothesis import strategies as st

from drivefs.fs.readahead import MOST_BLOCKS, NEAR_BYTES, RUN_BYTES, ReadState, after_read

MIB = 2**20
PIECE = 128 * 2**10


def read_all(offsets: list[int], size: int, *, block_bytes: int = MIB, length: int = PIECE) -> list[tuple[int, int]]:
    """What is fetched ahead when these offsets are read."""
    state, asked = ReadState(), []
    for offset in offsets:
        last_block = (offset + length - 1) // block_bytes
        state, first, end = after_read(
            state, offset, length, last_block=last_block, block_count=-(-size // block_bytes)
        )
        if end > first:
            asked.append((first, end))
    return asked


def test_a_sequential_reader_gets_a_window_that_doubles() -> None:
    asked = read_all(list(range(0, 8 * MIB, PIECE)), 1000 * MIB)
    assert asked[:4] == [(1, 2), (2, 4), (4, 7), (7, 13)]


def test_every_block_is_asked_for_once_and_up_to_the_end() -> None:
    asked = read_all(list(range(0, 100 * MIB, PIECE)), 100 * MIB)
    assert [block for first, end in asked for block in range(first, end)] == list(range(1, 100))


def test_the_window_is_bounded() -> None:
    for first, end in read_all(list(range(0, 200 * MIB, PIECE)), 1000 * MIB):
        assert end - first <= MOST_BLOCKS


def test_large_windows_are_asked_for_several_blocks_at_a_time() -> None:
    asked = read_all(list(range(0, 200 * MIB, PIECE)), 1000 * MIB)
    assert all(end - first >= MOST_BLOCKS // 2 for first, end in asked[6:])


def test_the_kernels_reads_may_arrive_slightly_out_of_order() -> None:
    offsets = list(range(0, 32 * MIB, PIECE))
    for position in range(0, len(offsets), 4):
        offsets[position : position + 4] = offsets[position : position + 4][::-1]
    asked = read_all(offsets, 32 * MIB)
    assert [block for first, end in asked for block in range(first, end)] == list(range(1, 32))


def test_random_reads_fetch_nothing_ahead() -> None:
    offsets = [(position * 7919 % 1000) * MIB + 4096 for position in range(1, 500)]
    assert read_all(offsets, 1000 * MIB, length=4096) == []


def test_a_reader_that_jumps_and_goes_on_is_sequential_again() -> None:
    start = 500 * MIB
    asked = read_all([0, *range(start, start + 4 * MIB, PIECE)], 1000 * MIB)
    assert asked[0] == (1, 2)
    assert asked[1] == (501, 502)


def test_a_single_read_in_the_middle_fetches_nothing_ahead() -> None:
    assert read_all([500 * MIB], 1000 * MIB) == []


def test_a_file_of_one_block_has_nothing_ahead() -> None:
    assert read_all([0], PIECE) == []


@given(st.lists(st.tuples(st.integers(0, 50 * MIB), st.integers(1, RUN_BYTES)), max_size=60))
def test_what_is_ahead_is_behind_the_read_and_within_the_file(reads: list[tuple[int, int]]) -> None:
    state = ReadState()
    for offset, length in reads:
        before = state
        last_block = (offset + length - 1) // MIB
        state, first, end = after_read(state, offset, length, last_block=last_block, block_count=51)
        if end > first:
            assert last_block < first < end <= min(51, last_block + 1 + MOST_BLOCKS)
            assert abs(offset - before.next_offset) <= NEAR_BYTES
