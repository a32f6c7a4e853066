"""What must hold in the metadata after whatever was done to it."""

from collections import Counter
from itertools import pairwise

from sqlalchemy import Connection, bindparam, select

from backend.metadata import schema
from backend.metadata.schema import Trash
from backend.service.commit.contents import split_runs
from backend.service.rows import DIRECTORY, FILE
from backend.service.workspaces import HOME
from drivefs.protocol.model import MAX_INLINE_BLOCKS, unpack_blocks

_v = schema.inode_versions.c
_VERSIONS = select(schema.inode_versions).where(_v.inode == bindparam("of")).order_by(_v.to_seq)


def check(connection: Connection) -> None:
    """Raise AssertionError for the first invariant that does not hold."""
    check_links(connection)
    check_versions(connection)
    check_contents(connection)
    check_references(connection)
    check_lineages(connection)
    check_history(connection)


def check_links(connection: Connection) -> None:
    inodes = {row.inode: row for row in connection.execute(select(schema.inodes))}
    w = schema.workspaces.c
    roots = set(connection.execute(select(w.root).where(w.kind == HOME)).scalars())
    names: Counter[int] = Counter()
    subdirectories: Counter[int] = Counter()
    for dentry in connection.execute(select(schema.dentries)):
        # The name of a share in the drive of another user is none of its root's.
        names[dentry.inode] += dentry.target_account in (None, dentry.account)
        parent = inodes[dentry.parent]
        assert parent.kind == DIRECTORY
        assert parent.nlink >= 2, "a name stands in a directory that is gone"
        subdirectories[dentry.parent] += inodes[dentry.inode].kind == DIRECTORY
    for inode, row in inodes.items():
        if row.kind == DIRECTORY and row.nlink:
            assert names[inode] == (inode not in roots), "a directory has one name, the root none"
            assert row.nlink == 2 + subdirectories[inode]
        else:
            assert row.nlink == names[inode]
    own = (d for d in connection.execute(select(schema.dentries)) if d.target_account in (None, d.account))
    parents = {d.inode: d.parent for d in own}
    for inode, row in inodes.items():
        steps, here = 0, inode
        while row.nlink and here not in roots:
            here, steps = parents[here], steps + 1
            assert steps <= len(parents), "a cycle"


def check_versions(connection: Connection) -> None:
    """The versions of an inode follow each other without gap; those of names never overlap."""
    for made in connection.execute(select(schema.workspaces)):
        commits = select(schema.commits.c.seq).where(schema.commits.c.workspace == made.workspace)
        seqs = set(connection.execute(commits).scalars())
        assert seqs == set(range(made.first_seq, made.head_seq + 1))
    for row in connection.execute(select(schema.inodes)):
        versions = connection.execute(_VERSIONS, {"of": row.inode}).all()
        for earlier, later in pairwise([*versions, row]):
            assert earlier.from_seq < earlier.to_seq == later.from_seq
    spans: dict[tuple[int, bytes], list[tuple[int, int]]] = {}
    for name in connection.execute(select(schema.dentry_versions)):
        spans.setdefault((name.parent, name.name), []).append((name.from_seq, name.to_seq))
    for name in connection.execute(select(schema.dentries)):
        spans.setdefault((name.parent, name.name), []).append((name.from_seq, 2**62))
    for span in spans.values():
        ordered = sorted(span)
        assert all(start < end for start, end in ordered)
        assert all(one[1] <= two[0] for one, two in pairwise(ordered))


def check_contents(connection: Connection) -> None:
    """Each inode's current content is a revision of its own in its lineage, and says what the inode says."""
    runs = {row.run: row.packed for row in connection.execute(select(schema.runs))}
    revisions = {(row.lineage, row.number): row for row in connection.execute(select(schema.revisions))}
    for row in connection.execute(select(schema.inodes)):
        assert row.revision <= row.last_number
        assert row.content_since <= row.revision or (row.nlink == row.revision == 0)
        if not row.revision:
            assert row.blocks == b""
            continue
        revision = revisions[row.lineage, row.revision]
        packed = b"".join(runs[run] for run in split_runs(revision.runs))
        assert (revision.inode, revision.size) == (row.inode, row.size)
        assert sum(size for _, size in unpack_blocks(packed)) == row.size
        assert row.blocks == (packed if len(unpack_blocks(packed)) <= MAX_INLINE_BLOCKS else None)


def check_references(connection: Connection) -> None:
    run_refs: Counter[tuple[int, bytes]] = Counter()
    for row in connection.execute(select(schema.revisions)):
        run_refs.update((row.account, run) for run in split_runs(row.runs))
    block_refs: Counter[tuple[int, bytes]] = Counter()
    for row in connection.execute(select(schema.runs)):
        assert row.refs == run_refs.pop((row.account, row.run), 0)
        if row.refs:
            block_refs.update((row.account, block) for block, _ in unpack_blocks(row.packed))
    assert not run_refs, "a revision names a run that is not there"
    stored: Counter[int] = Counter()
    pinned: Counter[int] = Counter()
    pins = {(row.account, row.block) for row in connection.execute(select(schema.pins))}
    for row in connection.execute(select(schema.blocks)):
        block = (row.account, row.block)
        assert row.refs == block_refs.pop(block, 0)
        stored[row.account] += row.size_bytes if row.refs else 0
        pinned[row.account] += row.size_bytes if not row.refs and block in pins else 0
    assert not block_refs, "a run names a block that is not there"
    for account in connection.execute(select(schema.accounts)):
        assert (account.stored_bytes, account.pinned_bytes) == (stored[account.account], pinned[account.account])


def check_lineages(connection: Connection) -> None:
    rows = connection.execute(select(schema.inodes).where(schema.inodes.c.nlink > 0, schema.inodes.c.kind == FILE))
    holders = Counter(row.lineage for row in rows)
    assert all(count == 1 for count in holders.values()), "two files with names continue one lineage"


def check_history(connection: Connection) -> None:
    """What is in the trash has no name; times of commits grow."""
    held = select(schema.dentry_versions.c.inode).where(schema.dentry_versions.c.trash == Trash.HELD)
    named = {row.inode for row in connection.execute(select(schema.inodes).where(schema.inodes.c.nlink > 0))}
    trash = list(connection.execute(held).scalars())
    assert not named & set(trash)
    assert len(trash) == len(set(trash)), "one inode lies in the trash at one place"
    c = schema.commits.c
    times = connection.execute(select(c.workspace, c.time_ns).order_by(c.workspace, c.seq)).all()
    assert all(earlier.time_ns < later.time_ns for earlier, later in pairwise(times) if earlier[0] == later[0])
