"""Reads a write-ahead log as SQLite's file format describes it, to tell a torn tail from rot.

Owns the format of the log: a header, then frames, each a page with a checksum that continues the one before. Both
sides keep what exists only once in such databases. Decides nothing and changes no log in place. A torn tail is what a
power cut leaves of frames that no sync covered. Without one, rot is a frame that does not verify although frames
written after it do: SQLite stops at the first bad frame, and would silently drop all commits behind it.

Source: https://www.sqlite.org/fileformat2.html, section 4.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_MAGIC = 0x377F0682
_BIG_ENDIAN_WORDS = 1
_FORMAT = 3007000
_ZEROS = bytes(2**18)

Sums = tuple[int, int]


class Frame(NamedTuple):
    """One frame: its page, the size of the database after a commit (else 0), its salts and its checksum as stored."""

    page: int
    commit_pages: int
    salts: tuple[int, int]
    stored: Sums
    body: bytes

    @property
    def summed(self) -> bytes:
        """What the checksum is of."""
        return struct.pack(">2I", self.page, self.commit_pages) + self.body


class Damage(NamedTuple):
    """Rot: the first frame that does not verify, and the end of what was written after it."""

    first_bad: int
    end: int
    lost_commits: int


def checksum(data: bytes, sums: Sums, *, big_endian: bool) -> Sums:
    """Continue the checksum of a log over `data`, whose length is a multiple of 8."""
    first, second = sums
    words = struct.unpack(f"{'>' if big_endian else '<'}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second


class Log:
    """An open log; `salts` are those of its present life: frames with others are leftovers."""

    def __init__(self, file: BinaryIO, page_bytes: int) -> None:
        self._file = file
        self._frame_bytes = FRAME_HEADER_BYTES + page_bytes
        self._page_bytes = page_bytes
        self.frame_count = self._count_frames()
        file.seek(0)
        header = file.read(HEADER_BYTES).ljust(HEADER_BYTES, b"\0")
        magic, _format, page, _sequence, *salts, first, second = _HEADER.unpack(header)
        self.big_endian = bool(magic & _BIG_ENDIAN_WORDS)
        self.header_sums = (first, second)
        self.header_is_good = (
            magic & ~_BIG_ENDIAN_WORDS == _MAGIC
            and page == page_bytes
            and checksum(header[:24], (0, 0), big_endian=self.big_endian) == self.header_sums
        )
        if not self.header_is_good:
            self.big_endian = False
        self.salts = (salts[0], salts[1]) if self.header_is_good else self._salts_of_frames()

    def _count_frames(self) -> int:
        """How many frames there are, without most of the zeros that a log has behind them from the start: no frames.

        One by one these took 30 ms at each start after a kill.
        """
        end = self._file.seek(0, 2)
        while end > HEADER_BYTES:
            start = max(HEADER_BYTES, end - len(_ZEROS))
            self._file.seek(start)
            if not _ZEROS.startswith(self._file.read(end - start)):
                break
            end = start
        return max(0, (end - HEADER_BYTES) // self._frame_bytes)

    def _salts_of_frames(self) -> tuple[int, int]:
        """What the header said, if it is damaged: the salts of the first frame."""
        return self.frame(0).salts if self.frame_count else (0, 0)

    def frame(self, index: int) -> Frame:
        """The frame at an index."""
        self._file.seek(HEADER_BYTES + index * self._frame_bytes)
        data = self._file.read(self._frame_bytes)
        page, commit_pages, salt, other_salt, first, second = _FRAME.unpack_from(data)
        return Frame(page, commit_pages, (salt, other_salt), (first, second), data[FRAME_HEADER_BYTES:])

    def raw(self, start: int, end: int) -> bytes:
        """The frames from `start` up to `end` as they are."""
        self._file.seek(HEADER_BYTES + start * self._frame_bytes)
        return self._file.read((end - start) * self._frame_bytes)

    def verify(self, start: int) -> Iterator[tuple[Frame, bool]]:
        """Frames from `start` on, and whether each belongs to this life and continues what the one before says."""
        sums = self.frame(start - 1).stored if start else self.header_sums
        for index in range(start, self.frame_count):
            frame = self.frame(index)
            is_good = frame.salts == self.salts and (
                checksum(frame.summed, sums, big_endian=self.big_endian) == frame.stored
            )
            yield frame, is_good
            sums = frame.stored

    def first_bad(self, start: int) -> int:
        """The first frame from `start` on that does not verify; the number of all if there is none."""
        verified = enumerate(self.verify(start), start=start)
        return next((index for index, (_frame, is_good) in verified if not is_good), self.frame_count)

    def find_damage(self, accepted: int, until: int | None = None) -> Damage | None:
        """Rot behind the first `accepted` frames, which SQLite took, and before `until`, or in all of it.

        None if there is nothing but a torn tail.
        """
        first_bad, end, lost_commits = None, accepted, 0
        for index, (frame, is_good) in enumerate(self.verify(accepted), start=accepted):
            if index == until:
                break
            if not is_good and first_bad is None:
                first_bad = index
            if is_good and frame.commit_pages:
                end = index + 1
                lost_commits += 1
        if self.frame_count and not self.header_is_good and end:
            return Damage(0, end, lost_commits)
        if first_bad is None or end <= first_bad:
            return None
        return Damage(first_bad, end, lost_commits)

    def mended(self, start: int, end: int) -> Iterator[bytes]:
        """A log of the frames from `start` up to `end`, its checksums made right: damaged pages stand as they are."""
        header = _HEADER.pack(
            _MAGIC | self.big_endian * _BIG_ENDIAN_WORDS, _FORMAT, self._page_bytes, 0, *self.salts, 0, 0
        )
        sums = checksum(header[:24], (0, 0), big_endian=self.big_endian)
        yield header[:24] + struct.pack(">2I", *sums)
        for index in range(start, end):
            frame = self.frame(index)
            sums = checksum(frame.summed, sums, big_endian=self.big_endian)
            yield _FRAME.pack(frame.page, frame.commit_pages, *self.salts, *sums) + frame.body
