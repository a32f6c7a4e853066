"""I9: a conflict copy is made only of what two devices changed without knowing of each other.

Owns the judgement. A copy carries a mark that says against which revision of which inode it lost. Both contents are in
the ledger, with those that their writers were shown and wrote over: neither may be one of those that led to the other,
and they may not be the same. A drive that one device alone changes has no conflict copies at all.

Not judged is a copy whose opponent has no content any more that is known here, one of a file that was brought back
for an edit, which went elsewhere before it was sent, and a file that stepped aside with the content that another device
gave it: both devices gave one name to something, whatever the contents are.
"""

from drivefs.protocol.conflicts import decode_mark
from tests.simulation.ledger import Ledger
from tests.simulation.sequence import Marked, Sequence


def look_for_needless(
    sequence: Sequence, contents: dict[bytes, bytes], ledger: Ledger, *, is_alone: bool
) -> str | None:
    """What is wrong with the conflict copies of a run, or None."""
    for marked in sequence.marked:
        mark = decode_mark(marked.value)
        if is_alone:
            return f"{mark.device} is alone, and made a conflict copy of {mark.name!r} in commit {marked.seq}"
        copy, other = _content_of_copy(sequence, contents, marked), _content_of_other(sequence, contents, marked)
        if not copy or not other or (_stayed(sequence, marked) and not ledger.is_by(mark.device, copy)):
            continue
        if copy == other:
            return f"the conflict copy of {mark.name!r} in commit {marked.seq} has the same content: {copy[:60]!r}"
        for earlier, later in ((copy, other), (other, copy)):
            if ledger.led_to(earlier, later):
                return (
                    f"{mark.device} made a conflict copy of {mark.name!r} in commit {marked.seq}: {copy[:60]!r} against"
                    f" {other[:60]!r}, but who wrote {later[:60]!r} had been shown {earlier[:60]!r}"
                )
    return None


def _content_of_copy(sequence: Sequence, contents: dict[bytes, bytes], marked: Marked) -> bytes:
    """The first content of a copy: it may come after the mark, and behind what was there when it was brought back."""
    for seq in range(marked.seq, sequence.seq + 1):
        known = sequence.trees[seq].inodes.get(marked.inode)
        if known is not None and known.blocks not in (b"", marked.before):
            return contents.get(known.blocks, b"")
    return b""


def _stayed(sequence: Sequence, marked: Marked) -> bool:
    """Whether the commit with the mark left the content of the inode as it was."""
    before, now = (sequence.trees[seq].inodes.get(marked.inode) for seq in (marked.seq - 1, marked.seq))
    return before is not None and now is not None and before.blocks == now.blocks


def _content_of_other(sequence: Sequence, contents: dict[bytes, bytes], marked: Marked) -> bytes:
    """What it lost against: the revision in the mark, or what the inode had when the copy was made."""
    mark, tree = decode_mark(marked.value), sequence.trees[marked.seq]
    stored = sequence.stored.get((mark.of, mark.their_revision))
    if stored is None and not mark.their_revision and mark.of in tree.inodes:
        stored = tree.inodes[mark.of].blocks
    return contents.get(stored or b"", b"")
