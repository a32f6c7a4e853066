"""Which reads of a local file the event loop may do itself.

Owns the judgement of how soon the disk answers; knows nothing of blocks. Invariant: the loop waits for a disk that is
not prompt once in a thousand reads at most.
"""

import os

import trio

SHORT_READ_BYTES = 2**16
PROMPT_SECONDS = 0.002
DISTRUSTED_READS = 1_000
"""How many short reads go to threads after one for which the disk was not prompt."""


class PromptReads:
    """Reads on the event loop: what is in memory, and a little from the disk, as long as the disk answers soon.

    Handing a read to a thread costs more than a prompt disk takes. Once a disk was waited for too long, threads do the
    next reads.
    """

    def __init__(self) -> None:
        self._distrusted_reads = 0

    def read(self, fd: int, offset: int, length: int) -> bytearray | None:
        """The range, or None where a thread should read it."""
        data = bytearray(length)
        if _fills(fd, data, offset, os.RWF_NOWAIT):
            return data
        if length > SHORT_READ_BYTES:
            return None
        if self._distrusted_reads:
            self._distrusted_reads -= 1
            return None
        begun = trio.current_time()
        is_whole = _fills(fd, data, offset, 0)
        if trio.current_time() - begun > PROMPT_SECONDS:
            self._distrusted_reads = DISTRUSTED_READS
        return data if is_whole else None


def _fills(fd: int, data: bytearray, offset: int, flags: int) -> bool:
    try:
        return os.preadv(fd, [data], offset, flags) == len(data)
    except OSError:
        return False
