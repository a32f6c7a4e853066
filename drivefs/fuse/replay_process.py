"""The player's process: started, asked, and ended, whatever state it is in.

Owns the process and its place on the stage. Invariants: it is on the stage from before it can make its first call until
it is known to have exited, and is reaped only after that, so that nobody else has its number while it is there; every
answer has a deadline.
"""

import marshal
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import trio

from drivefs.fuse.replay_player import HEADER
from drivefs.fuse.replay_stage import NOBODY, Stage
from drivefs.protocol.ground import Offload

PROGRAM = Path(__file__).with_name("replay_player.py")
ANSWER_SECONDS = 5.0
READ_BYTES = 65536


class Lost(Exception):
    """The player did not answer in time, or has ended."""


class PlayerProcess:
    """One player, from its start to its end."""

    def __init__(self, stage: Stage, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stage = stage
        self._process = process
        self._orders = trio.lowlevel.FdStream(os.dup(process.stdin.fileno()))
        self._answers = trio.lowlevel.FdStream(os.dup(process.stdout.fileno()))
        # The last that may fail: a number is not closed by itself.
        self._ended = os.pidfd_open(process.pid)
        process.stdin.close()
        process.stdout.close()
        self._received = bytearray()

    @classmethod
    async def start(cls, stage: Stage, offload: Offload, mountpoint: str, device: int) -> "PlayerProcess":
        """Start a player for the mount of a device at a mountpoint; cancellation ends what was started.

        Raises:
            Lost: it cannot be started.
        """
        command = [sys.executable, "-I", "-S", str(PROGRAM), mountpoint, str(device)]
        try:
            process = await offload(_start, command)
        except OSError as error:
            raise Lost(f"it cannot be started: {error}") from error
        stage.player = process.pid
        try:
            return cls(stage, process)
        except OSError as error:
            process.kill()
            with trio.CancelScope(shield=True):
                await offload(process.communicate)
            stage.player = NOBODY
            raise Lost(f"it cannot be started: {error}") from error

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    async def ask(self, call: str, *arguments: Any) -> Any:
        """Give an order, and what came of it.

        Raises:
            OSError: the player's call failed so.
            Lost: no answer came. Nothing is known of what was done, and the player is of no more use.
        """
        body = marshal.dumps((call, *arguments))
        try:
            with trio.fail_after(ANSWER_SECONDS):
                await self._orders.send_all(HEADER.pack(len(body)) + body)
                (length,) = HEADER.unpack(await self._read(HEADER.size))
                is_done, value = marshal.loads(await self._read(length))
        except trio.TooSlowError as error:
            raise Lost(f"no answer within {ANSWER_SECONDS:.0f} s") from error
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise Lost("it has ended") from error
        if not is_done:
            raise OSError(value, os.strerror(value))
        return value

    async def _read(self, length: int) -> bytes:
        while len(self._received) < length:
            part = await self._answers.receive_some(READ_BYTES)
            if not part:
                raise trio.BrokenResourceError
            self._received += part
        read = bytes(self._received[:length])
        del self._received[:length]
        return read

    async def end(self) -> None:
        """End it, whatever it is doing, and return when it has ended.

        The kernel lets it go only when what it waits for is answered, a page that is being fetched for instance. Until
        then, and after a cancellation, it stays on the stage, where it can do nothing.
        """
        self._stage.scene = None
        self._process.kill()
        await self._orders.aclose()
        await self._answers.aclose()
        await trio.lowlevel.wait_readable(self._ended)
        self._stage.player = NOBODY
        self._process.wait()
        os.close(self._ended)


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/", bufsize=0
    )
