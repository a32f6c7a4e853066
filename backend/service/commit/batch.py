"""Judging a batch: each mutation in its turn, against the state that those before it left; pure.

Owns the order of the questions: is the op known, is it too old, can it ever be applied, may this device, are its
predecessors settled, does what it expects still hold. Invariant: a mutation that is not `ok` changes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, NamedTuple

from blake3 import blake3

from backend.service.commit import inodes, naming, refusals, validity
from backend.service.commit.state import State
from drivefs.protocol import changes, wire
from drivefs.protocol.changes import FINAL, Mutation, OpResult, Status
from drivefs.protocol.ids import InodeId, OpNumber, RevisionNumber

APPLY: dict[type[Mutation], Callable[[State, Any], RevisionNumber]] = {
    changes.Create: naming.create,
    changes.Link: naming.link,
    changes.Unlink: naming.unlink,
    changes.Rename: naming.rename,
    changes.Exchange: naming.exchange,
    changes.Restore: naming.restore,
    changes.SetAttributes: inodes.set_attributes,
    changes.SetXattr: inodes.set_xattr,
    changes.Store: inodes.store,
}


class StoredResult(NamedTuple):
    """A row of `op_results`: the hash of the mutation and the final answer to it."""

    hash: bytes
    result: OpResult


class Standing(NamedTuple):
    """How far an epoch has come: all ops below `watermark` are settled, and `sent` is the highest number of a batch."""

    watermark: OpNumber = OpNumber(0)
    sent: int = 0


class ChangeRow(NamedTuple):
    """A row of `changes`: what a mutation did, by ids. A name without an inode beside it is gone or swapped."""

    kind: str
    inode: InodeId
    parent: InodeId | None = None
    name: bytes | None = None
    other_inode: InodeId | None = None
    other_parent: InodeId | None = None
    other_name: bytes | None = None


@dataclass(slots=True)
class Verdict:
    """The answers in the order of the mutations, and what is to be written beside the state."""

    results: list[OpResult] = field(default_factory=list)
    new_results: list[StoredResult] = field(default_factory=list)
    changes: list[ChangeRow] = field(default_factory=list)


def hash_mutation(mutation: Mutation) -> bytes:
    """What tells whether an op number is used for the same mutation again."""
    return blake3(wire.encode(mutation)).digest()


def judge(state: State, mutations: Sequence[Mutation], known: dict[OpNumber, StoredResult]) -> Verdict:
    """Judge a batch and apply to `state` what is `ok`.

    A file whose first content stands directly behind its creation and cannot be stored, yet or ever, is not created
    either: nobody is to see it empty. Nor is content asked for of a file that cannot be created.
    """
    verdict = Verdict()
    state.outcomes.update((n, stored.result) for n, stored in known.items())
    waiting: dict[OpNumber, OpResult] = {}
    for mutation, following in zip_longest(mutations, mutations[1:]):
        hashed = hash_mutation(mutation)
        stored = known.get(mutation.n)
        if stored is not None:
            same = stored.hash == hashed
            verdict.results.append(stored.result if same else OpResult(mutation.n, Status.ID_TAKEN))
            continue
        if following is not None and following.n not in known:
            _look_ahead(state, mutation, following, waiting)
        result = waiting.pop(mutation.n, None) or _answer(state, mutation)
        state.outcomes[mutation.n] = result
        verdict.results.append(result)
        if result.status in FINAL:
            verdict.new_results.append(StoredResult(hashed, result))
        if result.status is Status.OK:
            verdict.changes.append(describe(mutation))
    return verdict


def _look_ahead(state: State, mutation: Mutation, following: Mutation, waiting: dict[OpNumber, OpResult]) -> None:
    """Let a creation wait with the first content that follows it, if that has to wait, or be refused with it."""
    if not isinstance(mutation, changes.Create) or not isinstance(following, changes.Store):
        return
    if not state.author.may_write:
        return  # it is refused for that, whatever it lacks
    if following.inode != mutation.inode or validity.problem(following):
        return
    if not naming.may_create(state, mutation):
        return
    try:
        state.contents.check(following, set())
    except refusals.Refused as refused:
        status = refused.status if refused.status in FINAL else Status.BLOCKED
        waiting[mutation.n] = OpResult(mutation.n, status, reason=refused.reason)
        waiting[following.n] = _refusal(state, following, refused)


def _answer(state: State, mutation: Mutation) -> OpResult:
    if mutation.n < state.watermark:
        return OpResult(mutation.n, Status.STALE)
    try:
        if problem := validity.problem(mutation):
            raise refusals.rejected(problem)
        if not state.author.may_write:
            raise refusals.rejected(refusals.ROLE)
        for op in mutation.after:
            state.require_settled(op)
        revision = APPLY[type(mutation)](state, mutation)
    except refusals.Refused as refused:
        return _refusal(state, mutation, refused)
    return OpResult(mutation.n, Status.OK, seq=state.author.seq, revision=revision)


def _refusal(state: State, mutation: Mutation, refused: refusals.Refused) -> OpResult:
    result = OpResult(mutation.n, refused.status, reason=refused.reason, blocks=refused.blocks)
    if refused.status is Status.NEEDS_BLOCKS:
        result.workspace = state.author.workspace
    return result


def describe(mutation: Mutation) -> ChangeRow:
    """What the feed keeps of an applied mutation."""
    kind = str(mutation.__struct_config__.tag)
    match mutation:
        case changes.Rename():
            target = (mutation.replaced or None, mutation.new_parent, mutation.new_name)
            return ChangeRow(kind, mutation.inode, mutation.parent, mutation.name, *target)
        case changes.Exchange():
            other = (mutation.other, mutation.other_parent, mutation.other_name)
            return ChangeRow(kind, mutation.inode, mutation.parent, mutation.name, *other)
        case changes.SetAttributes() | changes.SetXattr() | changes.Store():
            return ChangeRow(kind, mutation.inode)
        case _:
            return ChangeRow(kind, mutation.inode, mutation.parent, mutation.name)
