"""Says whether what happened was right: the invariants of a run, looked at while it goes on and when it is at rest.

Owns what it hears of batches, the comparison with the sequential trees made of them (`orders`), and the ledger of
contents.

I1  what programs wrote is the content of a file, or in `lost+found`, unless somebody who was shown it removed it or
    wrote over it: to be a revision of what has another content now is not enough
I2  at rest, the server shows what every device shows, and nothing waits
I3  no orphan, no cycle, no name twice
I4  every view is a prefix of the order of commits, plus what waits on that device
I5  each op has one effect at most
I6  seqs are contiguous, and cursors never go back
I7  each block of each revision is there and verifies
I8  what is pinned is never evicted (`pinned_files`)
I9  a conflict copy is made only of what two devices changed without knowing of each other (`conflict_copies`)
I10 at rest within a bound of virtual time (`voyage` looks at that)
I11 what of the past was promised to stay can be read (`promises`)
I12 where devices take turns, each shows in the end what the one at work was shown (`turns`)
I13 who may not change a share changes nothing in it, and who is no member of it is given nothing of it (`strangers`)
I14 what a rule keeps on a device is there, and nowhere else, for as long as a rule keeps it (`kept_here`)
"""

import copy
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from unittest import mock

from sqlalchemy import Connection, bindparam, select

from backend.metadata import schema
from backend.service import block_rows
from backend.service.batches import Batch
from backend.service.commit.batch import Verdict
from backend.service.commit.contents import split_runs
from backend.service.commit.territory import Ground
from backend.service.sealing import open_copy
from cache.recovery import size_after
from drivefs.protocol import blocks as codec
from drivefs.protocol.changes import Create, Mutation, Status
from drivefs.protocol.ids import AccountId, BlockId, Seq, WorkspaceId
from drivefs.protocol.messages import CommitReply, CommitRequest
from drivefs.protocol.model import InodeKind, unpack_blocks
from tests.backend.service import invariants
from tests.simulation.agreement import numbered, states, tables_differ, views_differ
from tests.simulation.calls import Tree as View
from tests.simulation.conflict_copies import Kept, RefusedNames, look_for_needless, wrong_base
from tests.simulation.device import Device
from tests.simulation.ended_shares import kept_in_part, wrong_there
from tests.simulation.kept_here import is_of_drive, kept, kept_contents, of_drive, was_sent
from tests.simulation.ledger import Ledger
from tests.simulation.lives import Dead
from tests.simulation.orders import At, Attempt, Orders, OutOfOrder
from tests.simulation.pinned_files import PinnedFiles
from tests.simulation.promises import Promises
from tests.simulation.sequence import Refused, Tree, shown
from tests.simulation.server import Account, ServerProcess
from tests.simulation.strangers import given, is_barred

_c = schema.commits.c
_NEWEST = select(_c.commit_id).where(_c.workspace == bindparam("of")).order_by(_c.seq.desc()).limit(1)


class Violated(AssertionError):
    """An invariant does not hold; the text begins with its number."""


class Oracle:
    """One run's."""

    def __init__(self, account: Account) -> None:
        homes = account.roots
        self._names = {login.caller.device: login.name for login in account.logins.values()}
        self.ledger = Ledger()
        self.orders = Orders(homes)
        self.sequence = self.orders.sequence
        self.refused = RefusedNames()
        self._heard: list[Attempt] = []
        """All that was judged."""
        self._attempts: list[Attempt] = []
        """What of that has not been looked for in the tables yet."""
        self._acknowledged = dict.fromkeys(homes, 0)
        self._barred: list[str] = []
        """What was changed by those who may not."""
        self._own_names: list[Create] = []
        """What was made under names that devices keep, and has not been looked at yet."""
        self._cursors: dict[str, int] = {}
        self._pinned = PinnedFiles()
        self.promises = Promises()
        self._has_gone_back = False
        self._was_put_back = False

    def dress(self, server: ServerProcess) -> None:
        """Hear of all batches that a process of the server has answered."""
        commits: Any = server.services.commits
        commit = commits.commit

        async def committed(caller: Any, workspace: WorkspaceId, request: CommitRequest) -> CommitReply:
            reply: CommitReply = await commit(caller, workspace, request)
            self._acknowledged[workspace] = max(
                self._acknowledged[workspace], *(result.seq for result in reply.results)
            )
            return reply

        commits.commit = committed

    @contextmanager
    def hearing(self) -> Iterator[None]:
        """Within it, each batch that the server judges is heard of."""
        judge = Batch._judge_run

        def judged(batch: Batch, ground: Ground, mutations: list[Mutation], wanted: Any) -> Verdict:
            verdict = judge(batch, ground, mutations, wanted)
            for mutation, result in zip(mutations, verdict.results, strict=True):
                if result.status is Status.CONFLICT:
                    self.refused.hear(self._names[batch._caller.device], mutation)
            if verdict.changes:
                self._note(batch, ground, mutations, verdict)
            return verdict

        with mock.patch.object(Batch, "_judge_run", judged):
            yield

    def _note(self, batch: Batch, ground: Ground, mutations: list[Mutation], verdict: Verdict) -> None:
        # Answers that were given before are given again.
        new = {result.n for _, result in verdict.new_results if result.status is Status.OK}
        self._own_names += was_sent(mutations)
        steps = zip(copy.deepcopy(mutations), verdict.results, strict=True)
        by = (batch._caller.device, batch._request.epoch)
        if is_barred(batch._connection, batch._caller.user, ground.workspace):
            self._barred.append(f"I13: {batch._caller} may not change {ground.workspace}, and did: {mutations}")
        commit_id = batch._connection.execute(_NEWEST, {"of": ground.workspace}).scalar_one()
        attempt = Attempt(commit_id, by, [step for step in steps if step[1].n in new])
        self._heard.append(attempt)
        self._attempts.append(attempt)

    # -- while it goes on --------------------------------------------------------------------------------------------

    def catch_up(self, connection: Connection) -> None:
        """Take over the commits that were made since; I5, I6 and that no acknowledged commit is gone."""
        if self._barred:
            raise Violated(self._barred[0])
        waiting, self._attempts = self._attempts, []
        try:
            self.orders.catch_up(connection, waiting)
        except Refused as error:
            raise Violated(f"I5: {error}") from error
        except OutOfOrder as error:
            raise Violated(f"I6: {error}") from error
        for home, acknowledged in self._acknowledged.items():
            if self.orders.heads[home] < acknowledged:
                raise Violated(
                    f"I1: commit {acknowledged} was acknowledged, and is gone: the head is {self.orders.heads[home]}"
                )

    async def look(self, server: ServerProcess, devices: list[Device]) -> None:
        """All that has to hold at any time."""
        reached = [(device, device.seq) for device in devices if device.is_mounted]
        if server.is_up:
            with suppress(Dead):
                await server.ground.database.read(self.catch_up)
                self._look_for_sent(devices)
                for device, seq in reached:
                    if seq > (head := self.orders.heads[device.login.workspace]) and not self._was_put_back:
                        raise Violated(f"I6: {device.name} was shown commit {seq}, and the head is {head}")
        for device in devices:
            if device.is_mounted and device.seq <= self.orders.heads[device.login.workspace]:
                if self.fits(device):
                    self._look_at(device)
                elif not self._was_put_back:
                    raise Violated(f"I6: {device.name} was shown a commit {device.seq} that is none of this history")

    def _look_for_sent(self, devices: list[Device]) -> None:
        came_of = {inode: old for device in devices for inode, old in device.came_of.items()}
        for made in self._own_names:
            if not is_of_drive(made.inode, came_of, self.sequence.last):
                raise Violated(f"I14: {made} was sent")
        self._own_names.clear()

    def fits(self, device: Device) -> bool:
        """Whether what a device was shown last is a commit; one of a history that a server has lost is none.

        Until it has listed anew what it knew of that, it shows it.
        """
        if self._was_put_back and device.local.replica.earlier is not None:
            return False
        cursor = device.local.replica.cursor(device.login.workspace)
        if cursor is None:
            return True
        known = self.orders.commits.get(At(device.login.workspace, cursor.seq), cursor.commit)
        return cursor.seq <= self.orders.heads[device.login.workspace] and known == cursor.commit

    def _look_at(self, device: Device) -> None:
        seq = device.seq
        if seq < 0 and self._was_put_back:
            return  # killed between two histories: it knows nothing, and is to begin where it was at least
        if seq < self._cursors.get(device.name, seq):
            raise Violated(f"I6: the cursor of {device.name} went back from {self._cursors[device.name]} to {seq}")
        if seq < 0:
            return
        self._cursors[device.name] = seq
        tree = self.orders.tree(device.login.workspace, seq)
        untold = self.orders.untold(device.login.workspace, Seq(seq), device.local.shares.roots)
        if told := wrong_there(device, self.orders, seq, untold):
            raise Violated(f"I4: {told}")
        _compare_replica(device, tree, seq, untold)
        _compare_sizes(device)
        if evicted := self._pinned.look_for_evicted(device, tree):
            raise Violated(f"I8: {evicted}")

    def lost_power(self, device: Device) -> None:
        """A machine lost power: what it had not synced may be gone, and so may pages of the feed."""
        self.ledger.lost_power(device.name)
        self._cursors.pop(device.name, None)

    def went_back(self, device: Device, kept: set[bytes]) -> None:
        """A machine has only what it had then, and what the server has."""
        self._has_gone_back = True
        self.ledger.went_back(device.name, kept)
        self._cursors.pop(device.name, None)

    def server_went_back(self) -> None:
        """The server has an older state: what it was told since then devices alone know, and are to tell it again."""
        self._has_gone_back = self._was_put_back = True
        self.orders = Orders(self.orders.homes)
        self.sequence = self.orders.sequence
        self._acknowledged = dict.fromkeys(self.orders.homes, 0)
        self._attempts = list(self._heard)
        self._cursors.clear()

    # -- at rest -----------------------------------------------------------------------------------------------------

    async def look_at_rest(self, server: ServerProcess, devices: list[Device]) -> None:
        """All that has to hold once nothing is left to do."""
        await self.look(server, devices)
        try:
            await server.ground.database.read(invariants.check)
        except AssertionError as error:
            raise Violated(f"I3: {error}") from error
        await self._look_at_server(server)
        if difference := await server.ground.database.read(tables_differ, self.sequence.last):
            raise Violated(f"I2: {difference}")
        shown_all = {device.name: await device.calls.tree() for device in devices}
        views = {device.name: of_drive(device, shown_all[device.name]) for device in devices}
        told = await server.ground.database.read(states)
        for device in devices:
            name, view = device.name, views[device.name]
            hidden = kept(device, shown_all[name]).keys()
            _compare_view(name, view, self.orders.last(device.login.workspace), hidden)
            if difference := views_differ(name, view, told, numbered(device.local.journal)):
                raise Violated(f"I2: {difference}")
        contents = await _contents(server)
        self._look_at_contents(contents)
        for device in devices:
            await self._look_at_files(device, views[device.name], contents)
        tree = self.sequence.last
        named = set(tree.names.values())
        shown_now = {contents.get(tree.inodes[inode].blocks, b"") for inode in named}
        for device in devices:
            shown_now |= await kept_contents(device)
        self._look_for_lost(shown_now, devices, contents, is_forgetful=server.forgets_seconds > 0)
        await self._look_at_past(server, devices, contents)
        await self._look_at_conflicts(server, contents, devices)
        for login in {device.login.user: device.login for device in devices}.values():
            if told := await given(server, login, self.orders):
                raise Violated(f"I13: {told}")

    async def _look_at_conflicts(
        self, server: ServerProcess, contents: dict[bytes, bytes], devices: list[Device]
    ) -> None:
        # A device that was put back to an older state meets what it has sent itself as if it were another's.
        if self._has_gone_back or self.promises.has_taken_back:
            return
        refused = self.refused if len(devices) > 1 else None
        wrong = look_for_needless(self.sequence, contents, self.ledger, refused)
        for device in devices:
            wrong = wrong or await wrong_base(device, self.orders, contents, lambda: server.ground.database.read(_kept))
        if wrong:
            raise Violated(f"I9: {wrong}")

    async def _look_at_past(self, server: ServerProcess, devices: list[Device], contents: dict[bytes, bytes]) -> None:
        now_ns, keep_seconds = server.now_ns(), server.ground.limits.trash_seconds
        broken = self.promises.broken(self.sequence, contents, self.orders.times, now_ns - keep_seconds * 10**9)
        for device in devices:
            broken = broken or await self.promises.not_shown(device, self.sequence, contents)
        if broken:
            raise Violated(f"I11: {broken}")

    async def _look_at_server(self, server: ServerProcess) -> None:
        async def nobody(done: int, total: int) -> None:
            pass

        report = await server.services.checks.check(nobody)
        if not report.is_sound:
            raise Violated(f"I7: {report.findings}")

    def _look_at_contents(self, contents: dict[bytes, bytes]) -> None:
        """Of all that was ever published, nothing is in part, or of two contents."""
        for content in contents.values():
            if content not in self.ledger.known:
                raise Violated(f"I1: a revision has a content that no program wrote: {content[:60]!r}")

    async def _look_at_files(self, device: Device, view: View, contents: dict[bytes, bytes]) -> None:
        for path, state in view.items():
            if state.kind is not InodeKind.FILE:
                continue
            found, wanted = await device.calls.read(state.inode), contents.get(state.blocks or b"", b"")
            if found != wanted:
                raise Violated(f"I2: {device.name} reads {found[:60]!r} in {path}, and the server has {wanted[:60]!r}")

    def _look_for_lost(
        self, shown: set[bytes], devices: list[Device], contents: dict[bytes, bytes], *, is_forgetful: bool
    ) -> None:
        # A revision that people would have to look for does not count: what nobody wrote over has a name.
        missing = self.ledger.owed() - shown
        missing -= self.promises.passed(self.sequence, missing)
        if missing:
            kept = [path.read_bytes() for device in devices for path in device.lost_and_found()]
            missing = {content for content in missing if not any(content in data for data in kept)}
            if is_forgetful:
                # What was written on a file of which the trash let go meanwhile is kept without the rest of the file.
                missing = {content for content in missing if not any(_is_of(data, content) for data in kept)}
        for device in devices if missing else ():
            missing -= kept_in_part(missing, device, self.orders, self.ledger, contents)
        if missing:
            raise Violated(f"I1: lost: {[content[:60] for content in sorted(missing)]}")


def _is_of(part: bytes, content: bytes) -> bool:
    """Whether these are a content, with zeros where it is not known any more."""
    return (
        len(part) == len(content)
        and any(part)
        and all(here in (0, there) for here, there in zip(part, content, strict=True))
    )


def _compare_replica(device: Device, tree: Tree, seq: int, untold: Collection[int] = ()) -> None:
    """I4: what a device knows of the server is the tree as of its cursor, but for what it is not told of any more."""
    replica = device.local.replica
    inodes = [inode for inode in tree.inodes if inode not in untold]
    for directory in [inode for inode in inodes if tree.is_directory(inode) and tree.lives(inode)]:
        listed, there = dict(replica.names(directory)), tree.listed(directory)
        # What it has not listed it may know in part.
        if listed != there and (replica.is_complete(directory) or not listed.items() <= there.items()):
            raise Violated(f"I4: {device.name} at {seq} has {listed} in {directory}, where {there} is")
    for inode in inodes:
        if inode == tree.root and not replica.is_complete(inode):
            continue  # any state will do for a root until it is listed
        state = replica.inode(inode)
        if state is not None and tree.lives(inode) and shown(state) != tree.looks(inode):
            raise Violated(f"I4: {device.name} at {seq} has {shown(state)} of {inode}, which is {tree.looks(inode)}")


def _compare_sizes(device: Device) -> None:
    """I1: a file with unpublished content has the size that its writes make; else it is cut when it is sent."""
    drafts, overlay = device.local.journal.drafts, device.local.journal.overlay
    for inode in list(drafts.draft_inodes()) if not device.has_failed else ():
        draft, state = drafts.draft(inode), overlay.inode(inode)
        size = draft.base_size if draft is not None else 0
        for record in drafts.records(inode):
            size = size_after(record, size)
        if state is None or state.size != size:
            raise Violated(f"I1: {device.name} wrote {size} bytes to {inode}, and shows {state}")


def _compare_view(name: str, view: View, tree: Tree, hidden: Collection[str] = ()) -> None:
    """I2: what programs are shown is the tree, but for what lies behind names of files that a rule keeps here."""
    expected = {"": tree.root}
    waiting = [("", tree.root)]
    while waiting:
        prefix, directory = waiting.pop()
        for each, inode in tree.listed(directory).items():
            path = prefix + each.decode(errors="surrogateescape")
            if path in hidden:
                continue
            expected[path] = inode
            if tree.is_directory(inode):
                waiting.append((path + "/", inode))
    if expected.keys() != view.keys():
        more, less = sorted(view.keys() - expected.keys()), sorted(expected.keys() - view.keys())
        raise Violated(f"I2: {name} shows {more}, which the server does not have, and not {less}")
    for path, state in view.items():
        if state.inode != expected[path]:
            raise Violated(f"I2: {name} shows inode {state.inode} as {path!r}, it is {expected[path]}")
        if shown(state) != tree.looks(expected[path]):
            raise Violated(f"I2: {name} shows {path!r} as {shown(state)}, it is {tree.looks(expected[path])}")


async def _contents(server: ServerProcess) -> dict[bytes, bytes]:
    """The bytes of every revision that the server has, by its packed block list; I7 if one cannot be had."""
    accounts = await server.ground.database.read(lambda c: list(c.execute(select(schema.accounts.c.account)).scalars()))
    found: dict[bytes, bytes] = {}
    for account in accounts:
        found.update(await _contents_of(server, account))
    return found


async def _contents_of(server: ServerProcess, account: AccountId) -> dict[bytes, bytes]:
    packed = await server.ground.database.read(_revisions, account)
    blocks = {ref.block for each in packed for ref in unpack_blocks(each)}
    found: dict[BlockId, bytes] = {}
    places = await server.ground.database.read(block_rows.places, account, sorted(blocks))
    keys: Any = server.services.checks._keys
    for block in blocks:
        if block not in places:
            raise Violated(f"I7: a revision needs block {block.hex()}, which has no copy")
        key = await keys.numbered(account, places[block].key)
        payload = open_copy(server.ground.store, account, places[block], key)
        found[block] = codec.decode_payload(payload, block)
    return {each: b"".join(found[ref.block] for ref in unpack_blocks(each)) for each in packed}


def _revisions(connection: Connection, account: AccountId) -> list[bytes]:
    r, n = schema.revisions.c, schema.runs.c
    runs = {row.run: row.packed for row in connection.execute(select(n.run, n.packed).where(n.account == account))}
    rows = connection.execute(select(r.runs).where(r.account == account))
    return [b"".join(runs[run] for run in split_runs(row.runs)) for row in rows]


def _kept(connection: Connection) -> Kept:
    """The revisions that the server has, by the inodes that made them, and where each was made."""
    r = schema.revisions.c
    rows = connection.execute(select(r.inode, r.number, r.workspace))
    return {(row.inode, row.number): row.workspace for row in rows}
