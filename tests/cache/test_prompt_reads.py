"""Short reads stay on the loop while the disk is prompt, and leave it when it is not."""

import os
from pathlib import Path

import pytest
import trio

from cache import prompt_reads
from cache.prompt_reads import DISTRUSTED_READS, SHORT_READ_BYTES, PromptReads

CONTENT = bytes(range(256)) * 1024


@pytest.fixture
def fd(tmp_path: Path) -> int:
    (tmp_path / "file").write_bytes(CONTENT)
    return os.open(tmp_path / "file", os.O_RDONLY)


@pytest.fixture
def nothing_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def cold(fd: int, buffers: list[bytearray], offset: int, flags: int) -> int:
        if flags:
            raise BlockingIOError
        return real(fd, buffers, offset)

    real = os.preadv
    monkeypatch.setattr(prompt_reads.os, "preadv", cold)


def seconds_of_a_read(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    moments = iter(range(10**9))
    monkeypatch.setattr(trio, "current_time", lambda: next(moments) * seconds)


def test_what_is_in_memory_is_read_whatever_its_length(fd: int) -> None:
    assert PromptReads().read(fd, 5, len(CONTENT) - 5) == CONTENT[5:]


@pytest.mark.usefixtures("nothing_is_in_memory")
def test_a_prompt_disk_is_waited_for_and_only_for_a_little(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds_of_a_read(monkeypatch, 0.0001)
    prompt = PromptReads()
    for _ in range(3):
        assert prompt.read(fd, 7, 4096) == CONTENT[7 : 7 + 4096]
    assert prompt.read(fd, 0, SHORT_READ_BYTES + 1) is None


@pytest.mark.usefixtures("nothing_is_in_memory")
def test_a_disk_that_was_slow_is_left_to_threads_for_a_while(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds_of_a_read(monkeypatch, 0.01)
    prompt = PromptReads()
    assert prompt.read(fd, 0, 4096) == CONTENT[:4096]
    assert [prompt.read(fd, 0, 4096) for _ in range(DISTRUSTED_READS)] == [None] * DISTRUSTED_READS
    assert prompt.read(fd, 0, 4096) == CONTENT[:4096]


@pytest.mark.usefixtures("nothing_is_in_memory")
def test_what_cannot_be_read_whole_is_for_others_to_judge(fd: int) -> None:
    async def read() -> bytearray | None:
        return PromptReads().read(fd, len(CONTENT) - 1, 4096)

    assert trio.run(read) is None
