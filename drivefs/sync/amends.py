"""Performs what the resolver decided about a refused mutation, on the journal and on what this device shows.

Owns the changes of rows. All of one refusal is one journal transaction, and the kernel is told of what looks different.
Invariants: what is made in the place of a refused mutation stands where that stood in the order of the journal; later
mutations that name what was renamed or merged mean it under its new name; an entry of the overlay belongs to the last
mutation that touches it.
"""

from collections.abc import Sequence

import msgspec

from cache.effects import entries, outcome, renamed, subjects
from cache.journal import UNSENT, JournalRow, RowState
from cache.overlay import MISSING
from cache.workspace import LocalState
from drivefs.protocol.changes import Base, Create, Mutation, Rename, SetXattr, Store, Unlink
from drivefs.protocol.conflicts import CONFLICT_XATTR, ConflictMark, encode_mark
from drivefs.protocol.ids import NO_INODE, NO_OP, NO_REVISION, InodeId, LineageId, OpNumber, RevisionNumber, Seq
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.sync import planner, renaming
from drivefs.sync.contents import Contents, Shown
from drivefs.sync.outcomes import Outcome
from drivefs.sync.places import Places
from drivefs.sync.questions import Place
from drivefs.sync.resolver import (
    Action,
    Adopt,
    Anew,
    Copy,
    Drop,
    FreshId,
    Make,
    Merge,
    Stay,
    as_first,
)
from drivefs.sync.telling import Telling

LOST_AND_FOUND_NAME = b"lost+found"
LOST_AND_FOUND_MODE = 0o700

MAX_TOLD_NAMES = 10_000
"""So many names of a directory that another was found to be, the kernel is told of: programs may have missed them."""


class Amends:
    """Makes good what was refused."""

    def __init__(
        self, local: LocalState, root: InodeId, *, contents: Contents, shown: Shown, labels: renaming.Labels
    ) -> None:
        self._journal = local.journal
        self._overlay = local.journal.overlay
        self._replica = local.replica
        self._shares = local.shares
        self._root = root
        self.places = Places(local, root)
        self._contents = contents
        self._shown = shown
        self._labels = labels
        self._outcome = Outcome()
        self._place = NO_OP
        self._telling = Telling(shown, self._leads_to, self.places.state)

    def make(self, row: JournalRow, actions: Sequence[Action]) -> Outcome:
        """Perform the actions for a refused mutation, in the caller's journal transaction."""
        self._outcome, self._place = Outcome(), row.n
        if any(isinstance(action, Stay) for action in actions):
            self._journal.keep_rejected(row.n)
            return self._outcome
        self._telling.begin()
        self._telling.touch(set(subjects(row.mutation)) - {NO_INODE})
        self._telling.note(renaming.places(row.mutation))
        self._undo(row.mutation)
        for action in actions:
            self._perform(row, action)
        self._journal.remove(row.n)
        for inode in self._telling.inodes:
            self._refresh(inode)
        self._telling.tell()
        return self._outcome

    def forget_cached(self) -> None:
        """The transaction of the last `make` failed: nothing in the caches is to come from it."""
        self._telling.undone()

    def again(self, row: JournalRow, *, at_end: bool) -> None:
        """Make a mutation again as it is, under a new number in its place or behind all that there is."""
        self._outcome, self._place = Outcome(), self._journal.end() if at_end else row.n
        self._undo(row.mutation)
        self._make(row, Make(row.mutation))
        self._journal.remove(row.n)

    def _perform(self, row: JournalRow, action: Action) -> None:
        match action:
            case Make():
                self._make(row, action)
            case Merge():
                self._merge(row, action.inode, action.into or self._lost_and_found(row.mutation.time_ns))
            case Adopt():
                self._contents.published(row.mutation.inode, row.n, action.state.revision)
                self._outcome.contents.add(row.mutation.inode)
            case Copy() if isinstance(row.mutation, Store):
                self._copy(row.mutation, action)
            case Anew():
                self._make_anew(row, action)
            case FreshId() if isinstance(row.mutation, Create):
                self._give_fresh_id(row.mutation)
            case Drop() if action.why:
                places = entries(row.mutation)
                place = Place(*places[-1]) if places else None
                self._outcome.given_up.append((row.mutation.inode, place, action.why))

    # -- making again ------------------------------------------------------------------------------------------------

    def _undo(self, mutation: Mutation) -> None:
        """What the mutation put under names goes, where nothing later has touched them."""
        for place in entries(mutation):
            if self._overlay.op_of_dentry(*place) == mutation.n:
                self._overlay.drop_dentry(*place)

    def _make(self, row: JournalRow, action: Make) -> None:
        change = self._journal.aliases.actual(action.mutation)
        old = renaming.target(change)
        if action.is_aside and old is not None:
            change = renaming.moved_to(change, self._free_name(old))
        made = self._append(change)
        if isinstance(made, Store):
            self._renumber_store(made, row.n)
        new = renaming.target(made)
        if action.is_aside and old is not None and new is not None:
            self._telling.note([old])
            self._follow(made.inode, old, new, made.n)
            if action.of and made.inode not in self._shares.roots:  # its attributes are all members', its name is not
                replaced = row.mutation.replaced if isinstance(row.mutation, Rename) else NO_INODE
                self._mark(made.inode, old, action.of, (replaced or made.inode, action.base))
                self._outcome.copies.append((made.inode, new))
            elif self._leads_to(new) == made.inode:
                self._outcome.aside.append((old, new))

    def _append(self, change: Mutation) -> Mutation:
        """Put a change behind what was made last, and show what it does to names."""
        self._place = self._journal.op_after(self._place)
        made = msgspec.structs.replace(change, n=self._place, after=[])
        self._journal.append(made)
        self._outcome.made.append(made.n)
        self._telling.note(renaming.places(made))
        for parent, name, inode in outcome(made):
            place = Place(parent, name)
            if self._overlay.op_of_dentry(*place) < made.n and not self._journal.ignored.has(self._leads_to(place)):
                self._overlay.put_dentry(*place, inode, made.n)
        self._telling.touch(set(subjects(made)) - {NO_INODE})
        return made

    def _renumber_store(self, store: Store, old: OpNumber) -> None:
        """What names the store by its number names the new one."""
        drafts = self._journal.drafts
        draft = drafts.draft(store.inode)
        if draft is not None and draft.frozen_op == old:
            drafts.put_draft(msgspec.structs.replace(draft, frozen_op=store.n))
        self._rebase(store.inode, Base(revision_op=old), Base(revision_op=store.n))

    def _rebase(self, inode: InodeId, old: Base, new: Base) -> None:
        waiting = [row.mutation for row in self._journal.touching(inode) if row.state is RowState.PENDING]
        for mutation in planner.rebase(waiting, inode=inode, old=old, new=new):
            self._journal.replace(mutation)

    def _follow(self, inode: InodeId, old: Place, new: Place, after: OpNumber) -> None:
        """What was queued for an inode at its old name is meant for the new one, and so on with what replaced it."""
        for row in self._journal.touching(inode):
            if row.n <= after or row.state is not RowState.PENDING:
                continue
            moved = renaming.at_new_name(row.mutation, inode, old, new)
            if moved is None:
                continue
            self._journal.replace(moved)
            if self._overlay.op_of_dentry(*old) == row.n:
                self._overlay.drop_dentry(*old)
            for parent, name, target in outcome(moved):
                if (parent, name) == new:
                    self._overlay.put_dentry(parent, name, target, row.n)
                    if target not in (NO_INODE, inode):
                        self._follow(target, old, new, row.n)
            return

    def _mark(self, copy: InodeId, old: Place, of: InodeId, base: tuple[InodeId, RevisionNumber]) -> None:
        """Note on a conflict copy whose name it lost; `base` is an inode and one of its own revisions."""
        theirs = self._replica.inode(of)
        state = self._overlay.inode(copy) or self._replica.inode(copy)
        assert state is not None, "what is shown under a name is known"
        mark = ConflictMark(
            of=of,
            name=old.name,
            parent=old.parent,
            base_revision=base[1],
            base_of=base[0],
            their_revision=theirs.revision if theirs else NO_REVISION,
            device=self._labels.device,
            time_ns=state.mtime_ns,
        )
        value = encode_mark(mark)
        made = self._append(
            SetXattr(n=NO_OP, time_ns=max(0, state.ctime_ns), inode=copy, name=CONFLICT_XATTR, value=value)
        )
        marked = msgspec.structs.replace(state, xattrs={**state.xattrs, CONFLICT_XATTR: value})
        self._overlay.put_inode(marked, made.n)

    # -- merging -----------------------------------------------------------------------------------------------------

    def _merge(self, row: JournalRow, inode: InodeId, into: InodeId) -> None:
        into = self._journal.aliases.apart(into, inode)
        names = [Place(*name) for name in self._overlay.names_of(inode)]
        is_new = self._is_unseen(into)
        self._telling.note(names)
        self._telling.touch((inode, into))
        state, theirs = self._overlay.inode(inode), self._replica.inode(into) or self._overlay.inode(into)
        if state is None or theirs is None or theirs.kind is InodeKind.DIRECTORY:
            self._merge_directory(inode, into, is_new=is_new)
        else:
            self._merge_other(row, state, theirs)
        for name in names:
            self._lead(name, into)
        self._overlay.drop_inode(inode)
        self._telling.merged(inode, into, is_new=is_new)

    def _is_unseen(self, inode: InodeId) -> bool:
        """Whether programs here know nothing of an inode: it has no name that shows, and own changes are not about it.

        The kernel can then know it by the number of one that was found to be it.
        """
        if inode == self._root or self._overlay.inode(inode) is not None:
            return False
        return all(self._telling.was(Place(*name)) != inode for name in self._replica.names_of(inode))

    def _lead(self, name: Place, into: InodeId) -> None:
        """A name that queued mutations made leads elsewhere; one that was committed is as the backend has it."""
        op = self._overlay.op_of_dentry(*name)
        if self._is_queued(op):
            self._overlay.put_dentry(*name, into, op)
        else:
            self._overlay.drop_dentry(*name)

    def _is_queued(self, op: OpNumber) -> bool:
        row = self._journal.get(op)
        return row is not None and row.state is not RowState.ACKED

    def _merge_directory(self, inode: InodeId, into: InodeId, *, is_new: bool, is_taken: bool = False) -> None:
        """What is queued for a directory, and in it, is meant for another one."""
        theirs, own = self._replica.names_after(into, b"", MAX_TOLD_NAMES), self._overlay.children(inode)
        self._telling.note_merged_names(inode, into, {name for name, _child in [*theirs, *own]}, is_new=is_new)
        for name, child in own:
            op = self._overlay.op_of_dentry(inode, name)
            self._overlay.drop_dentry(inode, name)
            # What was committed was done to the directory that this one is no more.
            if self._overlay.op_of_dentry(into, name) < op and self._is_queued(op):
                self._overlay.put_dentry(into, name, child, op)
        self._telling.touch(child for _name, child in own if child)
        if is_taken or self._replica.inode_now(inode) is not None:
            # The backend knows something else by this id: only what is queued now is meant for the other one.
            self._journal.rename_queued(inode, into)
            return
        self._journal.aliases.add(inode, into)
        for each in (inode, *(child for _name, child in own if child)):
            for row in self._journal.touching(each):
                if row.state in UNSENT:
                    self._journal.replace(row.mutation)

    def _merge_other(self, row: JournalRow, state: InodeState, theirs: InodeState) -> None:
        """What is queued for a file, a link or a special file is meant for one that is the same."""
        inode, into = state.inode, theirs.inode
        is_file = theirs.kind is InodeKind.FILE
        draft = self._journal.drafts.draft(inode) if is_file else None
        store = draft.frozen_op if draft is not None else NO_OP
        if is_file:
            self._contents.merged(inode, theirs, store)
        waiting = 0
        for each in self._journal.touching(inode):
            if each.n == row.n or each.state is not RowState.PENDING:
                continue
            if each.n == store:
                self._journal.remove(each.n)
                self._outcome.contents.add(inode)
                continue
            fixed = renamed(each.mutation, {inode: into})
            if isinstance(fixed, Unlink | Rename) and planner.replaced(fixed) == into:
                fixed = msgspec.structs.replace(fixed, base=Base(revision=theirs.revision))
            self._journal.replace(fixed)
            waiting += 1
        left = self._journal.drafts.draft(into)
        if waiting or left is not None:
            shown = self._overlay.inode(inode) or state
            kept = {"mode": shown.mode, "mtime_ns": shown.mtime_ns, "atime_ns": shown.atime_ns}
            size = shown.size if left is not None else theirs.size
            xattrs = {**theirs.xattrs, **shown.xattrs}
            self._overlay.put_inode(msgspec.structs.replace(theirs, **kept, size=size, xattrs=xattrs), NO_OP)
        if left is not None:
            self._outcome.contents.add(into)

    def _give_fresh_id(self, create: Create) -> None:
        inode, fresh = create.inode, self._journal.allocate_inode()
        names, state = self._overlay.names_of(inode), self._overlay.inode(inode)
        made = self._append(msgspec.structs.replace(create, inode=fresh))
        if create.kind is InodeKind.DIRECTORY:
            self._merge_directory(inode, fresh, is_new=True, is_taken=True)
        for row in self._journal.touching(inode):
            if row.n != create.n and row.state is RowState.PENDING:
                self._journal.replace(renamed(row.mutation, {inode: fresh}))
        draft = self._journal.drafts.draft(inode)
        if draft is not None:
            self._contents.moved(inode, fresh, draft.frozen_op)
            self._outcome.contents |= {inode, fresh}
        self._telling.note(Place(*name) for name in names)
        for name in names:
            self._lead(Place(*name), fresh)
        if state is not None:
            self._overlay.put_inode(msgspec.structs.replace(state, inode=fresh), made.n)
        self._overlay.drop_inode(inode)
        self._telling.touch([fresh])
        self._telling.merged(inode, fresh, is_new=True)

    # -- new files ---------------------------------------------------------------------------------------------------

    def _copy(self, store: Store, action: Copy) -> None:
        """Give the stored blocks a file of their own, beside the old name or in `lost+found`."""
        inode = store.inode
        state, frozen = self._overlay.inode(inode) or self._replica.inode(inode), self._contents.frozen(inode)
        if state is None or frozen is None:
            # The file was removed here meanwhile, its content with it.
            return
        old = self._place_of(inode)
        if action.is_lost or old is None:
            name = old.name if old is not None else b"file-%d" % inode
            old = Place(self._lost_and_found(store.time_ns), name)
        place = self._free_name(old) if self._is_taken(old) else old
        copy, created = self._create(state, place, store.time_ns)
        stored = self._append(msgspec.structs.replace(as_first(store, frozen[1]), inode=copy))
        self._contents.moved(inode, copy, stored.n)
        self._overlay.put_inode(new_state(state, copy, nlink=1, xattrs={}), created)
        if not action.is_lost:
            self._mark(copy, old, inode, (inode, action.base))
        self._outcome.copies.append((copy, place))
        self._outcome.contents.add(copy)
        if self._replica.inode(inode) is not None:
            self._overlay.drop_inode(inode)

    def _create(self, state: InodeState, place: Place, time_ns: int) -> tuple[InodeId, OpNumber]:
        """Make a new file like another one."""
        inode = self._journal.allocate_inode()
        create = Create(
            n=NO_OP,
            time_ns=time_ns,
            inode=inode,
            parent=place.parent,
            name=place.name,
            kind=state.kind,
            mode=state.mode,
            uid=state.uid,
            gid=state.gid,
        )
        return inode, self._append(create).n

    def _make_anew(self, row: JournalRow, action: Anew) -> None:
        """Let a file that is gone go on as a new one, with its content, its attributes and what is queued for it."""
        inode, drafts = row.mutation.inode, self._journal.drafts
        state, draft = self._overlay.inode(inode) or self._replica.inode(inode), drafts.draft(inode)
        if state is None or draft is None:
            return  # the file was removed here meanwhile, its content with it
        old = Place(self._journal.aliases.inode(action.place.parent), action.place.name)
        place = self._free_name(old) if self._is_taken(old) else old
        names = [Place(*name) for name in self._overlay.names_of(inode)]
        self._telling.note(names)
        frozen, sending = self._contents.frozen(inode), self._journal.get(draft.frozen_op)
        fresh, created = self._create(state, place, row.mutation.time_ns)
        kept = {name: value for name, value in state.xattrs.items() if name != CONFLICT_XATTR}
        for xattr, value in kept.items():
            self._append(SetXattr(n=NO_OP, time_ns=max(0, state.ctime_ns), inode=fresh, name=xattr, value=value))
        stored = NO_OP
        is_unsent = sending is not None and sending.state in (RowState.PENDING, RowState.FAILED)
        if frozen is not None and sending is not None and is_unsent and isinstance(sending.mutation, Store):
            stored = self._append(msgspec.structs.replace(as_first(sending.mutation, frozen[1]), inode=fresh)).n
            if sending.n != row.n:
                self._journal.remove(sending.n)
        waiting = [each for each in self._journal.touching(inode) if each.n != row.n and each.state is RowState.PENDING]
        meant = [renamed(each.mutation, {inode: fresh}) for each in waiting]
        for each, fixed in renaming.to_be_named(meant, fresh, state.nlink):
            if fixed is not None:
                self._journal.replace(fixed)
                continue
            self._journal.remove(each.n)
            if self._overlay.op_of_dentry(*place) == each.n:
                self._overlay.put_dentry(*place, fresh, created)
        self._contents.moved(inode, fresh, stored)
        for name in names:
            self._lead(name, fresh)
        nlink = max(1, len(self._overlay.names_of(fresh)))
        self._overlay.put_inode(new_state(state, fresh, nlink=nlink, xattrs=kept), created)
        self._overlay.drop_inode(inode)
        self._telling.merged(inode, fresh, is_new=True)
        if place != old:
            self._follow(fresh, old, place, created)
            self._mark(fresh, old, action.of or inode, (inode, action.base))
            self._outcome.copies.append((fresh, place))
        if stored or not self._contents.is_written(fresh):
            self._outcome.contents.add(fresh)

    def _place_of(self, inode: InodeId) -> Place | None:
        names = self._overlay.names_of(inode) or self._replica.names_of(inode)
        return Place(*names[0]) if names else None

    def _lost_and_found(self, time_ns: int) -> InodeId:
        """The drive's `lost+found`, made if there is none."""
        place = Place(self._root, LOST_AND_FOUND_NAME)
        found = self._leads_to(place)
        state = (self._overlay.inode(found) or self._replica.inode(found)) if found else None
        if state is not None and state.kind is InodeKind.DIRECTORY:
            return found
        if found:
            place = self._free_name(place)
        made = Create(
            n=NO_OP,
            time_ns=time_ns,
            inode=self._journal.allocate_inode(),
            parent=place.parent,
            name=place.name,
            kind=InodeKind.DIRECTORY,
            mode=LOST_AND_FOUND_MODE,
        )
        op = self._append(made).n
        state = InodeState(
            inode=made.inode,
            kind=made.kind,
            mode=made.mode,
            atime_ns=time_ns,
            mtime_ns=time_ns,
            ctime_ns=time_ns,
            nlink=2,
        )
        self._overlay.put_inode(state, op)
        return made.inode

    def _free_name(self, place: Place) -> Place:
        taken = 0
        while True:
            derived = renaming.conflict_name(
                place.name, device=self._labels.device, date=self._labels.today(), taken=taken
            )
            if not self._is_taken(Place(place.parent, derived)):
                return Place(place.parent, derived)
            taken += 1

    def _is_taken(self, place: Place) -> bool:
        return bool(self._leads_to(place))

    def _leads_to(self, place: Place) -> InodeId:
        here = self._overlay.dentry(*place)
        there = self._replica.dentry(*place) if here is MISSING else here
        return NO_INODE if there is MISSING or there is None else there

    # -- what is shown -----------------------------------------------------------------------------------------------

    def _refresh(self, inode: InodeId) -> None:
        """Let the backend's state of an inode show where nothing here changes it; else count its names anew."""
        state, theirs = self._overlay.inode(inode), self._replica.inode(inode)
        if state is None or theirs is None:
            return
        waiting = [row.mutation for row in self._journal.touching(inode)]
        is_parent = theirs.kind is InodeKind.DIRECTORY and self._overlay.children(inode)
        if not waiting and not is_parent and self._journal.drafts.draft(inode) is None:
            self._overlay.drop_inode(inode)
            return
        nlink = theirs.nlink
        if theirs.kind is not InodeKind.DIRECTORY:
            nlink += sum(renaming.names_more(mutation, inode) for mutation in waiting)
            nlink = max(nlink, int(self._has_name(inode)))
        elif any(renaming.names_more(mutation, inode) < 0 for mutation in waiting):
            nlink = 0
        if state.nlink and nlink <= 0 and self._journal.drafts.draft(inode) is not None:
            # Its last name here was given up: what is unpublished is sent, and comes back where the file was last.
            nlink = 1
        if state.nlink != max(0, nlink):
            self._overlay.put_inode(msgspec.structs.replace(state, nlink=max(0, nlink)), NO_OP)

    def _has_name(self, inode: InodeId) -> bool:
        return any(self._leads_to(Place(*name)) == inode for name in self.places.names_of(inode))


def new_state(state: InodeState, inode: InodeId, *, nlink: int, xattrs: dict[bytes, bytes]) -> InodeState:
    """The state of a new file that is like another one, before anything of it is committed."""
    fresh = {"revision": NO_REVISION, "blocks": None, "lineage": LineageId(0), "seq": Seq(0)}
    return msgspec.structs.replace(state, inode=inode, nlink=nlink, xattrs=xattrs, **fresh)
