"""What becomes of a change that the backend refused: the conflict rules, as one pure function.

Owns the rules. It is given the refused mutation, the revision on which it was made, what this device has and what the
backend has now, and gives actions; `amends` performs them, `refusals` says when. It reads and changes nothing.

The rules, for what was committed first against what was refused later:

- edit / edit: the later content becomes a file of its own beside the name. So it is when one of the two was a save by
  rename, in either order.
- The same content on both sides, edited or created, is no conflict: one file, and what is queued for the other id is
  meant for it. So are two directories of one name: they merge, and their children meet by the same rules.
- edit / delete, in either order: the edit survives. A stale removal is dropped; a removed file comes back at its place,
  and so do the directories above it that were removed.
- A removed file whose content the backend has let go comes back only with an edit, never without content. Where it had
  another content by then, or has none, what was edited is made as a new file in one step.
- rename / rename, and what would make a cycle: the first wins.
- Two things under one name: the later one gets another name.
- Attributes: each is as the last commit left it.

Invariant: content that exists nowhere else always ends under some name.
"""

from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from drivefs.protocol.changes import (
    Base,
    Create,
    Exchange,
    Link,
    Mutation,
    Rename,
    Restore,
    SetAttributes,
    SetXattr,
    Store,
    Unlink,
)
from drivefs.protocol.ids import NO_INODE, NO_OP, NO_REVISION, InodeId, RevisionNumber
from drivefs.protocol.model import InodeKind, InodeState, cut_runs, run_id, unpack_blocks
from drivefs.sync.questions import Local, Place, Remote

LOST_AND_FOUND = NO_INODE
"""In place of a directory: the drive's `lost+found`, for what has no way to the root any more."""

NOT_EMPTY = "not_empty"
GONE = "gone"
CYCLE = "cycle"
ABSENT = "absent"


class Refusal(NamedTuple):
    """A mutation that was refused, why, and the revision of what it changes or removes that it was made on.

    `base` is None if that is the outcome of an own op that has no number; for attributes it is what unsent content was
    made on. `is_final`: no state of the drive would let it pass.
    """

    mutation: Mutation
    reason: str
    base: RevisionNumber | None = None
    is_final: bool = False


@dataclass(frozen=True, slots=True)
class Make:
    """Make this change, in the place of the refused one in the order of the journal.

    `is_aside`: under a name derived from its own, which is taken. `of`: it is a conflict copy of that inode, made on
    the revision `base` of what the refused one was to replace, or else of what is made.
    """

    mutation: Mutation
    is_aside: bool = False
    of: InodeId = NO_INODE
    base: RevisionNumber = NO_REVISION


@dataclass(frozen=True, slots=True)
class Merge:
    """One inode is another from now on: what is queued for it, its unsent content and its descriptors go there."""

    inode: InodeId
    into: InodeId


@dataclass(frozen=True, slots=True)
class Adopt:
    """The backend has the content of the refused `Store` already, as this revision."""

    state: InodeState


@dataclass(frozen=True, slots=True)
class Copy:
    """The content of the refused `Store` becomes a new file, a conflict copy: beside the old name, or in `lost+found`.

    `base` is the revision of the file on which it was made.
    """

    base: RevisionNumber = NO_REVISION
    is_lost: bool = False


@dataclass(frozen=True, slots=True)
class Anew:
    """The edited file that the refused change is about is gone: it is made as a new one, with all that is queued.

    At `place`, or where that is taken, as a conflict copy of what is there: of `of`, made on its own revision `base`.
    """

    place: Place
    of: InodeId = NO_INODE
    base: RevisionNumber = NO_REVISION


@dataclass(frozen=True, slots=True)
class Drop:
    """The change is given up, what the backend has shows again; `why` is for people, if they have to know."""

    why: str = ""


@dataclass(frozen=True, slots=True)
class Stay:
    """Nothing can be done: the change stays as it is on this device, with what it carries."""


@dataclass(frozen=True, slots=True)
class FreshId:
    """The refused `Create` is made again with another inode id: its own belongs to something else."""


Action = Make | Merge | Adopt | Copy | Anew | Drop | Stay | FreshId


def resolve(refusal: Refusal, local: Local, remote: Remote) -> list[Action]:
    """Choose what to do about a refused mutation; the actions are performed in order, and then it is gone.

    `remote` must be at least as new as the refusal. Where nothing stands in the way any more, the same change is made
    again.
    """
    mutation = refusal.mutation
    if refusal.is_final:
        carries = isinstance(mutation, Create | Store | Restore)
        return [Stay() if carries else Drop(f"it is not allowed ({refusal.reason})")]
    match mutation:
        case Store():
            return _store(mutation, refusal, local, remote)
        case Create():
            return _create(mutation, local, remote)
        case Restore():
            return _restore(mutation, refusal, local, remote)
        case Link():
            return _link(mutation, local, remote)
        case Rename():
            return _rename(mutation, refusal, local, remote)
        case Unlink():
            return _unlink(mutation, refusal, local, remote)
        case Exchange():
            return _exchange(mutation, refusal, local, remote)
        case SetAttributes() | SetXattr():
            return _attributes(mutation, refusal, local, remote)


def _store(store: Store, refusal: Refusal, local: Local, remote: Remote) -> list[Action]:
    if not local.is_edited(store.inode) or local.inode(store.inode) is None:
        return [Drop()]
    theirs = remote.inode(store.inode)
    if theirs is None:
        place = remote.last_place(store.inode)
        if place is None:
            return [Copy(is_lost=True)]
        if _is_superseded(store.inode, local, remote):
            return _made_anew(store.inode, place, local, remote)
        return _bring_back(store, place, local, remote)
    if theirs.revision == refusal.base:
        return [Make(store)]
    if theirs.revision == NO_REVISION and (content := local.content(store.inode)) is not None:
        # It was brought back after its content had been let go: what was changed of that is all there is.
        return [Make(as_first(store, content))]
    if local.content(store.inode) == remote.content(theirs):
        return [Adopt(theirs)]
    return [Copy(base=refusal.base or NO_REVISION)]


def as_first(store: Store, content: bytes) -> Store:
    """The same content, for a file that has none."""
    runs = list(cut_runs(unpack_blocks(content)))
    ids = [run_id(run) for run in runs]
    unique = list(dict(zip(ids, runs, strict=True)).values())
    return msgspec.structs.replace(store, base=Base(), runs=ids, new_runs=unique)


def _bring_back(change: Store | SetAttributes | SetXattr, place: Place, local: Local, remote: Remote) -> list[Action]:
    """What was edited here was removed, or replaced, elsewhere."""
    way = _way(place.parent, remote)
    at = NO_INODE if way else remote.at(place)
    restore = _restored(change, place, local)
    if not at:
        return [*way, Make(restore), Make(change)]
    if _is_same(change.inode, at, local, remote):
        return _merged(change, at)
    base = change.base.revision if isinstance(change, Store) else NO_REVISION
    return [Make(restore, is_aside=True, of=_marked(change.inode, at, local, remote), base=base), Make(change)]


def _merged(change: Store | SetAttributes | SetXattr, at: InodeId) -> list[Action]:
    """What is the same as what is there now has its content; what was set of it is still to be set."""
    merge = Merge(change.inode, at)
    return [merge] if isinstance(change, Store) else [Make(change), merge]


def _is_superseded(inode: InodeId, local: Local, remote: Remote) -> bool:
    """Whether an edited file that is gone had other content then, or has none: bringing it back would show it."""
    is_other = remote.is_emptied(inode) or remote.was_rewritten(inode, local.base(inode))
    return local.is_edited(inode) and is_other


def _made_anew(inode: InodeId, place: Place, local: Local, remote: Remote) -> list[Action]:
    way = _way(place.parent, remote)
    at = NO_INODE if way else remote.at(place)
    if at and _is_same(inode, at, local, remote):
        return [Merge(inode, at)]
    return [*way, Anew(place, _marked(inode, at, local, remote), local.base(inode) or NO_REVISION)]


def _restored(because: Mutation, place: Place, local: Local) -> Restore:
    return Restore(
        n=NO_OP,
        time_ns=because.time_ns,
        inode=because.inode,
        parent=place.parent,
        name=place.name,
        expects_content=not local.is_edited(because.inode),
    )


def _way(directory: InodeId, remote: Remote) -> list[Action]:
    """Bring a directory that was removed back, with those above it; nothing if it is there.

    What was made anew under one of their names stands for it, and is where the next is looked for.
    """
    actions: list[Action] = []
    gone: dict[InodeId, Place] = {}
    while remote.inode(directory) is None:
        place = remote.last_place(directory)
        if place is None or directory in gone:
            actions.append(Merge(directory, LOST_AND_FOUND))
            directory = NO_INODE
            break
        gone[directory] = place
        directory = place.parent
    above = directory
    for inode, place in reversed(gone.items()):
        at = remote.at(Place(above, place.name)) if above else NO_INODE
        state = remote.inode(at) if at else None
        if state is not None and state.kind is InodeKind.DIRECTORY:
            actions.append(Merge(inode, at))
            above = at
            continue
        restore = Restore(n=NO_OP, time_ns=0, inode=inode, parent=place.parent, name=place.name)
        actions.append(Make(restore, is_aside=bool(at)))
        above = NO_INODE
    return actions


def _create(create: Create, local: Local, remote: Remote) -> list[Action]:
    if local.inode(create.inode) is None:
        return [Drop()]
    if way := _way(create.parent, remote):
        return [*way, Make(create)]
    place = Place(create.parent, create.name)
    at = remote.at(place)
    if not at:
        return [Make(create)]
    if local.at(place) != create.inode:
        # It has moved on since: what it was first called nobody needs to see.
        return [Make(create, is_aside=True)]
    theirs = remote.inode(at)
    if theirs is None or not _is_same(create.inode, at, local, remote):
        return [Make(create, is_aside=True, of=_marked(create.inode, at, local, remote))]
    actions: list[Action] = [Merge(create.inode, at)]
    if create.mode != theirs.mode:
        actions.append(Make(SetAttributes(n=NO_OP, time_ns=create.time_ns, inode=at, mode=create.mode)))
    return actions


def _restore(restore: Restore, refusal: Refusal, local: Local, remote: Remote) -> list[Action]:
    mine = local.inode(restore.inode)
    if mine is None or remote.inode(restore.inode) is not None:
        return [Drop()]
    if refusal.reason == ABSENT:
        return [Merge(restore.inode, LOST_AND_FOUND)] if mine.kind is InodeKind.DIRECTORY else [Drop()]
    if refusal.reason == GONE and not local.is_edited(restore.inode):
        return [Drop("it was removed, and its content has gone from the trash for good since")]
    restore = msgspec.structs.replace(restore, expects_content=restore.expects_content and refusal.reason != GONE)
    if way := _way(restore.parent, remote):
        return [*way, Make(restore)]
    at = remote.at(Place(restore.parent, restore.name))
    if at and _is_same(restore.inode, at, local, remote):
        return [Merge(restore.inode, at)]
    return [Make(restore, is_aside=bool(at), of=_marked(restore.inode, at, local, remote))]


def _link(link: Link, local: Local, remote: Remote) -> list[Action]:
    if local.inode(link.inode) is None:
        return [Drop()]
    place = Place(link.parent, link.name)
    if remote.inode(link.inode) is None and _is_superseded(link.inode, local, remote):
        return _made_anew(link.inode, place, local, remote)
    change: Mutation = link if remote.inode(link.inode) is not None else _restored(link, place, local)
    if way := _way(link.parent, remote):
        return [*way, Make(change)]
    at = remote.at(place)
    return [Drop()] if at == link.inode else [Make(change, is_aside=bool(at))]


def _rename(rename: Rename, refusal: Refusal, local: Local, remote: Remote) -> list[Action]:
    inode, target = rename.inode, Place(rename.new_parent, rename.new_name)
    way = _way(rename.new_parent, remote)
    if remote.inode(inode) is None:
        # Removed elsewhere, and somebody here goes on with it: it comes back where it was moved to.
        if local.inode(inode) is None:
            return [Drop()]
        back: list[Action] = [Make(_restored(rename, target, local))]
        if is_superseded := _is_superseded(inode, local, remote):
            back = _made_anew(inode, target, local, remote)
        if Merge(inode, rename.replaced) in back:
            # What it was to replace has that content already, and stands for both.
            return back
        is_whole = local.is_edited(inode) or not remote.is_emptied(inode)
        if is_whole and rename.replaced and not way and remote.at(target) == rename.replaced:
            # So does what it was to replace go, unless that has changed; without content nothing comes in its place.
            at, old = target, rename.replaced
            gone = Unlink(n=NO_OP, time_ns=rename.time_ns, parent=at.parent, name=at.name, inode=old, base=rename.base)
            return [Make(gone), *back]
        return back if is_superseded else [*way, *back]
    if remote.at(Place(rename.parent, rename.name)) != inode:
        if not way and remote.at(target) == inode:
            return [Drop()]
        names = remote.names(inode)
        if local.at(target) != inode or not names or not all(map(local.is_removed, names)):
            return [Drop("it was moved elsewhere first")]
        # The name that it got elsewhere was removed here: this one is what is left of it.
        rename = msgspec.structs.replace(rename, parent=names[0].parent, name=names[0].name)
    if refusal.reason == CYCLE:
        return [Drop("elsewhere, what it was to be put into was put into it")]
    if way:
        return [*way, Make(msgspec.structs.replace(rename, replaced=NO_INODE, base=Base()))]
    return _over(rename, refusal, local, remote)


def _over(rename: Rename, refusal: Refusal, local: Local, remote: Remote) -> list[Action]:
    """The target of a rename is not as it was expected."""
    inode = rename.inode
    at = remote.at(Place(rename.new_parent, rename.new_name))
    theirs = remote.inode(at) if at else None
    if theirs is None:
        return [Make(msgspec.structs.replace(rename, replaced=NO_INODE, base=Base()))]
    if at == inode:
        return [Drop()]
    mine = local.inode(inode) or remote.inode(inode)
    if theirs.kind is InodeKind.DIRECTORY and mine is not None and mine.kind is InodeKind.DIRECTORY:
        return _pour(rename, at, local)
    if at == rename.replaced and (theirs.kind is not InodeKind.FILE or theirs.revision == refusal.base):
        return [Make(rename)]
    if _is_same(inode, at, local, remote):
        return [Make(msgspec.structs.replace(rename, replaced=at, base=Base(revision=theirs.revision)))]
    aside = msgspec.structs.replace(rename, replaced=NO_INODE, base=Base())
    marked = _marked(inode, at, local, remote)
    return [Make(aside, is_aside=True, of=marked, base=refusal.base or NO_REVISION)]


def _pour(rename: Rename, into: InodeId, local: Local) -> list[Action]:
    """Two directories were moved to one name: what the later one holds goes into the first."""
    directory = rename.inode
    actions: list[Action] = [
        Make(_renamed(child, Place(directory, name), Place(into, name), rename))
        for name, child in local.children(directory)
    ]
    emptied = Unlink(
        n=NO_OP, time_ns=rename.time_ns, parent=rename.parent, name=rename.name, inode=directory, base=Base()
    )
    return [*actions, Make(emptied)]


def _renamed(inode: InodeId, old: Place, new: Place, because: Mutation) -> Rename:
    return Rename(
        n=NO_OP,
        time_ns=because.time_ns,
        parent=old.parent,
        name=old.name,
        new_parent=new.parent,
        new_name=new.name,
        inode=inode,
    )


def _unlink(unlink: Unlink, refusal: Refusal, local: Local, remote: Remote) -> list[Action]:
    place, theirs = Place(unlink.parent, unlink.name), remote.inode(unlink.inode)
    # Where something own has the name since, taking it away was a step of saving: that it came to nothing is no news.
    is_told = not local.at(place)
    at = remote.at(place)
    if theirs is None or at != unlink.inode:
        return [Drop("it was removed here, but replaced elsewhere" if at and is_told else "")]
    if refusal.reason == NOT_EMPTY:
        return [Drop("it was removed here, but something was put into it elsewhere" if is_told else "")]
    if theirs.kind is not InodeKind.FILE or theirs.revision == refusal.base:
        return [Make(unlink)]
    return [Drop("it was removed here, but changed elsewhere" if is_told else "")]


def _exchange(exchange: Exchange, refusal: Refusal, local: Local, remote: Remote) -> list[Action]:
    here = Place(exchange.parent, exchange.name)
    there = Place(exchange.other_parent, exchange.other_name)
    is_here, is_there = remote.at(here) == exchange.inode, remote.at(there) == exchange.other
    if is_here and is_there and refusal.reason != CYCLE:
        return [Make(exchange)]
    moved = exchange.inode if is_here else exchange.other
    mine = local.inode(moved)
    if is_here != is_there and mine is not None and mine.kind is InodeKind.FILE:
        # It was to take the place of another, as new contents do in some ways of saving; that one has moved on.
        old, new = (here, there) if is_here else (there, here)
        if remote.inode(new.parent) is not None:
            return _over(_renamed(moved, old, new, exchange), refusal, local, remote)
    return [Drop("it was to be exchanged with another that was moved elsewhere first")]


def _attributes(change: SetAttributes | SetXattr, refusal: Refusal, local: Local, remote: Remote) -> list[Action]:
    if remote.inode(change.inode) is not None:
        return [Make(change)]
    place, is_edited = remote.last_place(change.inode), local.is_edited(change.inode)
    if place is None or not is_edited or local.inode(change.inode) is None:
        return [Drop()]
    if not _is_superseded(change.inode, local, remote):
        return _bring_back(change, place, local, remote)
    at = NO_INODE if _way(place.parent, remote) else remote.at(place)
    # What is to become a copy has its attributes from what is shown here.
    return _merged(change, at) if at and _is_same(change.inode, at, local, remote) else [Drop()]


def _is_same(inode: InodeId, other: InodeId, local: Local, remote: Remote) -> bool:
    """Whether one inode can stand for both: nothing would be lost by it."""
    mine, theirs = local.inode(inode), remote.inode(other)
    if mine is None or theirs is None or mine.kind is not theirs.kind:
        return False
    if mine.kind is InodeKind.FILE:
        return not local.is_edited(other) and local.content(inode) == remote.content(theirs)
    if mine.kind is InodeKind.DIRECTORY:
        return True
    return (mine.target, mine.rdev) == (theirs.target, theirs.rdev)


def _marked(inode: InodeId, other: InodeId, local: Local, remote: Remote) -> InodeId:
    """The file whose conflict copy an inode is, if both are files."""
    mine, theirs = local.inode(inode), remote.inode(other) if other else None
    are_files = mine is not None and theirs is not None and mine.kind is theirs.kind is InodeKind.FILE
    return other if are_files else NO_INODE
