"""Taking one framed body of blocks in: portion by portion, several at work while more arrive.

Owns the flow and its bounds; sealing is `sealing`'s, recording `blocks`'. Invariants: an upload holds at most one
portion and one incomplete frame besides those that are being written, of which there is a bounded number over all
uploads; whoever sends faster has to wait.
"""

import logging
from collections.abc import AsyncIterator

import anyio
import anyio.abc

from backend.metadata.sqlite import Database
from backend.service import block_rows
from backend.service.sealing import Sealer
from drivefs.protocol import blocks as codec
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ground import Offload
from drivefs.protocol.ids import BlockId
from drivefs.protocol.messages import MAX_BLOCKS_PER_REQUEST

log = logging.getLogger(__name__)

PORTION_BYTES = 4 * 2**20
"""How much is verified, sealed and written by one thread at a time."""
MAX_WRITES_AT_ONCE = 4
"""Portions, of all uploads together, that are written side by side, so that their syncs overlap."""


class Disconnected(Exception):
    """The device went away before its body had ended."""


class Intake:
    """One upload; `written` and `known` tell what it has brought."""

    def __init__(self, sealer: Sealer, database: Database, offload: Offload, writing: anyio.Semaphore) -> None:
        self.written: list[block_rows.StoredBlock] = []
        self.known: set[BlockId] = set()
        self.frame_count = 0
        self._sealer = sealer
        self._database = database
        self._offload = offload
        self._writing = writing
        self._seen: set[BlockId] = set()
        self._portion: list[codec.Frame] = []
        self._portion_bytes = 0
        self._failure: ProtocolError | Disconnected | None = None

    async def receive(self, body: AsyncIterator[bytes]) -> None:
        """Take the body in to its end; `written` holds what is in the store then, also after a failure.

        Raises:
            ProtocolError: `block_invalid`, `too_large`, `unavailable`.
            Disconnected: the body broke off.
        """
        async with anyio.create_task_group() as tasks:
            try:
                await self._take_apart(body, tasks)
            except (ProtocolError, Disconnected) as error:
                self._failure = self._failure or error
            await self._start(tasks)
        if self._failure is not None:
            raise self._failure

    async def _take_apart(self, body: AsyncIterator[bytes], tasks: anyio.abc.TaskGroup) -> None:
        reader = codec.FrameReader()
        async for data in body:
            for frame in reader.feed(data):
                self._take(frame)
                if self._portion_bytes >= PORTION_BYTES:
                    await self._start(tasks)
            if self._failure is not None:
                return
        reader.close()

    def _take(self, frame: codec.Frame) -> None:
        if frame.payload is None:
            raise ProtocolError(Code.BLOCK_INVALID, "A block was announced and not sent.")
        self.frame_count += 1
        if frame.block in self._seen:
            return
        self._seen.add(frame.block)
        if len(self._seen) > MAX_BLOCKS_PER_REQUEST:
            raise ProtocolError(Code.TOO_LARGE, f"One request carries at most {MAX_BLOCKS_PER_REQUEST} blocks.")
        self._portion.append(frame)
        self._portion_bytes += len(frame.payload)

    async def _start(self, tasks: anyio.abc.TaskGroup) -> None:
        portion, self._portion, self._portion_bytes = self._portion, [], 0
        if portion:
            # Returns when the write has its place: that is what slows the sender down.
            await tasks.start(self._write, portion)

    async def _write(self, portion: list[codec.Frame], *, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with self._writing:
            task_status.started()
            try:
                ids = [frame.block for frame in portion]
                known = await self._database.read(block_rows.known_blocks, self._sealer.account, ids)
                self.written += await self._offload(self._sealer.write, portion, known)
                self.known.update(block for block, each in known.items() if each.is_here)
            except ProtocolError as error:
                self._failure = self._failure or error
            except OSError as error:
                self._failure = self._failure or unavailable(error)


def unavailable(error: OSError) -> ProtocolError:
    """What a device is told when the store cannot take its blocks."""
    log.error("a block could not be stored: %s", error)
    return ProtocolError(
        Code.UNAVAILABLE,
        f"The server cannot store blocks now ({error.strerror}). Nothing that it acknowledged is affected; "
        "the upload goes on when it can.",
    )
