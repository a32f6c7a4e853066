"""What a batch names, and so what has to be loaded to judge it; pure.

Owns the list of ids and names of each kind of mutation. Only mutations that can be applied at all are looked at, so
every number here fits a column.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from backend.service.commit import validity
from backend.service.rows import DIRECTORY, FILE, InodeRow, Place
from drivefs.protocol import changes
from drivefs.protocol.changes import Mutation
from drivefs.protocol.ids import NO_INODE, BlockId, InodeId, OpNumber, RunId
from drivefs.protocol.model import unpack_blocks


@dataclass(slots=True)
class Wants:
    """What the first round of queries asks for."""

    mutations: list[Mutation] = field(default_factory=list)
    ops: set[OpNumber] = field(default_factory=set)
    inodes: set[InodeId] = field(default_factory=set)
    parents: set[InodeId] = field(default_factory=set)
    places: set[Place] = field(default_factory=set)
    new_files: set[Place] = field(default_factory=set)
    new_directories: set[InodeId] = field(default_factory=set)
    with_xattrs: set[InodeId] = field(default_factory=set)
    with_content: set[InodeId] = field(default_factory=set)
    restored: set[InodeId] = field(default_factory=set)
    runs: set[RunId] = field(default_factory=set)
    blocks: set[BlockId] = field(default_factory=set)
    creates: bool = False


def collect(mutations: Sequence[Mutation]) -> Wants:
    """Gather what a batch names."""
    wants = Wants()
    for mutation in mutations:
        wants.ops.add(mutation.n)
        if validity.problem(mutation):
            continue
        wants.mutations.append(mutation)
        wants.ops.update(mutation.after)
        wants.inodes.add(mutation.inode)
        _collect_places(wants, mutation)
        _collect_details(wants, mutation)
    # A file that makes room for a new one in the same batch may have to fork.
    leaving = [mutation for mutation in wants.mutations if isinstance(mutation, changes.Unlink | changes.Rename)]
    wants.with_content.update(m.inode for m in leaving if Place(m.parent, m.name) in wants.new_files)
    wants.inodes |= wants.parents
    wants.inodes.discard(NO_INODE)
    return wants


def _collect_places(wants: Wants, mutation: Mutation) -> None:
    if isinstance(mutation, changes.SetAttributes | changes.SetXattr | changes.Store):
        return
    wants.parents.add(mutation.parent)
    wants.places.add(Place(mutation.parent, mutation.name))
    if isinstance(mutation, changes.Rename):
        wants.parents.add(mutation.new_parent)
        wants.places.add(Place(mutation.new_parent, mutation.new_name))
        wants.inodes.add(mutation.replaced)
    elif isinstance(mutation, changes.Exchange):
        wants.parents.add(mutation.other_parent)
        wants.places.add(Place(mutation.other_parent, mutation.other_name))
        wants.inodes.add(mutation.other)


def _collect_details(wants: Wants, mutation: Mutation) -> None:
    match mutation:
        case changes.Create():
            wants.creates = True
            if mutation.kind == FILE:
                wants.new_files.add(Place(mutation.parent, mutation.name))
            elif mutation.kind == DIRECTORY:
                wants.new_directories.add(mutation.inode)
        case changes.SetXattr():
            wants.with_xattrs.add(mutation.inode)
        case changes.Restore():
            wants.restored.add(mutation.inode)
            wants.with_content.add(mutation.inode)
        case changes.Unlink():
            _collect_base(wants, mutation.base, mutation.inode)
        case changes.Rename():
            wants.with_content.add(mutation.inode)
            if mutation.replaced:
                wants.with_content.add(mutation.replaced)
            else:
                wants.new_files.add(Place(mutation.new_parent, mutation.new_name))
            _collect_base(wants, mutation.base, mutation.replaced)
        case changes.Store():
            wants.with_content.add(mutation.inode)
            _collect_base(wants, mutation.base, mutation.inode)
            wants.runs.update(mutation.runs)
            for packed in mutation.new_runs:
                wants.blocks.update(block for block, _ in unpack_blocks(packed))


def _collect_base(wants: Wants, base: changes.Base, inode: InodeId) -> None:
    if base.revision_op:
        wants.ops.add(base.revision_op)
        wants.with_content.add(inode)


def moves_directories(wants: Wants, inodes: dict[InodeId, InodeRow]) -> bool:
    """Whether the way from directories to the root matters: only a moved directory can make a cycle."""

    def is_directory(inode: InodeId) -> bool:
        row = inodes.get(inode)
        return inode in wants.new_directories or (row is not None and row.kind == DIRECTORY)

    for mutation in wants.mutations:
        if isinstance(mutation, changes.Rename) and is_directory(mutation.inode):
            return True
        if isinstance(mutation, changes.Exchange) and (is_directory(mutation.inode) or is_directory(mutation.other)):
            return True
    return False


def removed_directories(wants: Wants, inodes: dict[InodeId, InodeRow]) -> set[InodeId]:
    """Directories that have to be empty."""
    gone = {m.inode for m in wants.mutations if isinstance(m, changes.Unlink)}
    gone |= {m.replaced for m in wants.mutations if isinstance(m, changes.Rename)}
    return {inode for inode in gone if inode in inodes and inodes[inode].kind == DIRECTORY}
