"""Judging mutations of inodes: attributes, extended attributes and content; pure.

Owns their rules, in the manner of `naming`: check everything, then apply; each gives the inode's revision number.
"""

from backend.service.commit import refusals
from backend.service.commit.state import State, XattrRow
from backend.service.rows import DIRECTORY, FILE, InodeRow, RevisionRow
from drivefs.protocol import changes, names
from drivefs.protocol.ids import RevisionNumber, Seq


def set_attributes(state: State, mutation: changes.SetAttributes) -> RevisionNumber:
    """Each attribute that is given replaces the present one, whatever that is: the last commit wins."""
    row = _renew(state, state.living(mutation.inode), mutation.time_ns)
    if mutation.mode is not None:
        row.mode = mutation.mode
    if mutation.uid is not None or mutation.own_uid:
        row.uid = mutation.uid
    if mutation.gid is not None or mutation.own_gid:
        row.gid = mutation.gid
    if mutation.atime_ns is not None:
        row.atime_ns = mutation.atime_ns
    if mutation.mtime_ns is not None:
        row.mtime_ns = mutation.mtime_ns
    return row.revision


def set_xattr(state: State, mutation: changes.SetXattr) -> RevisionNumber:
    """Set or remove an extended attribute; removing what is not there is fine."""
    row = state.living(mutation.inode)
    present = state.xattrs.setdefault(row.inode, {})
    if mutation.value is None:
        present.pop(mutation.name, None)
    else:
        others = sum(len(name) + len(each.value) for name, each in present.items() if name != mutation.name)
        if others + len(mutation.name) + len(mutation.value) > names.MAX_XATTRS_TOTAL_BYTES:
            raise refusals.rejected(refusals.LIMIT)
        present[mutation.name] = XattrRow(mutation.value, Seq(0))
    return _renew(state, row, mutation.time_ns).revision


def store(state: State, mutation: changes.Store) -> RevisionNumber:
    """New content for a file that still has the content on which the new one is based."""
    row = state.living(mutation.inode)
    if row.kind != FILE:
        raise refusals.rejected(refusals.IS_DIRECTORY if row.kind == DIRECTORY else refusals.MALFORMED)
    if not state.is_at(row, mutation.base):
        raise refusals.conflict(refusals.CHANGED)
    author = state.author
    revision = RevisionRow(
        lineage=row.lineage,
        number=RevisionNumber(row.last_number + 1),
        inode=row.inode,
        workspace=author.workspace,
        seq=author.seq,
        size=mutation.size,
        time_ns=mutation.mtime_ns,
        user=author.user,
        device=author.device,
        epoch=author.epoch,
        op=mutation.n,
        runs=b"",
    )
    blocks = state.contents.store(mutation, row, revision)
    row = _renew(state, row, mutation.time_ns)
    row.blocks, row.size, row.mtime_ns = blocks, mutation.size, mutation.mtime_ns
    row.revision = row.content_since = row.last_number = revision.number
    return row.revision


def _renew(state: State, row: InodeRow, time_ns: int) -> InodeRow:
    row = state.tree.edit(row.inode)
    row.ctime_ns = max(row.ctime_ns, time_ns)
    return row
