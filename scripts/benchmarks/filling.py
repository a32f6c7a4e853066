"""Fills a drive through the API: a tree of many directories and files, and one wide directory.

Owns the shape of the tree. Files are empty: what is measured is names and attributes. Invariant: a directory is
committed before what is in it, so every batch can be accepted whole.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from benchmarks.direct import DirectDevice
from drivefs.protocol.changes import Create
from drivefs.protocol.ids import ID_RANGE_LENGTH, InodeId
from drivefs.protocol.messages import MAX_BATCH_MUTATIONS
from drivefs.protocol.model import InodeKind

FAN_OUT = 36
"""Directories in a directory: with 50,000 of them the tree is four levels deep."""
REPORT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Shape:
    """How many files in how many directories, and how many entries in the one wide directory."""

    file_count: int
    directory_count: int
    wide_count: int

    @property
    def inode_count(self) -> int:
        """All that is made, the wide directory included."""
        return self.directory_count + self.file_count + 1 + self.wide_count

    @property
    def name(self) -> str:
        """A name for a directory that keeps such a drive."""
        return f"drive-{self.file_count}-{self.directory_count}-{self.wide_count}"

    def files_in(self, directory: int) -> range:
        """The numbers of the files in a directory: evenly spread."""
        first = self.file_count * directory // self.directory_count
        return range(first, self.file_count * (directory + 1) // self.directory_count)


def tree(shape: Shape) -> Iterator[tuple[int | None, bytes, bool]]:
    """All that is made, in order: the number of the directory it is in (None: the top), its name, if it is a directory.

    Directories are numbered as they come.
    """
    yield None, b"tree", True
    for number in range(1, shape.directory_count):
        yield (number - 1) // FAN_OUT, b"directory-%06d" % number, True
    for number in range(shape.directory_count):
        for file in shape.files_in(number):
            yield number, b"file-%08d.txt" % file, False
    yield None, b"wide", True
    for file in range(shape.wide_count):
        yield shape.directory_count, b"entry-%08d.dat" % file, False


class Filler:
    """Makes one drive."""

    def __init__(self, device: DirectDevice, shape: Shape, say: Callable[[str], None]) -> None:
        self._device = device
        self._shape = shape
        self._say = say
        self._free: Iterator[int] = iter(())
        self._time_ns = time.time_ns()

    def fill(self) -> float:
        """Commit everything; gives the seconds it took."""
        begin = said = time.monotonic()
        made, everything = 0, self._everything()
        while batch := list(islice(everything, MAX_BATCH_MUTATIONS)):
            self._device.commit(batch)
            made += len(batch)
            if time.monotonic() - said > REPORT_SECONDS:
                said = time.monotonic()
                self._say(f"{made} of {self._shape.inode_count} made, {made / (said - begin):.0f} each second")
        return time.monotonic() - begin

    def _everything(self) -> Iterator[Create]:
        directories: list[InodeId] = []
        for parent, name, is_directory in tree(self._shape):
            inode = self._new_id()
            above = self._device.root if parent is None else directories[parent]
            if is_directory:
                directories.append(inode)
            yield self._create(inode, above, name, InodeKind.DIRECTORY if is_directory else InodeKind.FILE)

    def _create(self, inode: InodeId, parent: InodeId, name: bytes, kind: InodeKind) -> Create:
        mode = 0o755 if kind is InodeKind.DIRECTORY else 0o644
        n = self._device.next_n()
        return Create(n=n, time_ns=self._time_ns, inode=inode, parent=parent, name=name, kind=kind, mode=mode)

    def _new_id(self) -> InodeId:
        found = next(self._free, None)
        if found is None:
            start = self._device.id_range()
            self._free = iter(range(start, start + ID_RANGE_LENGTH))
            found = next(self._free)
        return InodeId(found)
