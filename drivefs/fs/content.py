"""One file's content as this mount shows it: the blocks of a base revision, and layers of local changes over them.

Owns the in-memory form and how it is rebuilt from a draft's records. It reads no bytes and writes nothing.

Invariants: `layers` is empty if and only if there is no draft; it has two while something is frozen (the lower one is
what is frozen; it is never changed any more), else one. The block list is known or `refs` is None; its sizes sum up
to the size of the base.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from operator import attrgetter
from typing import Any, NamedTuple
from weakref import ref

from cache.drafts import DraftRow, Record
from cache.staging import StagedRange
from drivefs.fs.extents import Extent, Layer
from drivefs.protocol.changes import Base
from drivefs.protocol.ids import BlockId, InodeId
from drivefs.protocol.model import BlockRef, InodeState, unpack_blocks


class Staged(NamedTuple):
    """Source of extents whose bytes are in a staging file."""

    file: int


class Piece(NamedTuple):
    """`length` bytes of a block, from `offset` on."""

    block: BlockId
    offset: int
    length: int


class Basis(NamedTuple):
    """A revision that changes are made on: which, its size in bytes, and its block list as far as it is known."""

    base: Base
    size: int
    refs: list[BlockRef] | None

    def is_same(self, other: "Basis", *, by_number: bool) -> bool:
        """Whether this is the content that another one is; without `by_number`, one of two histories may be, too."""
        if (self.base, self.size) != (other.base, other.size):
            return False
        return by_number or None in (self.refs, other.refs) or self.refs == other.refs


def basis_of(state: InodeState) -> Basis:
    """The content of an inode without changes."""
    refs = None if state.blocks is None else unpack_blocks(state.blocks)
    return Basis(Base(revision=state.revision), state.size, refs)


class Content:
    """The content of one inode."""

    __slots__ = (
        "__weakref__",
        "base", "base_size", "draft_count", "ends_before",
        "fresh", "frozen", "frozen_inline_bytes", "handles", "held", "inline_bytes", "inode", "is_cut", "is_synced",
        "last_record", "layers", "offsets", "refs", "unverified", "writers", "written_bytes",
    )  # fmt: skip

    def __init__(self, inode: InodeId, basis: Basis) -> None:
        self.inode = inode
        self.base = basis.base
        self.base_size = basis.size
        """Bytes of the base."""
        self.refs: list[BlockRef] | None = None
        self.offsets: list[int] = [0]
        self.layers: list[Layer] = []
        self.inline_bytes = 0
        """Bytes in rows of the journal, those that were overwritten since too."""
        self.held: ref[object] | None = None
        """The snapshot of what was frozen last, as long as somebody has it."""
        self.frozen_inline_bytes = 0
        """How many of them were there when content was frozen last."""
        self.is_synced = False
        """Someone waits for the disk after writing to it, as databases do."""
        self.written_bytes = 0
        """Bytes written to the draft, overwritten ones too."""
        self.last_record = 0
        self.frozen = 0
        """The last record that the lower layer covers; 0: none, or nothing is frozen."""
        self.handles = 0
        self.writers = 0
        self.fresh = False
        """Created or truncated through a descriptor, and not published since."""
        self.is_cut = False
        """Made shorter, and not closed by all who may write since: what was there is lost."""
        self.ends_before: set[int] = set()
        """Where the kernel may take the end to be: sizes until another device changed them, since the file was opened,
        and where what was added at the present end instead would have ended."""
        self.unverified: list[tuple[StagedRange, int]] | None = None
        """Records of an earlier mount that were not read since, with their checksums, in order; None: not looked up."""
        self.draft_count = 0
        """How many drafts began: the number of the present one, or of the last."""
        if basis.refs is not None:
            self.know(basis.refs)

    def kept(self) -> tuple[Any, ...]:
        """All that it is now, for `become`; much cheaper than a copy. It goes on with another topmost layer."""
        now = _all_of(self)
        self.layers = [*(layer.copy() for layer in self.layers[:1]), *self.layers[1:]]
        return now

    def become(self, kept: tuple[Any, ...]) -> None:
        """Be as it was."""
        for name, value in zip(_NAMES, kept, strict=True):
            setattr(self, name, value)

    def know(self, refs: list[BlockRef]) -> None:
        """The block list of the base is known now."""
        self.refs = refs
        self.offsets = [0, *accumulate(ref.size_bytes for ref in refs)]
        self.base_size = self.offsets[-1]

    @property
    def basis(self) -> Basis:
        """The base, as something to make changes on."""
        return Basis(self.base, self.base_size, self.refs)

    def stand_on(self, basis: Basis) -> None:
        """Show another base; only of a content without changes."""
        self.base, self.base_size, self.refs, self.offsets = basis.base, basis.size, None, [0]
        if basis.refs is not None:
            self.know(basis.refs)

    @property
    def is_frozen(self) -> bool:
        """Whether some of the changes stay as they are, and later ones lie over them."""
        return len(self.layers) > 1

    @property
    def is_held(self) -> bool:
        """Whether somebody has a snapshot of what is frozen."""
        return self.held is not None and self.held() is not None

    @property
    def dirty_bytes(self) -> int:
        """Bytes in the layers."""
        return sum(layer.length for layer in self.layers)

    def block_at(self, offset: int) -> int:
        """The position of the base block that holds a byte, or of the last one before it."""
        return min(bisect_right(self.offsets, offset), len(self.offsets) - 1) - 1

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        """The parts of base blocks that make up a range of the base, in order."""
        refs, offsets = self.refs or [], self.offsets
        index = bisect_right(offsets, start) - 1
        while start < end and index < len(refs):
            last = min(end, offsets[index + 1])
            yield Piece(refs[index].block, start - offsets[index], last - start)
            start = last
            index += 1

    def begin_draft(self, base_size: int) -> None:
        """Local changes begin, over a base of so many bytes."""
        self.layers = [Layer(base_size)]
        self.inline_bytes = self.written_bytes = 0

    def freeze(self, size: int) -> None:
        """What there is of changes, with `size` the content's, stays as it is from now on; later ones lie over it."""
        self.thaw()
        self.layers.insert(0, Layer(size))
        self.frozen = self.last_record
        self.frozen_inline_bytes = self.inline_bytes

    def thaw(self) -> None:
        """Nothing is frozen any more: all changes are one layer over the base."""
        if self.is_frozen:
            lower = self.layers[1].copy()
            lower.cover(self.layers[0])
            self.layers = [lower]
        self.frozen = 0

    def replay(self, draft: DraftRow, records: Iterable[Record]) -> None:
        """Rebuild the layers from what the journal has."""
        self.begin_draft(draft.base_size)
        self.last_record = self.frozen = 0
        size = draft.base_size
        # What is sent may have no record: a file that is empty since a power cut took what was written.
        is_sent = bool(draft.frozen_op)
        for record in records:
            if is_sent and not self.is_frozen and record.id > draft.frozen:
                self.freeze(size)
            size = self._apply(record, size)
            self.last_record = record.id
        if is_sent and not self.is_frozen:
            self.freeze(size)

    def _apply(self, record: Record, size: int) -> int:
        """Apply one record to the topmost layer; gives the size after it."""
        self.written_bytes += record.length
        start, end = record.file_offset, record.file_offset + record.length
        if record.staged is None and not record.length:
            self.layers[0].truncate(start)
            return start
        if record.staged is not None:
            self.layers[0].write(Extent(start, end, Staged(record.staged.file), record.staged.offset))
        else:
            self.layers[0].write(Extent(start, end, record, 0))
            self.inline_bytes += record.length
        return max(size, end)

    def rebase(self, base: Base, refs: list[BlockRef], size: int) -> None:
        """The frozen layer, or all there is, has become the base revision `base`; the content has `size` bytes."""
        self.layers = self.layers[:-1]
        self.written_bytes = self.dirty_bytes
        self.inline_bytes = self.inline_bytes - self.frozen_inline_bytes if self.layers else 0
        self.base = base
        self.frozen = 0
        self.know(refs)
        if self.layers and not len(self.layers[0]) and self.layers[0].floor == self.base_size == size:
            self.layers = []


_NAMES = tuple(name for name in Content.__slots__ if name != "__weakref__")
_all_of = attrgetter(*_NAMES)
