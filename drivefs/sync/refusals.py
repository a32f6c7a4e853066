"""Performs what the resolver decides about refused mutations: nothing that people wrote is lost by a refusal.

Owns the changes to the journal and the overlay that follow from a refusal. All of one reply is one journal transaction
of the caller. Invariant: when `handle` returns, each refused mutation has either been made again under a new op number
or its effect here is undone, and it is no longer in the journal.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from cache.overlay import MISSING
from cache.workspace import LocalState
from drivefs.protocol.changes import Base, Create, Link, Mutation, OpResult, Rename, Restore, Status, Store
from drivefs.protocol.ids import NO_INODE, NO_OP, NO_REVISION, InodeId, LineageId, Seq
from drivefs.protocol.model import cut_runs, run_id, unpack_blocks
from drivefs.sync import planner
from drivefs.sync.contents import Contents, Shown
from drivefs.sync.resolver import Action, conflict_name, resolve

Name = tuple[InodeId, bytes]

INODE_TAKEN = "inode"
"""The reason beside `id_taken` that is about the id of a new inode."""


@dataclass(frozen=True, slots=True)
class Labels:
    """What conflict copies are called after: the device's name, and the date now as text."""

    device: str
    today: Callable[[], str]


class Refusals:
    """Keeps what the backend refused, under another name where it has to be."""

    def __init__(self, local: LocalState, root: InodeId, *, contents: Contents, shown: Shown, labels: Labels) -> None:
        self._journal = local.journal
        self._replica = local.replica
        self._root = root
        self._contents = contents
        self._shown = shown
        self._labels = labels

    def handle(self, refused: Iterable[tuple[Mutation, OpResult]]) -> None:
        """Deal with all refusals of one reply, in the order of the batch, within the caller's journal transaction."""
        for mutation, result in refused:
            # A number that is taken or stale was refused as a number, not as a change. An inode id that is taken (a
            # cloned disk) ends the creation; the file's store then finds no inode, and its content gets a new one.
            renumber = result.status in (Status.ID_TAKEN, Status.STALE) and result.reason != INODE_TAKEN
            action = Action.TRY_AGAIN if renumber else resolve(mutation, result.reason)
            if action is Action.TRY_AGAIN:
                self._again(mutation)
            elif action is Action.COPY_CONTENT and isinstance(mutation, Store):
                self._copy_content(mutation, result.reason)
            elif action is Action.OTHER_NAME and isinstance(mutation, Create | Link | Restore | Rename):
                self._other_name(mutation, result.reason)
            self._journal.remove(mutation.n)
            self._tell(planner.inodes_of(mutation), planner.names_of(mutation))

    def _again(self, mutation: Mutation) -> None:
        """Make the same change again, under a new op number; its effect here stands."""
        again = msgspec.structs.replace(mutation, n=self._journal.next_op(), after=[])
        self._journal.append(again)
        overlay, drafts = self._journal.overlay, self._journal.drafts
        for inode in planner.inodes_of(again):
            if (state := overlay.inode(inode)) is not None:
                overlay.put_inode(state, again.n)
        for parent, name in planner.names_of(again):
            if (target := overlay.dentry(parent, name)) is not MISSING:
                overlay.put_dentry(parent, name, target or NO_INODE, again.n)
        draft = drafts.draft(again.inode) if isinstance(again, Store) else None
        if draft is not None and draft.frozen_op == mutation.n:
            drafts.put_draft(msgspec.structs.replace(draft, frozen_op=again.n))

    def _other_name(self, mutation: Create | Link | Restore | Rename, reason: str) -> None:
        """Make the same change under a derived name, at the root if its directory is gone."""
        fresh: Mutation
        if isinstance(mutation, Rename):
            old, replaced = (mutation.new_parent, mutation.new_name), mutation.replaced
            parent, name = new = self._free_name(self._root if reason == "no_parent" else old[0], old[1])
            fresh = msgspec.structs.replace(mutation, new_parent=parent, new_name=name, replaced=NO_INODE, base=Base())
        else:
            old, replaced = (mutation.parent, mutation.name), NO_INODE
            parent, name = new = self._free_name(self._root if reason == "no_parent" else old[0], old[1])
            fresh = msgspec.structs.replace(mutation, parent=parent, name=name)
        overlay = self._journal.overlay
        overlay.drop_dentry(*old)
        overlay.put_dentry(parent, name, mutation.inode, mutation.n)
        if replaced:
            overlay.drop_inode(replaced)
            self._tell([replaced], [])
        self._again(fresh)
        self._tell([mutation.inode], [old, new])

    def _copy_content(self, store: Store, reason: str) -> None:
        """Give the stored blocks a file of their own: beside the old name, or under it if it has become free."""
        overlay = self._journal.overlay
        state = overlay.inode(store.inode) or self._replica.inode(store.inode)
        frozen = self._contents.frozen(store.inode)
        if state is None or frozen is None:
            # The file was removed here meanwhile, its content with it.
            return
        names = overlay.names_of(store.inode) or self._replica.names_of(store.inode)
        parent, name = names[0] if names else (self._root, b"recovered-%d" % store.inode)
        if reason == "absent":
            overlay.drop_dentry(parent, name)
        if self._is_taken(parent, name):
            parent, name = self._free_name(parent, name)
        copy, created, stored = self._journal.allocate_inode(), self._journal.next_op(), self._journal.next_op()
        runs = list(cut_runs(unpack_blocks(frozen[1])))
        self._journal.append(
            Create(
                n=created,
                time_ns=store.time_ns,
                inode=copy,
                parent=parent,
                name=name,
                kind=state.kind,
                mode=state.mode,
                uid=state.uid,
                gid=state.gid,
            )
        )
        self._journal.append(
            msgspec.structs.replace(
                store, n=stored, after=[], inode=copy, base=Base(), runs=[run_id(run) for run in runs], new_runs=runs
            )
        )
        self._contents.moved(store.inode, copy, stored)
        overlay.put_dentry(parent, name, copy, created)
        fresh = msgspec.structs.replace(
            state, inode=copy, nlink=1, revision=NO_REVISION, blocks=None, lineage=LineageId(0), seq=Seq(0)
        )
        overlay.put_inode(fresh, stored)
        if self._replica.inode(store.inode) is not None:
            overlay.drop_inode(store.inode)
        elif state.blocks is not None:
            # The feed has not brought the file's own creation yet: until then it shows its last revision.
            size = sum(ref.size_bytes for ref in unpack_blocks(state.blocks))
            overlay.put_inode(msgspec.structs.replace(state, size=size), NO_OP)
        self._tell([store.inode, copy], [(parent, name)])

    def _free_name(self, parent: InodeId, name: bytes) -> Name:
        taken = 0
        while True:
            derived = conflict_name(name, device=self._labels.device, date=self._labels.today(), taken=taken)
            if not self._is_taken(parent, derived):
                return parent, derived
            taken += 1

    def _is_taken(self, parent: InodeId, name: bytes) -> bool:
        here = self._journal.overlay.dentry(parent, name)
        there = self._replica.dentry(parent, name) if here is MISSING else here
        return there is not MISSING and bool(there)

    def _tell(self, inodes: Iterable[InodeId], names: Iterable[Name]) -> None:
        inodes, names = list(inodes), list(names)
        self._shown.views.forget_cached(inodes, names)
        for inode in inodes:
            self._shown.invalidator.inode(inode, content=True)
        for parent, name in names:
            self._shown.invalidator.entry(parent, name)
