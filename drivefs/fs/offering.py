"""Contents that the server had and has lost: what is left of them here is offered again, as changes of this device.

Owns how a revision becomes a draft: all bytes that the draft took from it are written into staging, so that nothing of
the draft refers to the lost revision any more. Its base is one that the server has; if it is not the newest there,
the draft becomes a copy, as any other. Bytes come from this device only: nobody else can be asked for them.

A crash leaves the content as it was, or as a whole draft; bytes in staging without a record go to `lost+found`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from cache.drafts import DraftRow
from cache.effects import outcome
from cache.journal import JournalRow
from cache.sealing import digest
from cache.staging import StagedRange
from cache.workspace import LocalState
from drivefs.fs import errors, extents
from drivefs.fs.content import Basis, Content
from drivefs.fs.contents import Contents
from drivefs.fs.extents import Layer
from drivefs.fs.interfaces import Publisher
from drivefs.fs.moves import exchange_without
from drivefs.fs.view import View
from drivefs.protocol.changes import Base, Create, Exchange, Link, Mutation, Rename, SetXattr, Unlink
from drivefs.protocol.ids import NO_INODE, NO_OP, NO_REVISION, InodeId, LineageId, Seq
from drivefs.protocol.model import InodeKind, InodeState, pack_blocks, unpack_blocks

NO_SEQ, NO_LINEAGE = Seq(0), LineageId(0)


class Place(Protocol):
    """A name, and the file that the server has there instead, to be replaced if it is still as `base` says."""

    @property
    def parent(self) -> InodeId: ...

    @property
    def name(self) -> bytes: ...

    @property
    def replaced(self) -> InodeId: ...

    @property
    def base(self) -> Base: ...


class Copied(NamedTuple):
    """Bytes of a revision that are in staging now."""

    offset: int
    staged: StagedRange
    digest: int


class Offering:
    """Makes drafts of revisions that were lost."""

    def __init__(self, local: LocalState, view: View, contents: Contents, publisher: Publisher) -> None:
        self._journal = local.journal
        self._replica = local.replica
        self._blocks = local.blocks
        self._staging = local.staging
        self._view = view
        self._contents = contents
        self._publisher = publisher

    async def offer_again(self, lost: InodeState, base: Base) -> bool:
        """Make the content of a lost state a draft on the revision `base`; see `offer`.

        Where not all bytes are here, what was changed over them stays over them, and is a draft on `base` all the same.
        """
        return await self._offer(lost, base, lambda: None) or self._stand_on(lost.inode, base)

    def _stand_on(self, inode: InodeId, base: Base) -> bool:
        """Have a draft that stands on a later revision than `base` stand there, over the bytes that it was made on.

        The server gives the number of a lost revision anew: the draft would go over whatever has it then. Bytes that
        are not here are asked for when they are needed: another file may have them. False if there is no such draft.
        """
        drafts, content = self._journal.drafts, self._contents.load(inode)
        draft = drafts.draft(inode)
        if draft is None or draft.base.revision <= base.revision:
            return False
        refs = content.refs
        if refs is None and (packed := self._replica.content(inode, draft.base.revision)) is not None:
            refs = unpack_blocks(packed)
        with self._view.change():
            self._take_back(draft)
            drafts.put_draft(msgspec.structs.replace(draft, base=base, is_over_past=True, frozen=0, frozen_op=NO_OP))
            drafts.put_base_blocks(inode, None if refs is None else pack_blocks(refs))
        content.stand_on(Basis(base, draft.base_size, refs))
        self._contents.reload(content)
        self._publisher.closed(inode)
        return True

    def _take_back(self, draft: DraftRow) -> None:
        """What of a draft is in the journal is to be published again; inside a transaction."""
        if draft.frozen_op and self._journal.get(draft.frozen_op) is not None:
            self._journal.unsend(draft.frozen_op)
            self._journal.remove(draft.frozen_op)

    async def make_again(self, lost: InodeState, places: Sequence[Place]) -> bool:
        """Make a lost inode, with its content, a new one of this device under these names, with the number that it has.

        What is in the journal about it names what is not there: it goes, its outcome is what is made. False as with
        `offer_again`.

        Raises:
            DiskFull: there is no room.
        """
        if lost.kind is InodeKind.FILE:
            return await self._offer(lost, Base(), lambda: self._create(lost, places))
        with self._view.change():
            self._create(lost, places)
        return True

    def _create(self, lost: InodeState, places: Sequence[Place]) -> None:
        journal, view, first = self._journal, self._view, places[0]
        now = view.inode(lost.inode)
        state = msgspec.structs.replace(now, revision=NO_REVISION, lineage=NO_LINEAGE, blocks=b"", seq=NO_SEQ)
        if state.kind is not InodeKind.DIRECTORY:
            state.nlink = len(places)
        for row in journal.touching(lost.inode):
            self._let_go(row, lost.inode)
        is_over = bool(first.replaced)
        name = b".drivefs-%d" % lost.inode if is_over else first.name
        create = Create(
            n=journal.next_op(),
            time_ns=state.ctime_ns,
            inode=lost.inode,
            parent=first.parent,
            name=name,
            kind=state.kind,
            mode=state.mode,
            uid=state.uid,
            gid=state.gid,
            rdev=state.rdev,
            target=state.target,
        )
        journal.append(create)
        view.put_inode(state, create.n)
        if not is_over:
            view.put_name(first.parent, name, lost.inode, create.n)
        self._name(create, places)
        for attribute, value in state.xattrs.items():
            made = SetXattr(n=journal.next_op(), time_ns=create.time_ns, inode=lost.inode, name=attribute, value=value)
            journal.append(made)
        self._publisher.changed()

    def _let_go(self, row: JournalRow, lost: InodeId) -> None:
        """Take a mutation back, as far as it is about a lost inode: what it does to another one stands."""
        journal, overlay = self._journal, self._journal.overlay
        journal.unsend(row.n)
        rest = _without(row.mutation, lost)
        journal.remove(row.n)
        if rest is None or (isinstance(rest, Unlink) and not self._is_made_here(rest.inode)):
            return  # the server may have what was replaced: what is made goes over it
        rest = msgspec.structs.replace(rest, n=journal.op_after(row.n), after=[])
        journal.append(rest)
        for parent, name, inode in outcome(rest):
            if overlay.op_of_dentry(parent, name) == row.n:
                self._view.put_name(parent, name, inode, rest.n)

    def _is_made_here(self, inode: InodeId) -> bool:
        return any(isinstance(row.mutation, Create) for row in self._journal.touching(inode))

    def _name(self, create: Create, places: Sequence[Place]) -> None:
        """Give what is made all of its names: the first one by a rename over what is there, if something is."""
        journal, inode, first = self._journal, create.inode, places[0]
        if create.name != first.name:
            over = Rename(
                n=journal.next_op(),
                time_ns=create.time_ns,
                parent=first.parent,
                name=create.name,
                new_parent=first.parent,
                new_name=first.name,
                inode=inode,
                replaced=first.replaced,
                base=first.base,
            )
            journal.append(over)
            self._view.put_name(first.parent, create.name, NO_INODE, over.n)
            self._view.put_name(first.parent, first.name, inode, over.n)
        for place in places[1:]:
            link = Link(n=journal.next_op(), time_ns=create.time_ns, inode=inode, parent=place.parent, name=place.name)
            journal.append(link)
            self._view.put_name(place.parent, place.name, inode, link.n)

    async def _offer(self, lost: InodeState, base: Base, prepare: Callable[[], None]) -> bool:
        packed = self._replica.content(lost.inode, lost.revision) if lost.blocks is None else lost.blocks
        basis = Basis(Base(revision=lost.revision), lost.size, None if packed is None else unpack_blocks(packed))
        return await self.offer(lost, basis, base, prepare)

    async def offer(self, lost: InodeState, basis: Basis, base: Base, prepare: Callable[[], None]) -> bool:
        """Make the content `basis` of an inode, which was last in the state `lost`, a draft on the revision `base`.

        Changes that were made over it stay; what of them is in the journal already, on the lost revision, is taken
        back, and is to be published again. Changes that were made on another content keep that below them. False if
        not all bytes are here, or somebody changed the file meanwhile: then nothing was done. Cancellation leaves
        nothing but bytes in staging. `prepare` makes what has to be in the journal before it, in the same transaction.

        Raises:
            DiskFull: there is no room.
        """
        inode = lost.inode
        content = self._contents.load(inode)
        if content.layers and content.base not in (Base(), basis.base):
            basis = content.basis
        if basis.refs is None:
            return False
        seen = (content.base, content.last_record, bool(content.layers))
        source, layers = Content(inode, basis), [layer.copy() for layer in content.layers]
        copied = await self._copy(source, layers, basis.size if not layers else self._view.inode(inode).size)
        if copied is None or seen != (content.base, content.last_record, bool(content.layers)):
            return False
        with self._view.change():
            prepare()
            self._put(lost, content, copied, base)
        self._journal.content_goes()
        content.stand_on(Basis(base, 0, []))
        self._contents.reload(content)
        self._staging.roll(inode)
        self._publisher.closed(inode)
        return True

    async def _copy(self, source: Content, layers: Sequence[Layer], size: int) -> list[Copied] | None:
        """Write what shows of a revision into staging; None if something of it is not here."""
        pieces = [
            (extent.start, list(source.pieces(extent.start, extent.end)))
            for extent in extents.resolve(layers, 0, size)
            if extent.source is extents.BASE
        ]
        if not all(self._blocks.contains(piece.block) for _, parts in pieces for piece in parts):
            return None
        copied = []
        for position, parts in pieces:
            for block, offset, length in parts:
                data = await self._blocks.read(block, offset, length)
                if data is None:
                    return None
                self._journal.admit(length)
                data = bytes(data)
                copied.append(Copied(position, self._staging.append(source.inode, data), digest(data)))
                position += length
        return copied

    def _put(self, lost: InodeState, content: Content, copied: Sequence[Copied], base: Base) -> None:
        """Put the draft; inside a transaction."""
        drafts, inode = self._journal.drafts, lost.inode
        try:
            state = self._view.draft_of(inode)
        except errors.NotFound:
            state = msgspec.structs.replace(lost)
        if not content.layers:
            state.size, state.mtime_ns = lost.size, lost.mtime_ns
        before = drafts.draft(inode)
        if before is not None:
            self._take_back(before)
        drafts.put_draft(
            DraftRow(inode=inode, base=base, base_size=0, low_size=0, size=state.size, mtime_ns=state.mtime_ns)
        )
        drafts.put_base_blocks(inode, None)
        for each in copied:
            drafts.add_staged(inode, each.offset, each.staged, each.digest)
        drafts.add_truncate(inode, state.size)
        self._view.put_inode(state)


def _without(mutation: Mutation, lost: InodeId) -> Mutation | None:
    """What a mutation does to the other one of two inodes; None if it is about one only."""
    if isinstance(mutation, Exchange):
        return exchange_without(mutation, lost)
    if not isinstance(mutation, Rename) or mutation.replaced == NO_INODE:
        return None
    if mutation.replaced == lost:
        return msgspec.structs.replace(mutation, replaced=NO_INODE, base=Base())
    return Unlink(
        n=mutation.n,
        time_ns=mutation.time_ns,
        parent=mutation.new_parent,
        name=mutation.new_name,
        inode=mutation.replaced,
        base=mutation.base,
    )
