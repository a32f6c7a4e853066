"""A blocking read that nothing will ever end is interrupted."""

import ctypes
import errno
import os
import signal
from collections.abc import Iterator

import pytest

from drivefs.fuse.unsticking import unsticking

LIBC = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def empty_pipe() -> Iterator[int]:
    ends = os.pipe()
    yield ends[0]
    for end in ends:
        os.close(end)


def read_as_libfuse_does(descriptor: int) -> int:
    """Read without Python's own way of going on after a signal; gives the errno."""
    assert LIBC.read(descriptor, ctypes.create_string_buffer(1), 1) == -1
    return ctypes.get_errno()


@pytest.mark.fault(70)
def test_a_stuck_read_comes_back(empty_pipe: int) -> None:
    with unsticking(0.01):
        for _ in range(3):
            assert read_as_libfuse_does(empty_pipe) == errno.EINTR


def test_what_stood_before_is_put_back() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with unsticking():
        assert signal.getsignal(signal.SIGALRM) != before
        assert signal.getitimer(signal.ITIMER_REAL)[1] > 0
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
