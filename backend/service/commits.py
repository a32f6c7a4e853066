"""Commits: a batch of mutations becomes one step of its workspace's history, or part of it does, or nothing.

Owns the transaction: what is locked, in which order things are asked, and who is woken after it. How mutations are
judged is `commit`. Invariants: one transaction, and one seq if anything is applied; seqs of a workspace are contiguous
and their times strictly increase; the answer to an op is stored in the transaction that applies it.
"""

from weakref import WeakValueDictionary

import anyio
from sqlalchemy import Connection, bindparam, select

from backend.metadata import schema
from backend.metadata.schema import Role
from backend.notify import hub
from backend.service import cursors, ids, sessions, workspaces
from backend.service.caller import Caller
from backend.service.commit import validity, wants
from backend.service.commit.batch import Standing, judge
from backend.service.commit.contents import Account
from backend.service.commit.gone import Gone
from backend.service.commit.loading import Loader
from backend.service.commit.state import Author
from backend.service.commit.writing import Writer
from backend.service.ground import Ground
from backend.service.workspaces import Access, Stamp
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import (
    COMMIT_ID_BYTES,
    MAX_ID,
    AccountId,
    CommitId,
    Incarnation,
    LineageId,
    OpNumber,
    Seq,
    WorkspaceId,
)
from drivefs.protocol.messages import MAX_BATCH_BLOCKS, CommitReply, CommitRequest, Cursor, FeedStatus, Usage

WRITERS = frozenset({Role.OWNER, Role.EDITOR})


class Commits:
    """Takes commits of all workspaces, one at a time for each."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._turns: WeakValueDictionary[WorkspaceId, anyio.Lock] = WeakValueDictionary()

    async def commit(self, caller: Caller, workspace: WorkspaceId, request: CommitRequest) -> CommitReply:
        """Apply what can be applied of a batch; durable on return.

        Cancelled while it waits for its turn it leaves nothing; once begun it runs to its end, and those who wait for
        changes are woken.

        Raises:
            ProtocolError: `malformed`, `too_large`, `not_found`, `stale_epoch`, `diverged`; nothing was applied.
        """
        _check_request(request)
        turn = self._turns.setdefault(workspace, anyio.Lock())
        async with turn:
            with anyio.CancelScope(shield=True):
                reply, is_applied = await self._ground.database.write(self._commit, caller, workspace, request)
                if is_applied:
                    self._ground.hub.wake(hub.of_workspace(workspace))
        return reply

    def _commit(
        self, connection: Connection, caller: Caller, workspace: WorkspaceId, request: CommitRequest
    ) -> tuple[CommitReply, bool]:
        access = workspaces.require(connection, caller.user, workspace, lock=True)
        sessions.require_epoch(connection, caller, request.epoch)
        incarnation = ids.incarnation(connection)
        _require_history(connection, access, incarnation, request.seen)
        last = workspaces.stamp_at(connection, access, access.head_seq)
        stamp = self._next_stamp(last)
        author = Author(
            workspace=workspace,
            user=caller.user,
            device=caller.device,
            epoch=request.epoch,
            may_write=access.role in WRITERS,
            seq=Seq(access.head_seq + 1),
        )
        loader = Loader(connection, access.account, author, stamp.time_ns)
        wanted = wants.collect(request.mutations)
        figures = _figures(connection, access.account, self._ground)
        state = loader.load(wanted, figures, self._new_lineage)
        before = loader.standing()
        known = before or Standing()
        standing = Standing(OpNumber(max(request.watermark, known.watermark)), max(request.sent, known.sent))
        state.watermark = standing.watermark
        verdict = judge(state, request.mutations, loader.results(wanted.ops))
        writer = Writer(connection, access.account, state)
        head = Cursor(incarnation=incarnation, seq=access.head_seq, commit=last.commit_id)
        if verdict.changes:
            writer.write_commit(verdict, stamp)
            head = Cursor(incarnation=incarnation, seq=author.seq, commit=stamp.commit_id)
        writer.write_results(verdict, standing, before)
        Gone(connection, access.account, workspace).tell(request.mutations, verdict.results)
        usage = Usage(stored_bytes=figures.stored_bytes, pinned_bytes=figures.pinned_bytes)
        return CommitReply(results=verdict.results, head=head, usage=usage), bool(verdict.changes)

    def _next_stamp(self, last: Stamp) -> Stamp:
        commit_id = CommitId(self._ground.random_bytes(COMMIT_ID_BYTES))
        return Stamp(commit_id, max(self._ground.now_ns(), last.time_ns + 1))

    def _new_lineage(self) -> LineageId:
        return LineageId(ids.random_id(self._ground.random_bytes))


def _check_request(request: CommitRequest) -> None:
    numbers = [mutation.n for mutation in request.mutations]
    if len(set(numbers)) < len(numbers) or not all(0 < n <= MAX_ID for n in numbers):
        raise ProtocolError(Code.MALFORMED, "The numbers of a batch are out of bounds, or one is there twice.")
    if not (0 <= request.watermark <= MAX_ID and 0 <= request.epoch <= MAX_ID):
        raise ProtocolError(Code.MALFORMED, "The epoch or the watermark is out of bounds.")
    if sum(map(validity.block_references, request.mutations)) > MAX_BATCH_BLOCKS:
        raise ProtocolError(Code.TOO_LARGE, f"A batch may name {MAX_BATCH_BLOCKS} blocks. Send it in several.")


def _require_history(connection: Connection, access: Access, incarnation: Incarnation, seen: Cursor | None) -> None:
    """See that what the device has seen last is part of the history: else its bases are not those meant here.

    Raises:
        ProtocolError: `diverged`.
    """
    if seen is None or cursors.judge(connection, access, incarnation, seen).status is not FeedStatus.DIVERGED:
        return
    raise ProtocolError(
        Code.DIVERGED,
        "The server was put back to an older state than this device knows. Nothing was changed, and what the device "
        "has is kept; it looks at the drive anew before it sends more.",
    )


_a = schema.accounts.c
_FIGURES = (
    select(_a.stored_bytes, _a.pinned_bytes, _a.quota_bytes, _a.file_bytes)
    .where(_a.account == bindparam("account"))
    .with_for_update()
)


def _figures(connection: Connection, account: AccountId, ground: Ground) -> Account:
    row = connection.execute(_FIGURES, {"account": account}).one()
    limits = ground.limits
    return Account(
        stored_bytes=row.stored_bytes,
        pinned_bytes=row.pinned_bytes,
        quota_bytes=limits.quota_bytes if row.quota_bytes is None else row.quota_bytes,
        file_bytes=limits.file_bytes if row.file_bytes is None else row.file_bytes,
    )
