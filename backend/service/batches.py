"""What becomes of a batch: each part of it is judged in its workspace, and the drive that it came to takes all in.

Owns the order of steps inside the transaction of a commit. A batch comes to a user's own drive, and may change what is
in shares: it is cut into runs of mutations of one workspace. Each run is judged under the lock of its workspace, by the
role that the user has there, and is one commit of it; the drive takes that in, as those of other members
(`following`). Invariants: seqs of a workspace are contiguous and their times strictly increase; the answer to an op is
stored with the drive, in the transaction that applies it, and names the drive's seq; locks are taken in the order
drive, share, account.
"""

from sqlalchemy import Connection, bindparam, insert, select

from backend.metadata import schema
from backend.metadata.queries import is_asked, select_in
from backend.service import following, ids, workspaces
from backend.service.caller import Caller
from backend.service.commit import refusals, territory, wants
from backend.service.commit.batch import Standing, StoredResult, Verdict, hash_mutation, judge
from backend.service.commit.contents import Account
from backend.service.commit.gone import Gone
from backend.service.commit.loading import Loader
from backend.service.commit.state import Author, State
from backend.service.commit.writing import Answers, Writer
from backend.service.ground import Ground
from backend.service.workspaces import Access, Stamp
from drivefs.protocol.changes import Mutation, OpResult, Status
from drivefs.protocol.ids import COMMIT_ID_BYTES, AccountId, BlockId, CommitId, LineageId, OpNumber, Seq, WorkspaceId
from drivefs.protocol.messages import CommitRequest


class Batch:
    """One batch of one device, judged in the caller's transaction; the drive is locked."""

    def __init__(
        self, connection: Connection, ground: Ground, caller: Caller, home: Access, request: CommitRequest
    ) -> None:
        self._connection = connection
        self._ground = ground
        self._caller = caller
        self._request = request
        self.home = home
        self.figures = figures_of(connection, home.account, ground)
        """Of the account of the drive, as the batch has left them so far."""
        self.results: list[OpResult] = []
        self.changed: list[WorkspaceId] = []
        """The workspaces that have new commits."""
        self.is_abroad = False
        """Whether a part of it was for a share of another user."""
        self._known: dict[OpNumber, StoredResult] = {}
        self._outcomes: dict[OpNumber, OpResult] = {}
        self._standing = Standing()

    def judge(self) -> None:
        """Judge all of it, and write what is applied and what is answered."""
        request, connection = self._request, self._connection
        runs = territory.runs(connection, self.home, request.mutations)
        loader = self._loader(territory.drive(self.home), Stamp(CommitId(b""), 0), Seq(0))
        before = loader.standing()
        known = before or Standing()
        watermark = OpNumber(max(request.watermark, known.watermark))
        self._standing = Standing(watermark, max(request.sent, known.sent))
        wanted = wants.collect(request.mutations)
        self._known = loader.results(wanted.ops)
        new_results: list[StoredResult] = []
        for ground, mutations in runs:
            verdict = self._refuse(mutations) if ground is None else self._judge_run(ground, mutations, wanted)
            self.results += verdict.results
            self._outcomes.update((result.n, result) for result in verdict.results)
            new_results += verdict.new_results
        Answers(connection, self.home.account, loader.author).write(new_results, self._standing, before)

    def _refuse(self, mutations: list[Mutation]) -> Verdict:
        """What names two workspaces can never be applied."""
        verdict = Verdict()
        for mutation in mutations:
            stored = self._known.get(mutation.n)
            result = OpResult(mutation.n, Status.REJECTED, reason=refusals.WORKSPACE)
            verdict.results.append(result if stored is None else stored.result)
            if stored is None:
                verdict.new_results.append(StoredResult(hash_mutation(mutation), result))
        return verdict

    def _judge_run(self, ground: territory.Ground, mutations: list[Mutation], wanted: wants.Wants) -> Verdict:
        connection, is_home = self._connection, ground.workspace == self.home.workspace
        head = self.home.head_seq if is_home else workspaces.lock_head(connection, ground.account, ground.workspace)
        stamp = self._next_stamp(workspaces.stamp(connection, ground.account, ground.workspace, head))
        loader = self._loader(ground, stamp, Seq(head + 1))
        is_own = ground.account == self.home.account
        self.is_abroad = self.is_abroad or not is_own
        figures = self.figures if is_own else figures_of(connection, ground.account, self._ground)
        if len(mutations) < len(self._request.mutations):
            wanted = wants.collect(mutations)
        state = loader.load(wanted, figures, self._new_lineage)
        state.watermark = self._standing.watermark
        state.outcomes.update((n, stored.result) for n, stored in self._known.items())
        state.outcomes.update(self._outcomes)
        verdict = judge(state, mutations, {m.n: self._known[m.n] for m in mutations if m.n in self._known})
        if verdict.changes:
            Writer(connection, ground.account, state).write_commit(verdict, stamp)
            self.changed.append(ground.workspace)
            if is_home:
                self.home = workspaces.at_head(self.home, loader.author.seq)
            else:
                self._take_in(ground, state, verdict)
        if ground.may_write:  # else an answer from before is given again, and nothing new is for this user to know
            Gone(connection, ground).tell(mutations, verdict.results)
        return verdict

    def _take_in(self, ground: territory.Ground, state: State, verdict: Verdict) -> None:
        """A share has a new commit: its members may see its blocks, and the drive takes it in, with all before it."""
        admit_blocks(self._connection, ground.account, ground.workspace, state.contents.brought())
        while following.is_behind(self._connection, self.home):
            self.home = following.follow(self._connection, self._ground, self.home)
        self.changed.append(self.home.workspace)
        for _, result in verdict.new_results:
            if result.status is Status.OK:
                result.seq = self.home.head_seq

    def _loader(self, ground: territory.Ground, stamp: Stamp, seq: Seq) -> Loader:
        author = Author(
            workspace=ground.workspace,
            user=self._caller.user,
            device=self._caller.device,
            epoch=self._request.epoch,
            may_write=ground.may_write,
            seq=seq,
        )
        return Loader(self._connection, ground.account, author, stamp.time_ns, self._ground.now_ns())

    def _next_stamp(self, last: Stamp) -> Stamp:
        commit_id = CommitId(self._ground.random_bytes(COMMIT_ID_BYTES))
        return Stamp(commit_id, max(self._ground.now_ns(), last.time_ns + 1))

    def _new_lineage(self) -> LineageId:
        return LineageId(ids.random_id(self._ground.random_bytes))


_b = schema.share_blocks.c
_ADMITTED = select(_b.block).where(
    _b.account == bindparam("account"), _b.workspace == bindparam("workspace"), is_asked(_b.block)
)


def admitted(connection: Connection, access: Access, blocks: set[BlockId]) -> set[BlockId]:
    """Those of these blocks that the members of a share may ask for."""
    rows = select_in(connection, _ADMITTED, blocks, account=access.account, workspace=access.workspace)
    return {BlockId(block) for (block,) in rows}


def admit_blocks(connection: Connection, account: AccountId, share: WorkspaceId, blocks: set[BlockId]) -> None:
    """Let the members of a share ask for blocks."""
    known = {block for (block,) in select_in(connection, _ADMITTED, blocks, account=account, workspace=share)}
    rows = [{"account": account, "workspace": share, "block": block} for block in blocks - known]
    if rows:
        connection.execute(insert(schema.share_blocks), rows)


_a = schema.accounts.c
_FIGURES = (
    select(_a.stored_bytes, _a.pinned_bytes, _a.quota_bytes, _a.file_bytes)
    .where(_a.account == bindparam("account"))
    .with_for_update()
)


def figures_of(connection: Connection, account: AccountId, ground: Ground) -> Account:
    """What an account has and may have; the account is locked until the transaction ends."""
    row = connection.execute(_FIGURES, {"account": account}).one()
    limits = ground.limits
    return Account(
        stored_bytes=row.stored_bytes,
        pinned_bytes=row.pinned_bytes,
        quota_bytes=limits.quota_bytes if row.quota_bytes is None else row.quota_bytes,
        file_bytes=limits.file_bytes if row.file_bytes is None else row.file_bytes,
    )
