"""Judging mutations of names: create, link, unlink, rename, exchange, restore; pure.

Owns their rules. Each function checks everything first and then applies the mutation to the state, so that a refusal
leaves no trace; it gives the inode's revision number after the mutation.
"""

from backend.service.commit import refusals
from backend.service.commit.lineages import Past, past_of
from backend.service.commit.state import State
from backend.service.rows import DIRECTORY, FILE, InodeRow, Place
from drivefs.protocol import changes
from drivefs.protocol.changes import Status
from drivefs.protocol.ids import NO_REVISION, InodeId, LineageId, RevisionNumber

FIRST_REVISION = RevisionNumber(1)


def create(state: State, mutation: changes.Create) -> RevisionNumber:
    """A new inode under a free name; a file goes on with the history of a name that its device freed just before."""
    place = _place_for(state, mutation)
    row = _new_inode(state, mutation)
    state.tree.add_inode(row)
    state.tree.add_name(place, row, mutation.time_ns)
    _continue_past(state, row, place)
    return row.revision


def may_create(state: State, mutation: changes.Create) -> bool:
    """Whether there is room for a new inode where it is to be, as far as it is known by now."""
    try:
        _place_for(state, mutation)
    except refusals.Refused:
        return False
    return True


def _place_for(state: State, mutation: changes.Create) -> Place:
    if not state.is_free_id(mutation.inode):
        raise refusals.Refused(Status.ID_TAKEN, refusals.INODE)
    return state.free_place(mutation.parent, mutation.name)


def _new_inode(state: State, mutation: changes.Create) -> InodeRow:
    return InodeRow(
        inode=mutation.inode,
        workspace=state.author.workspace,
        kind=int(mutation.kind),
        mode=mutation.mode,
        uid=mutation.uid,
        gid=mutation.gid,
        rdev=mutation.rdev,
        atime_ns=mutation.time_ns,
        mtime_ns=mutation.time_ns,
        ctime_ns=mutation.time_ns,
        nlink=2 if mutation.kind == DIRECTORY else 1,
        size=len(mutation.target),
        revision=NO_REVISION,
        content_since=NO_REVISION,
        last_number=NO_REVISION,
        lineage=LineageId(mutation.inode if mutation.kind == FILE else 0),
        blocks=b"",
        target=mutation.target,
        from_seq=state.author.seq,
    )


def _continue_past(state: State, row: InodeRow, place: Place) -> None:
    """Save by rename-aside: if what bore the name lives on under another one, it becomes a fork.

    A file with a history of its own keeps it: the new one of a program that saves has one content. So does what bore
    the name, where it is in a share since, though the batch may name it where that hangs.
    """
    past = state.freed.get(place) or state.pasts.get(place)
    if past is None or row.kind != FILE or row.nlink > 1 or row.last_number > FIRST_REVISION:
        return
    known = state.tree.inodes.get(past.inode)
    if known is None or known.workspace != state.author.workspace:
        return
    state.lineages.take_over(row, past)
    before = state.tree.living(past.inode)
    if before is not None and before.lineage == row.lineage:
        state.lineages.fork(state.tree.edit(past.inode))


def link(state: State, mutation: changes.Link) -> RevisionNumber:
    """One more name for an inode that is no directory."""
    row = state.living(mutation.inode)
    if row.kind == DIRECTORY:
        raise refusals.rejected(refusals.IS_DIRECTORY)
    place = state.free_place(mutation.parent, mutation.name)
    row = _renew(state, row, mutation.time_ns)
    row.nlink += 1
    state.tree.add_name(place, row, mutation.time_ns)
    return row.revision


def unlink(state: State, mutation: changes.Unlink) -> RevisionNumber:
    """Remove a name; the last one of a file only if its content is the one that the device had seen."""
    place = Place(mutation.parent, mutation.name)
    row = _bound(state, place, mutation.inode)
    if not _may_go(state, row, mutation.base):
        raise refusals.conflict(refusals.CHANGED)
    _free(state, place, row, mutation.time_ns)
    return state.tree.drop_link(row.inode, mutation.time_ns).revision


def rename(state: State, mutation: changes.Rename) -> RevisionNumber:
    """Move a name, over what the device had seen at the target."""
    source = Place(mutation.parent, mutation.name)
    target = Place(mutation.new_parent, mutation.new_name)
    row = state.tree.living(mutation.inode)
    if row is None or state.tree.at(source) != row.inode:
        raise refusals.conflict(refusals.ABSENT)
    state.directory(mutation.new_parent)
    _check_way(state, row, mutation.new_parent)
    replaced = _replaced(state, mutation, target, row)
    _free(state, source, row, mutation.time_ns)
    row = _renew(state, row, mutation.time_ns)
    if replaced is not None:
        past = past_of(replaced)
        state.tree.remove_name(target, replaced, mutation.time_ns)
        replaced = state.tree.drop_link(replaced.inode, mutation.time_ns)
        if row.kind == replaced.kind == FILE and row.workspace == state.author.workspace:
            _follow_name(state, row, replaced, past)
    state.tree.add_name(target, row, mutation.time_ns)
    if replaced is None and row.workspace == state.author.workspace:
        _continue_past(state, row, target)
    return row.revision


def _replaced(state: State, mutation: changes.Rename, target: Place, row: InodeRow) -> InodeRow | None:
    """What a rename replaces, checked; None for a free target."""
    found = state.tree.at(target)
    if not mutation.replaced:
        if found:
            raise refusals.conflict(refusals.EXISTS)
        return None
    replaced = state.tree.living(mutation.replaced)
    if replaced is None or found != replaced.inode:
        raise refusals.conflict(refusals.CHANGED)
    if row.kind == DIRECTORY != replaced.kind:
        raise refusals.rejected(refusals.NOT_DIRECTORY)
    if replaced.kind == DIRECTORY != row.kind:
        raise refusals.rejected(refusals.IS_DIRECTORY)
    if not _may_go(state, replaced, mutation.base):
        raise refusals.conflict(refusals.CHANGED)
    return replaced


def _follow_name(state: State, row: InodeRow, replaced: InodeRow, past: Past) -> None:
    """Save by rename: the history stays with the name; what was replaced forks if it has another name."""
    state.lineages.take_over(row, past)
    if replaced.nlink and replaced.lineage == row.lineage:
        state.lineages.fork(replaced)


def exchange(state: State, mutation: changes.Exchange) -> RevisionNumber:
    """Swap what two names lead to."""
    here = Place(mutation.parent, mutation.name)
    there = Place(mutation.other_parent, mutation.other_name)
    row = _bound(state, here, mutation.inode)
    other = _bound(state, there, mutation.other)
    _check_way(state, row, there.parent)
    _check_way(state, other, here.parent)
    state.tree.remove_name(here, row, mutation.time_ns)
    state.tree.remove_name(there, other, mutation.time_ns)
    row = _renew(state, row, mutation.time_ns)
    other = _renew(state, other, mutation.time_ns)
    state.tree.add_name(there, row, mutation.time_ns)
    state.tree.add_name(here, other, mutation.time_ns)
    return row.revision


def restore(state: State, mutation: changes.Restore) -> RevisionNumber:
    """Bring back an inode without a name; it forks if its history went on without it."""
    row = state.tree.inodes.get(mutation.inode)
    if row is None:
        raise refusals.conflict(refusals.ABSENT)
    if row.nlink:
        raise refusals.conflict(refusals.CHANGED)
    if mutation.expects_content and row.is_emptied:
        raise refusals.conflict(refusals.GONE)
    place = state.free_place(mutation.parent, mutation.name)
    row = _renew(state, row, mutation.time_ns)
    row.content_since = min(row.content_since, row.revision)
    row.nlink = 2 if row.kind == DIRECTORY else 1
    state.tree.add_name(place, row, mutation.time_ns)
    state.contents.bring_back(row.inode)
    if row.kind == FILE and state.lineages.is_taken(row):
        state.lineages.fork(row)
    state.restored.append(row.inode)
    return row.revision


def _bound(state: State, place: Place, inode: InodeId) -> InodeRow:
    """What a name leads to, if it is what the device had seen there."""
    found = state.tree.at(place)
    if not found:
        raise refusals.conflict(refusals.ABSENT)
    row = state.tree.living(found)
    if row is None or found != inode:
        raise refusals.conflict(refusals.CHANGED)
    return row


def _may_go(state: State, row: InodeRow, base: changes.Base) -> bool:
    """Whether losing this name loses nothing that the device had not seen."""
    if row.workspace != state.author.workspace:
        raise refusals.rejected(refusals.SHARE)
    if row.kind == DIRECTORY:
        if state.tree.child_count(row.inode):
            raise refusals.conflict(refusals.NOT_EMPTY)
        return True
    return row.kind != FILE or row.nlink > 1 or state.is_at(row, base)


def _check_way(state: State, row: InodeRow, new_parent: InodeId) -> None:
    if row.kind == DIRECTORY and state.tree.is_within(new_parent, row.inode):
        raise refusals.conflict(refusals.CYCLE)


def _free(state: State, place: Place, row: InodeRow, time_ns: int) -> None:
    state.tree.remove_name(place, row, time_ns)
    if row.kind == FILE and row.workspace == state.author.workspace:
        state.freed[place] = past_of(row)


def _renew(state: State, row: InodeRow, time_ns: int) -> InodeRow:
    row = state.tree.edit(row.inode)
    row.ctime_ns = max(row.ctime_ns, time_ns)
    return row
