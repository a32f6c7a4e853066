"""Publishes files: freezes what is due, has it stored as blocks, and puts the `Store` into the journal.

Owns the way of one publication from "due" to a `Store` in the journal; what comes after is the committer's. Small
contents go together, large ones each in a task of its own, so that neither waits for the other. Invariant: a `Store` is
appended only when all its blocks are with the backend.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import trio

from cache.errors import Corrupt, DiskFull
from cache.journal import Journal, RowState
from drivefs.protocol.changes import OpResult, Store
from drivefs.protocol.errors import Code
from drivefs.protocol.ids import NO_OP, BlockId, InodeId, OpNumber, RunId
from drivefs.protocol.model import BlockRef, cut_runs, pack_blocks, run_id, unpack_blocks
from drivefs.remote import errors
from drivefs.sync.contents import Contents, Snapshot
from drivefs.sync.publications import Publications
from drivefs.sync.uploader import SMALL_BYTES, Turn, Uploader

log = logging.getLogger(__name__)

GROUP_FILES = 1000
GROUP_BYTES = 8 * 2**20
FROZEN_FILES = 16
JOURNALED_FILES = 50
"""So many stores are journaled in one step; system calls go on between two."""
PARALLEL_LARGE_FILES = 2
RETRY_SECONDS = 2.0
UNREADABLE_SECONDS = 10.0
DAMAGED_SECONDS = 3600.0
UNREADABLE = (Corrupt, OSError, MemoryError)
"""What keeps a content that is here from being read, and says nothing of any other."""
BASE_GONE = "base"
"""The reason why content is not taken that lacks what it was made on."""
OF_ONE_SHARE = frozenset({Code.FORBIDDEN, Code.NOT_FOUND})
"""With these the server refuses contents of a share that may not be changed any more, or is none of the user's now."""


@dataclass(slots=True)
class Upload:
    """A large file on its way, for `status`."""

    inode: InodeId
    size_bytes: int
    done_bytes: int = 0


class Publisher:
    """Takes due inodes from the waiting list and gets their content to the backend."""

    def __init__(
        self,
        journal: Journal,
        contents: Contents,
        publications: Publications,
        uploader: Uploader,
    ) -> None:
        self._journal = journal
        self._contents = contents
        self._publications = publications
        self._uploader = uploader
        self._large = trio.CapacityLimiter(PARALLEL_LARGE_FILES)
        self._kept_back: dict[InodeId, str] = {}
        self.uploads: dict[InodeId, Upload] = {}
        self.refused: Callable[[InodeId, str], None] = lambda inode, why: None
        """Called with a file whose content the backend will never take, and the reason, as a mutation's would be."""
        self.is_base_gone: Callable[[InodeId], Awaitable[bool]] = _is_here
        """Asked of a file that lacks what it was made on: whether that is gone for good."""
        self.is_nowhere: Callable[[Store, BlockId], Awaitable[bool]] = _may_come
        """Asked of a store that lacks a block which is not here: whether nobody has that any more."""

    @property
    def kept_back(self) -> dict[InodeId, str]:
        """Files with content that cannot be sent as things are, and what people should know of that content."""
        return {inode: why for inode, why in self._kept_back.items() if self._is_wanted(inode)}

    def _is_wanted(self, inode: InodeId) -> bool:
        state = self._journal.overlay.inode(inode)
        return self._journal.drafts.draft(inode) is not None and (state is None or state.nlink > 0)

    async def publish_due(
        self, nursery: trio.Nursery, failed: Callable[[errors.RemoteError], None], *, urgent: bool = False
    ) -> None:
        """Publish what is due now, or of it what is urgent; large files go on in `nursery` after this returns.

        What fails for lack of the backend is offered again later, and `failed` is told why. Cancellation leaves
        everything unpublished and due again at the next start.
        """
        due = self._publications.take_due(GROUP_FILES, urgent=urgent)
        turn = _go_on if urgent else self._publications.give_way
        group: list[Snapshot] = []
        group_bytes = 0
        for index, inode in enumerate(due):
            if index % FROZEN_FILES == 0:
                await turn()
            try:
                snapshot = await self._snapshot(inode)
            except errors.RemoteError as error:
                if _is_of_one(error):
                    await self._failed(inode, error, failed)
                    continue
                failed(error)
                for waiting in due[index:]:
                    self._publications.returned(waiting, RETRY_SECONDS)
                break
            except UNREADABLE as error:
                self._cannot_read(inode, error)
                continue
            if snapshot is None:
                self._nothing_now(inode)
            elif snapshot.size > SMALL_BYTES or snapshot.is_over_past:
                # Of what was brought back, whatever its size, no byte is read.
                nursery.start_soon(self._publish_large, snapshot, failed, turn)
            else:
                if group and group_bytes + snapshot.size > GROUP_BYTES:
                    await self._publish_group(group, failed, turn)
                    group, group_bytes = [], 0
                group.append(snapshot)
                group_bytes += snapshot.size
        if group:
            await self._publish_group(group, failed, turn)

    async def _snapshot(self, inode: InodeId) -> Snapshot | None:
        try:
            return await self._contents.snapshot(inode)
        except errors.Refused as error:
            if error.code is not Code.NOT_FOUND:
                raise
            raise errors.BlockGone(f"the server does not say which blocks it had: {error}") from error

    def _nothing_now(self, inode: InodeId) -> None:
        """There is nothing to publish, or nothing yet: a store of an earlier mount may still be on its way."""
        draft = self._journal.drafts.draft(inode)
        row = self._journal.get(draft.frozen_op) if draft is not None and draft.frozen_op else None
        if row is not None and row.state in (RowState.PENDING, RowState.SENT):
            self._publications.behind(inode)
        else:
            self._publications.arrived(inode)

    async def _publish_group(
        self, group: list[Snapshot], failed: Callable[[errors.RemoteError], None], turn: Turn
    ) -> None:
        try:
            contents = await self._uploader.store_small(group, turn)
        except errors.RemoteError as error:
            if len(group) > 1 and _is_of_one(error):
                # What one share does not take, or one file lacks, says nothing of the others, nor of the drive.
                for snapshot in group:
                    await self._publish_group([snapshot], failed, turn)
                return
            for snapshot in group:
                await self._failed(snapshot.inode, error, failed)
            return
        except UNREADABLE as error:
            if len(group) == 1:
                self._cannot_read(group[0].inode, error)
            else:
                for snapshot in group:
                    await self._publish_group([snapshot], failed, turn)
            return
        stored = list(zip(group, contents, strict=True))
        for start in range(0, len(stored), JOURNALED_FILES):
            self._journal_stores(stored[start : start + JOURNALED_FILES])
            await turn()

    async def _publish_large(
        self, snapshot: Snapshot, failed: Callable[[errors.RemoteError], None], turn: Turn
    ) -> None:
        inode, upload, sending = snapshot.inode, Upload(snapshot.inode, snapshot.size), trio.CancelScope()

        def progress(done_bytes: int) -> None:
            upload.done_bytes += done_bytes
            if self._journal.drafts.draft(inode) is None:
                # The file was removed here: what is left of it is not worth sending.
                sending.cancel()

        self.uploads[inode] = upload
        try:
            async with self._large:
                with sending:
                    blocks = await self._store_large(snapshot, progress, turn)
        except errors.RemoteError as error:
            await self._failed(inode, error, failed)
            return
        except UNREADABLE as error:
            self._cannot_read(inode, error)
            return
        finally:
            del self.uploads[inode]
        if sending.cancelled_caught:
            self._publications.arrived(inode)
            return
        self._journal_stores([(snapshot, blocks)])

    async def _store_large(self, snapshot: Snapshot, progress: Callable[[int], None], turn: Turn) -> list[BlockRef]:
        """Store a content; after one that found no room, one at a time: parts of several would hold each other up.

        What was sent of it gives its room back, to what other devices send too, and has to be sent no more.
        """
        try:
            blocks = await self._uploader.store_large(snapshot, progress, turn)
        except errors.Refused as error:
            if error.code is Code.OVER_QUOTA:
                self._large.total_tokens = 1
                with suppress(errors.RemoteError):
                    await self._uploader.let_go(snapshot.inode, self._awaited_blocks())
            raise
        self._large.total_tokens = PARALLEL_LARGE_FILES
        return blocks

    def _awaited_blocks(self) -> set[BlockId]:
        """Blocks of contents that were sent whole and come next; of later ones the backend asks for what it lacks."""
        rows = self._journal.unsettled(GROUP_FILES)
        stores = [row.mutation for row in rows if isinstance(row.mutation, Store)]
        return {ref.block for store in stores for run in store.new_runs for ref in unpack_blocks(run)}

    def _journal_stores(self, stored: Sequence[tuple[Snapshot, list[BlockRef]]]) -> None:
        """Journal the new contents: all of them or, where there is no room for that, none. Those are offered again."""
        try:
            with self._journal.transaction():
                ops = {snapshot.inode: self._append_store(snapshot, blocks) for snapshot, blocks in stored}
        except DiskFull as error:
            log.warning("what was sent cannot be noted: %s", error)
            for snapshot, _ in stored:
                self._publications.returned(snapshot.inode, RETRY_SECONDS)
            return
        self._publications.stored({inode: op for inode, op in ops.items() if op})

    async def _failed(
        self, inode: InodeId, error: errors.RemoteError, failed: Callable[[errors.RemoteError], None]
    ) -> None:
        """The content could not be stored: it is offered again, or will never be taken."""
        if isinstance(error, errors.Refused) and error.code is Code.FORBIDDEN:
            self._publications.arrived(inode)
            self.refused(inode, "role")
        elif isinstance(error, errors.BlockGone) and await self._is_base_gone(inode):
            self._publications.arrived(inode)
            self.refused(inode, BASE_GONE)
        else:
            if isinstance(error, errors.BlockLost):
                self.keep_lacking(inode, error)
            failed(error)
            self._publications.returned(inode, RETRY_SECONDS)

    async def _is_base_gone(self, inode: InodeId) -> bool:
        with suppress(errors.RemoteError):
            return await self.is_base_gone(inode)
        return False

    async def _is_nowhere(self, store: Store, block: BlockId) -> bool:
        with suppress(errors.RemoteError):
            return await self.is_nowhere(store, block)
        return False

    def _cannot_read(self, inode: InodeId, error: Exception) -> None:
        if isinstance(error, Corrupt):
            self.keep_damaged(inode, str(error))
        else:
            self.keep_unreadable(inode, error)
            self._publications.returned(inode, UNREADABLE_SECONDS)

    def keep_lacking(self, inode: InodeId, error: errors.BlockLost) -> None:
        """A part of a content is neither here nor to be had now: people are told."""
        self._kept_back[inode] = (
            "is not sent yet, since a part of the file that was not written here is nowhere to be had "
            f"({error}). It is sent as soon as a device that has that part has given it to the server. If none has it "
            "any more, copy what can still be read, and write the file anew"
        )

    def keep_unreadable(self, inode: InodeId, error: Exception) -> None:
        """The system does not give bytes that are here (it has no memory, or no descriptor left): people are told."""
        why = getattr(error, "strerror", None) or "there is no memory left"
        log.warning("content of inode %d cannot be read now: %r", inode, error)
        self._kept_back[inode] = f"cannot be read now and is not sent yet ({why}). It is tried again by itself"

    def keep_damaged(self, inode: InodeId, why: str) -> None:
        """Bytes that did not verify are never sent: the draft stays as it is, and people are told."""
        self._kept_back[inode] = (
            f"has been damaged on this disk and is not sent ({why}). "
            "Copy what can still be read, and write the file anew"
        )
        self._publications.set_aside(inode, DAMAGED_SECONDS)

    def _append_store(self, snapshot: Snapshot, blocks: list[BlockRef]) -> OpNumber:
        """Journal the new content; gives the number, or none if nobody wants it any more."""
        runs = list(cut_runs(blocks))
        base_runs = [] if snapshot.is_over_past else cut_runs(list(snapshot.base_blocks))
        known = {run_id(run) for run in base_runs}
        ids = [run_id(run) for run in runs]
        op = self._journal.next_op()
        self._kept_back.pop(snapshot.inode, None)
        if not self._contents.storing(snapshot, op, pack_blocks(blocks)):
            self._publications.arrived(snapshot.inode)
            return NO_OP
        store = Store(
            n=op,
            time_ns=snapshot.ctime_ns,
            inode=snapshot.inode,
            base=snapshot.base,
            size=snapshot.size,
            runs=ids,
            new_runs=_unknown(runs, ids, known),
            mtime_ns=snapshot.mtime_ns,
        )
        self._journal.append(store)
        return op

    async def resend(self, store: Store, result: OpResult) -> bool:
        """Send blocks again that the backend has lost, or wants in another workspace; False: nobody has all of it.

        Raises:
            RemoteError: the backend does not answer.
            Corrupt, OSError, MemoryError: the content cannot be read.
        """
        frozen = self._contents.frozen(store.inode)
        if frozen is None:
            return False
        snapshot, packed = frozen
        wanted: set[BlockId] = set(result.blocks)
        workspace = result.workspace or self._uploader.workspace_of(store.inode)
        position = 0
        for block, size in unpack_blocks(packed):
            if block in wanted:
                wanted.discard(block)
                try:
                    plaintext = await snapshot.read(position, size)
                except errors.BlockGone as error:
                    if not await self._is_nowhere(store, error.block):
                        raise
                    return False
                await self._uploader.store_again(block, plaintext, workspace)
            position += size
        self._kept_back.pop(store.inode, None)
        # Else what is here belongs to a later store: its file was removed here, and brought back.
        return not wanted


async def _go_on() -> None:
    """What is urgent gives way to nothing: each turn of a busy loop takes milliseconds."""


async def _is_here(inode: InodeId) -> bool:
    return False


async def _may_come(store: Store, block: BlockId) -> bool:
    return False


def _is_of_one(error: errors.RemoteError) -> bool:
    """Whether content was refused for the share in which it is, or lacks what it was made on, which is gone."""
    return isinstance(error, errors.BlockLost) or (isinstance(error, errors.Refused) and error.code in OF_ONE_SHARE)


def _unknown(runs: Iterable[bytes], ids: Iterable[RunId], known: set[RunId]) -> list[bytes]:
    """The runs whose ids are not known yet, each once."""
    return list({name: run for name, run in zip(ids, runs, strict=True) if name not in known}.values())
