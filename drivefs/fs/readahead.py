"""How far ahead of a reader to fetch: a pure decision per handle, from where it has read so far.

Owns the window's rule; fetching is the caller's. A reader that goes on where it stopped is sequential, even when the
kernel hands in its reads slightly out of order; its window doubles from one block up to `MOST_BLOCKS`. One that jumps
gets nothing until it has gone on a little from the new place.
"""

from typing import NamedTuple

MOST_BLOCKS = 16
NEAR_BYTES = 2**20
"""How far off its expected place a read of a sequential reader may be: the kernel asks in parallel."""
RUN_BYTES = 256 * 2**10
"""How much is read in sequence from a new place before anything is fetched ahead; from a file's start, nothing."""


class ReadState(NamedTuple):
    """What is known of one handle: where its reading goes on, how much of it was in sequence, and how far ahead
    blocks were asked for (as a position in the list of blocks) with which window.
    """

    next_offset: int = 0
    run_bytes: int = RUN_BYTES
    window_blocks: int = 0
    asked_until: int = 0


class Ahead(NamedTuple):
    """The blocks to fetch ahead, as positions in the list: `first` up to, not including, `end`; often none."""

    state: ReadState
    first: int
    end: int


def after_read(state: ReadState, offset: int, length: int, *, last_block: int, block_count: int) -> Ahead:
    """Decide after a read of `length` bytes at `offset`, which ended in block `last_block` of `block_count`.

    The window is asked for anew when less than half of it lies ahead, so that requests carry several blocks.
    """
    end_offset = offset + length
    if not -NEAR_BYTES <= offset - state.next_offset <= NEAR_BYTES:
        return _nothing(ReadState(end_offset, length))
    next_offset = max(state.next_offset, end_offset)
    run_bytes = state.run_bytes + length
    state = state._replace(next_offset=next_offset, run_bytes=run_bytes)
    if run_bytes < RUN_BYTES or last_block + 1 >= block_count:
        return _nothing(state)
    lies_ahead = state.asked_until - (last_block + 1)
    if lies_ahead > state.window_blocks // 2:
        return _nothing(state)
    window = min(MOST_BLOCKS, max(1, 2 * state.window_blocks))
    first = max(last_block + 1, state.asked_until)
    until = min(block_count, last_block + 1 + window)
    if until <= first:
        return _nothing(state)
    return Ahead(state._replace(window_blocks=window, asked_until=until), first, until)


def _nothing(state: ReadState) -> Ahead:
    return Ahead(state, 0, 0)
