"""Which mutations of the journal go into the next commit, and in what order; pure.

Owns the order rules. It sees unsettled mutations in journal order and what is known of the unpublished content of the
inodes that they name, and gives the next batch. It neither reads the journal nor sends anything.

Rules:

- Two mutations depend on each other when they write the same dentry or inode, or when one creates, removes or moves a
  directory that the other names as parent. Sharing a parent alone is no dependency. The time of a directory is set
  after what happened in it before.
- A file is created together with its first content: its `Create` waits until the content is stored as blocks, and the
  `Store` stands directly behind it in the same batch, wherever it stands in the journal.
- A file that was removed here before its content was sent has none any more: its `Create` goes in one batch with what
  removes it, so that nobody sees a file that is empty.
- What was exchanged before it was sent is created in one batch with the exchange, so that nobody sees it under the name
  that it had before, which may be one that stays on this device. Directories are not: much may be in them.
- What waits, waits together with all that depends on it. If it waits for little content that is on its way, everything
  later in the journal waits too, so that small files never arrive after what was written because of them. Content that
  is large, still being written, or damaged, is overtaken.
"""

import enum
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from cache.effects import entries, parents, subjects
from drivefs.protocol import wire
from drivefs.protocol.changes import (
    Base,
    Create,
    Exchange,
    Link,
    Mutation,
    Rename,
    SetAttributes,
    Store,
    Unlink,
)
from drivefs.protocol.ids import NO_INODE, NO_OP, InodeId, OpNumber
from drivefs.protocol.messages import MAX_BATCH_BLOCKS, MAX_BATCH_BYTES, MAX_BATCH_MUTATIONS
from drivefs.protocol.model import MAX_RUN_BLOCKS, PACKED_BLOCK_BYTES, InodeKind

OVERTAKEN_ABOVE_BYTES = 8 * 2**20
"""Content larger than this, that is still on its way to the backend, no longer holds up what follows it."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Content of an inode that is not yet stored as blocks: how much, and whether it is on its way."""

    size_bytes: int
    on_its_way: bool


class Nothing(enum.Enum):
    """The type of `REMOVED`."""

    REMOVED = "removed"


REMOVED: Final = Nothing.REMOVED
"""In place of content that waits: the inode has no name any more, so there will never be any."""

WaitingContent = Callable[[InodeId], Waiting | Nothing | None]


@dataclass(slots=True)
class Plan:
    """`batch` is what to commit now, ready to send; `held_count` mutations stay for later."""

    batch: list[Mutation] = field(default_factory=list)
    held_count: int = 0
    is_full: bool = False
    """Whether more would have gone if there had been room."""
    is_ended: bool = False
    """Whether nothing later may go before something that was looked at."""
    is_sure: bool = False
    """Whether it would be the same if later mutations had been looked at too."""


@dataclass(slots=True)
class _Touched:
    """The last op that wrote each inode and dentry, and that created, moved or removed each directory."""

    inodes: dict[InodeId, OpNumber] = field(default_factory=dict)
    dentries: dict[tuple[InodeId, bytes], OpNumber] = field(default_factory=dict)
    directories: dict[InodeId, OpNumber] = field(default_factory=dict)
    children: dict[InodeId, list[OpNumber]] = field(default_factory=dict)
    stores: dict[InodeId, OpNumber] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Group:
    """Mutations that go together, ready to send, and the content that they wait for.

    `ends` is the op that removes what they create without content, or exchanges it: they go only with it; `NO_OP`: it
    is not known yet.
    """

    mutations: list[Mutation]
    waits: Waiting | None
    ends: OpNumber | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """What a batch has to keep to.

    `frozen` are ops that were sent before: they go out exactly as they are. `deferred` are ops that have to wait, and
    all that depends on them. With `only`, nothing goes but these ops and what they depend on, and the others do not
    hold them up. No more than about `most` mutations go.
    """

    frozen: Set[OpNumber]
    deferred: Set[OpNumber]
    only: Set[OpNumber] | None = None
    most: int = MAX_BATCH_MUTATIONS


def plan(mutations: Iterable[Mutation], waiting: WaitingContent, terms: Terms) -> Plan:
    """Choose the next batch from unsettled mutations in journal order.

    `waiting` says of a created inode whether its content is still to be stored as blocks. The batch keeps the bounds
    of a commit. Each mutation in it that was not sent before is given its predecessors, and as its base the outcome of
    the device's own earlier store where there is one.
    """
    mutations = list(mutations)
    groups = list(_groups(mutations, waiting, terms.frozen))
    if terms.only is not None:
        groups = _with_all_before(groups, terms.only)
    held, first = set(terms.deferred), _choose(groups, terms.deferred, terms.most)
    result = first
    while result.batch and (early := _without_end(groups, result.batch)):
        held |= early
        result = _choose(groups, held, terms.most)
    result.is_sure = result is first and first.is_ended
    if not result.batch and first.is_full and terms.most < MAX_BATCH_MUTATIONS:
        return plan(mutations, waiting, replace(terms, most=MAX_BATCH_MUTATIONS))
    if not result.batch and first.is_full:
        # They are more than go at once: an empty file for a moment is better than none of it ever.
        result = first
    result.held_count = len(mutations) - len(result.batch)
    return result


def _choose(groups: Iterable[_Group], deferred: Set[OpNumber], most: int) -> Plan:
    """Take groups in order while there is room, but those that wait, or that depend on what waits."""
    result, held, room = Plan(), set(deferred), Room(max(most, 2))
    for group in groups:
        waits = group.waits
        if waits is not None or any(m.n in held or not held.isdisjoint(m.after) for m in group.mutations):
            held.update(m.n for m in group.mutations)
            if waits is not None and waits.on_its_way and waits.size_bytes <= OVERTAKEN_ABOVE_BYTES:
                result.is_ended = True
                break
            continue
        if not room.take(group.mutations):
            result.is_full = result.is_ended = True
            break
        result.batch.extend(group.mutations)
    return result


def _without_end(groups: Iterable[_Group], batch: Sequence[Mutation]) -> set[OpNumber]:
    """The creations in a batch that go only with a removal which is not in it, and all that does not go then.

    That is what depends on them, and the creations that go only with a removal among that: of a file that is saved
    again and again by renaming, one after the other.
    """
    chosen = {mutation.n for mutation in batch}
    taken = [group for group in groups if not chosen.isdisjoint(m.n for m in group.mutations)]
    needing = defaultdict[OpNumber, list[_Group]](list)
    for group in taken:
        for n in {group.ends or NO_OP, *(n for m in group.mutations for n in m.after)}:
            needing[n].append(group)
    early = set[OpNumber]()
    going = [group for group in taken if group.ends is not None and group.ends not in chosen]
    while going:
        gone = {m.n for m in going.pop().mutations} - early
        early |= gone
        going += (group for n in gone for group in needing[n])
    return early


def _groups(mutations: Sequence[Mutation], waiting: WaitingContent, frozen: Set[OpNumber]) -> Iterator[_Group]:
    """The mutations in order, each with its predecessors; a file's creation with its first content."""
    stores = _first_stores(mutations)
    swaps = _first_swaps(mutations)
    attached = {store.n for store in stores.values()}
    touched = _Touched()
    ends: dict[InodeId, OpNumber] | None = None
    for mutation in mutations:
        if mutation.n in attached:
            continue
        group: list[Mutation] = [mutation]
        waits, end = None, None
        if isinstance(mutation, Create) and mutation.kind != InodeKind.DIRECTORY and mutation.n not in frozen:
            end = swaps.get(mutation.inode)
        if isinstance(mutation, Create) and mutation.kind == InodeKind.FILE:
            store = stores.get(mutation.inode)
            group += [store] if store else []
            found = None if store else waiting(mutation.inode)
            if found is REMOVED:
                ends = _last_removals(mutations) if ends is None else ends
                end = None if mutation.n in frozen else ends.get(mutation.inode, NO_OP)
            else:
                waits = found
        yield _Group([_with_predecessors(m, touched, frozen) for m in group], waits, end)


def _with_all_before(groups: Sequence[_Group], only: Set[OpNumber]) -> list[_Group]:
    """Those groups that have these ops, or that one of them depends on."""
    wanted, chosen = set(only), list[_Group]()
    for group in reversed(groups):
        if not wanted.isdisjoint(m.n for m in group.mutations):
            wanted.update(n for m in group.mutations for n in m.after)
            chosen.append(group)
    return chosen[::-1]


def _first_stores(mutations: Sequence[Mutation]) -> dict[InodeId, Store]:
    """The first `Store` of each file that these mutations create."""
    created = {m.inode for m in mutations if isinstance(m, Create)}
    stores: dict[InodeId, Store] = {}
    for mutation in mutations:
        if isinstance(mutation, Store) and mutation.inode in created:
            stores.setdefault(mutation.inode, mutation)
    return stores


def _first_swaps(mutations: Iterable[Mutation]) -> dict[InodeId, OpNumber]:
    """The first op that exchanges each inode with another one."""
    swaps: dict[InodeId, OpNumber] = {}
    for mutation in mutations:
        if isinstance(mutation, Exchange):
            swaps.setdefault(mutation.inode, mutation.n)
            swaps.setdefault(mutation.other, mutation.n)
    return swaps


def _last_removals(mutations: Iterable[Mutation]) -> dict[InodeId, OpNumber]:
    """The ops that take away the last name of inodes that are made and named by these mutations alone."""
    names: dict[InodeId, int] = {}
    last: dict[InodeId, OpNumber] = {}
    for mutation in mutations:
        if isinstance(mutation, Create | Link):
            names[mutation.inode] = names.get(mutation.inode, 0) + 1
        elif isinstance(mutation, Unlink | Rename) and (inode := replaced(mutation)) != NO_INODE:
            names[inode] = names.get(inode, 0) - 1
            last[inode] = mutation.n
    return {inode: n for inode, n in last.items() if names[inode] <= 0}


@dataclass(slots=True)
class Room:
    """What is left of the bounds of one commit."""

    mutations: int = MAX_BATCH_MUTATIONS
    blocks: int = MAX_BATCH_BLOCKS
    size_bytes: int = MAX_BATCH_BYTES - 4096

    def take(self, group: Collection[Mutation]) -> bool:
        """Take the room that these need, if there is enough."""
        blocks = sum(_block_count(m) for m in group)
        size = sum(len(wire.encode(m)) for m in group)
        if len(group) > self.mutations or blocks > self.blocks or size > self.size_bytes:
            return False
        self.mutations -= len(group)
        self.blocks -= blocks
        self.size_bytes -= size
        return True


def rebase(mutations: Iterable[Mutation], *, inode: InodeId, old: Base, new: Base) -> Iterator[Mutation]:
    """Give those mutations that were made on the state `old` of an inode the base `new`: the device's own outcome."""
    for mutation in mutations:
        if isinstance(mutation, Store | Unlink | Rename) and replaced(mutation) == inode and mutation.base == old:
            yield msgspec.structs.replace(mutation, base=new)


def replaced(mutation: Store | Unlink | Rename) -> InodeId:
    """The inode whose content or name the mutation takes away: what its base is about."""
    return mutation.replaced if isinstance(mutation, Rename) else mutation.inode


def _block_count(mutation: Mutation) -> int:
    if not isinstance(mutation, Store):
        return 0
    new = sum(len(run) // PACKED_BLOCK_BYTES for run in mutation.new_runs)
    kept = len(mutation.runs) - len(mutation.new_runs)
    return new + min(kept, MAX_RUN_BLOCKS)


def _with_predecessors(mutation: Mutation, touched: _Touched, frozen: Set[OpNumber]) -> Mutation:
    """Note what the mutation touches; give it with the ops that must be settled before it, and its own base."""
    after: set[OpNumber] = set()
    for inode in filter(None, subjects(mutation)):
        after.add(touched.inodes.get(inode, NO_OP))
        touched.inodes[inode] = mutation.n
    for name in entries(mutation):
        after.add(touched.dentries.get(name, NO_OP))
        touched.dentries[name] = mutation.n
    for parent in parents(mutation):
        after.add(touched.directories.get(parent, NO_OP))
        touched.children.setdefault(parent, []).append(mutation.n)
    for directory in moved(mutation):
        after.add(touched.directories.get(directory, NO_OP))
        after.update(touched.children.pop(directory, ()))
        touched.directories[directory] = mutation.n
    if isinstance(mutation, SetAttributes) and mutation.mtime_ns is not None:
        # A directory's time is set after what happened in it, which would move the time again.
        after.update(touched.children.get(mutation.inode, ()))
    after -= {NO_OP, mutation.n}
    if isinstance(mutation, Store):
        touched.stores[mutation.inode] = mutation.n
    if mutation.n in frozen:
        return mutation
    if isinstance(mutation, Unlink | Rename) and (own := touched.stores.get(replaced(mutation))):
        return msgspec.structs.replace(mutation, after=sorted(after), base=Base(revision_op=own))
    return msgspec.structs.replace(mutation, after=sorted(after))


def moved(mutation: Mutation) -> Sequence[InodeId]:
    """What a mutation makes, moves or ends, if that is or may be a directory."""
    match mutation:
        case Create():
            return [mutation.inode] if mutation.kind == InodeKind.DIRECTORY else []
        case Unlink() | Rename() | Exchange():
            return [inode for inode in subjects(mutation) if inode != NO_INODE]
        case _:
            return []
