"""Asks the kernel for more than libfuse knows of, by taking part in the first exchange on a new mount.

The kernel asks for `security.capability` before each write, unless the file system says that it clears set-user-ID by
itself: with `FUSE_HANDLE_KILLPRIV_V2` (Linux 5.11) it remembers of which files it has asked. libfuse 3.14 does not know
that flag. So for the first request its descriptor is one end of a pair: what the kernel sent goes through as it is, the
answer with the flag added. From then on the descriptor is the kernel's own.

Owns both descriptors meanwhile. Where the kernel does not offer the flag, nothing is changed. Source of the numbers:
include/uapi/linux/fuse.h.
"""

import os
import socket
import struct
from collections.abc import Callable

import trio

INIT = 26
HANDLE_KILLPRIV_V2 = 1 << 28
ANSWER_SECONDS = 10.0
MOST_BYTES = 2**20
OPCODE_AT, REQUEST_FLAGS_AT = 4, 40 + 12
ERROR_AT, ANSWER_FLAGS_AT = 4, 16 + 12
NUMBER = struct.Struct("=I")


def nothing_more() -> None:
    """What is to be done once the exchange is over: nothing."""


class Handshake:
    """The first exchange, in two steps: `step` is awaited each time before libfuse reads, until it is over.

    `answered` is called once the kernel has its answer, with which it sets its own limits for this mount.
    """

    def __init__(self, answered: Callable[[], None] = nothing_more) -> None:
        self.is_over = False
        self._answered = answered
        self._kernel = -1
        self._pair: socket.socket | None = None
        self._offers = False

    async def step(self, fd: int) -> None:
        """Have the first request ready for libfuse, or what comes after it.

        Raises:
            trio.TooSlowError: libfuse did not answer the request that it had read.
        """
        if self._pair is None:
            await trio.lowlevel.wait_readable(fd)
            try:
                self._divert(fd)
            except OSError:
                # It was unmounted already: libfuse finds that out for itself.
                self.is_over = True
            return
        try:
            with trio.fail_after(ANSWER_SECONDS):
                await trio.lowlevel.wait_readable(self._pair)
            answer = self._pair.recv(MOST_BYTES)
            os.write(self._kernel, with_flag(answer) if self._offers else answer)
            os.dup2(self._kernel, fd, inheritable=False)
        finally:
            os.close(self._kernel)
            self._pair.close()
        self.is_over = True
        self._answered()

    def _divert(self, fd: int) -> None:
        request = os.read(fd, MOST_BYTES)
        self._offers = offers(request)
        self._kernel = os.dup(fd)
        self._pair, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            os.dup2(theirs.fileno(), fd, inheritable=False)
        self._pair.send(request)


def offers(request: bytes) -> bool:
    """Whether a request is the first one of a connection, and offers the flag."""
    if len(request) < REQUEST_FLAGS_AT + NUMBER.size or _number(request, OPCODE_AT) != INIT:
        return False
    return bool(_number(request, REQUEST_FLAGS_AT) & HANDLE_KILLPRIV_V2)


def with_flag(answer: bytes) -> bytes:
    """The answer to a first request with the flag, unless it is an error, or too old to have flags."""
    if len(answer) < ANSWER_FLAGS_AT + NUMBER.size or _number(answer, ERROR_AT):
        return answer
    flags = NUMBER.pack(_number(answer, ANSWER_FLAGS_AT) | HANDLE_KILLPRIV_V2)
    return answer[:ANSWER_FLAGS_AT] + flags + answer[ANSWER_FLAGS_AT + NUMBER.size :]


def _number(message: bytes, at: int) -> int:
    found: int = NUMBER.unpack_from(message, at)[0]
    return found
