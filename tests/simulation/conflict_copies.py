"""I9: a conflict copy is made only of what two devices changed without knowing of each other.

Owns the judgement. A copy carries a mark that says against which revision of which inode it lost. Both contents are in
the ledger, with those that their writers were shown and wrote over: neither may be one of those that led to the other,
and they may not be the same. What a device shows as the base of a copy is the revision in the mark. A drive that one
device alone changes has no conflict copies at all.

What was replaced under one of its names while its device showed it under another one is no content that led to what
replaced it: that other name may be given to something elsewhere at that time, and then it has none, and is kept.

Who had been shown what a name leads to elsewhere, but not that it does, has given that name to something side by side
with the other device: that is seen by what its refused mutation expected under the name. So has who moved a content
back over what had come of it, and who did not hear of that: what the copy was made of is later than that content.
And what a program has open of a file that another one replaced comes back where the server refuses that.

Not judged is a copy whose opponent has no content any more that is known here, one of a file that was brought back
for an edit, which went elsewhere before it was sent, and a file that stepped aside with the content that another device
gave it: both devices gave one name to something, whatever the contents are.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from drivefs.fs.errors import NotFound
from drivefs.protocol.changes import Create, Exchange, Link, Mutation, Rename, Restore
from drivefs.protocol.conflicts import ConflictMark, decode_mark
from drivefs.protocol.ids import NO_INODE, InodeId, RevisionNumber, WorkspaceId
from tests.simulation.device import Device
from tests.simulation.ledger import Ledger
from tests.simulation.orders import Orders
from tests.simulation.sequence import Marked, Sequence

Kept = dict[tuple[InodeId, RevisionNumber], WorkspaceId]
"""The revisions that a server has, by the inodes that made them, and the drive or share that each was made in."""


@dataclass
class RefusedNames:
    """What devices believed to be under names that the server did not let them give to something."""

    _believed: set[tuple[str, int, bytes, int]] = field(default_factory=set)

    def hear(self, device: str, mutation: Mutation) -> None:
        """A mutation was answered with a conflict."""
        match mutation:
            case Create() | Link() | Restore():
                self._believed.add((device, mutation.parent, mutation.name, NO_INODE))
            case Rename():
                self._believed.add((device, mutation.new_parent, mutation.new_name, mutation.replaced))
            case Exchange():
                self._believed.add((device, mutation.parent, mutation.name, mutation.inode))
                self._believed.add((device, mutation.other_parent, mutation.other_name, mutation.other))
            case _:
                pass

    def took_by_surprise(self, mark: ConflictMark) -> bool:
        """Whether who made the copy gave this name to something, and did not know of what has kept it."""
        place = (mark.device, mark.parent, mark.name)
        return any(each[:3] == place and each[3] != mark.of for each in self._believed)

    def moved_over(self, mark: ConflictMark) -> bool:
        """Whether who made the copy gave this name to another file than that of which it was made."""
        return (mark.device, mark.parent, mark.name, mark.base_of) in self._believed

    def brought_back(self, mark: ConflictMark) -> bool:
        """Whether who made the copy had replaced the file of which it was made, and was not let."""
        return mark.base_of not in (NO_INODE, mark.of) and any(
            (each[0], each[3]) == (mark.device, mark.base_of) for each in self._believed
        )


def look_for_needless(
    sequence: Sequence, contents: dict[bytes, bytes], ledger: Ledger, refused: RefusedNames | None
) -> str | None:
    """What is wrong with the conflict copies of a run, or None; `refused` is None where one device is alone."""
    for marked in sequence.marked:
        mark = decode_mark(marked.value)
        if refused is None:
            return f"{mark.device} is alone, and made a conflict copy of {mark.name!r} in commit {marked.seq}"
        copy, other = _content_of_copy(sequence, contents, marked), _content_of_other(sequence, contents, marked)
        if not copy or not other or (_stayed(sequence, marked) and not ledger.is_by(mark.device, copy)):
            continue
        if copy == other:
            return f"the conflict copy of {mark.name!r} in commit {marked.seq} has the same content: {copy[:60]!r}"
        if refused.took_by_surprise(mark) or refused.brought_back(mark):
            continue
        base = contents.get(sequence.content_of(mark.base_of, mark.base_revision) or b"", b"")
        is_moved = {copy: refused.moved_over(mark), other: mark.base_of not in (NO_INODE, mark.of)}
        for earlier, later in ((copy, other), (other, copy)):
            was_put_back = bool(base) and is_moved[earlier] and ledger.led_to(earlier, base)
            if ledger.led_to(earlier, later, gone=earlier is copy) and not was_put_back:
                return (
                    f"{mark.device} made a conflict copy of {mark.name!r} in commit {marked.seq}: {copy[:60]!r} against"
                    f" {other[:60]!r}, but who wrote {later[:60]!r} had been shown {earlier[:60]!r}"
                )
    return None


async def wrong_base(
    device: Device, orders: Orders, contents: dict[bytes, bytes], look: Callable[[], Awaitable[Kept]]
) -> str:
    """A conflict of which a device shows another base than the commits say; empty: there is none.

    `look` tells what the server has now: of a revision that it let go, another may have the same content.
    The base of what was shared and is not any more is its owner's to see, and so is one of before the sharing: members
    are shown a file as it was at that moment and what became of it since.
    """
    home, kept = device.login.workspace, await look()
    seen, read_by = orders.ever_in(home), orders.read_by(home)
    calls = device.calls
    for conflict in calls.fs.conflicts.all():
        mark, name = conflict.mark, calls.fs.conflict_entries.name_of(conflict).decode()
        base = (mark.base_of, mark.base_revision)
        blocks = orders.sequence.stored.get(base)
        if blocks is None or base not in kept or mark.base_of not in seen:
            continue  # there is none, or it is not kept any more
        made = contents[blocks]
        try:
            shown = await calls.read((await calls.known(f".drivefs/conflicts/{name}/base")).inode)
        except NotFound:
            # While this looked, it may have been let go.
            if (await look()).get(base) in read_by:
                return f"{device.name} does not show the base of {name!r}, which was made of {made[:60]!r}"
            continue
        if shown != made:
            return f"{device.name} shows {shown[:60]!r} as the base of {name!r}, which was made of {made[:60]!r}"
    return ""


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
    if mark.their_revision:
        stored = sequence.content_of(mark.of, mark.their_revision)
    else:
        stored = tree.inodes[mark.of].blocks if mark.of in tree.inodes else None
    return contents.get(stored or b"", b"")
