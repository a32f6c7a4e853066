"""The two sides that the resolver compares: what this device has, and what the backend has as of the replica's cursor.

Owns how each question is answered from the journal and the replica. Nothing here waits: what neither has is `Unknown`,
and whoever asked gets it and asks again. Satisfies `questions.Local` and `questions.Remote`.
"""

from collections.abc import Sequence

from cache.journal import RowState
from cache.overlay import MISSING
from cache.workspace import LocalState
from drivefs.protocol.changes import Create, Mutation, OpResult, Restore
from drivefs.protocol.ids import MAX_ID, NO_INODE, NO_REVISION, InodeId, RevisionNumber
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.sync.contents import Contents
from drivefs.sync.questions import Place


class Unknown(Exception):
    """An answer has to be fetched: a directory's names, an inode's state, or the block list of a revision."""

    def __init__(
        self, *, directory: InodeId = NO_INODE, inode: InodeId = NO_INODE, content: InodeState | None = None
    ) -> None:
        super().__init__(f"not known here: directory {directory}, inode {inode}, content {content}")
        self.directory = directory
        self.inode = inode
        self.content = content


def packed_content(local: LocalState, state: InodeState) -> bytes:
    """The packed block list of a file's revision.

    Raises:
        Unknown: it is long and not here.
    """
    if state.blocks is not None:
        return state.blocks
    packed = local.replica.content(state.inode, state.revision)
    if packed is None:
        raise Unknown(content=state)
    return packed


class LocalSide:
    """What this device shows: its own changes over the replica."""

    def __init__(self, local: LocalState, contents: Contents) -> None:
        self._local = local
        self._overlay = local.journal.overlay
        self._contents = contents

    def inode(self, inode: InodeId) -> InodeState | None:
        """An inode that has a name here."""
        state = self._overlay.inode(inode) or self._local.replica.inode(inode)
        return state if state is not None and state.nlink else None

    def at(self, place: Place) -> InodeId:
        """What own changes have put under a name; NO_INODE: nothing."""
        found = self._overlay.dentry(*place)
        return NO_INODE if found is MISSING or found is None else found

    def is_removed(self, place: Place) -> bool:
        """Whether own changes have taken a name away from what the backend has under it."""
        found = self._overlay.dentry(*place)
        return found is not MISSING and found != self._local.replica.dentry(*place)

    def content(self, inode: InodeId) -> bytes | None:
        """The packed block list of what this device last sent, or is sending, of a file."""
        if (frozen := self._contents.frozen(inode)) is not None:
            return frozen[1]
        state = self.inode(inode)
        return None if state is None else packed_content(self._local, state)

    def is_edited(self, inode: InodeId) -> bool:
        """Whether a file has content here that no revision has."""
        return self._local.journal.drafts.draft(inode) is not None

    def base(self, inode: InodeId) -> RevisionNumber | None:
        """The revision on which that content was made, if it has a number."""
        draft = self._local.journal.drafts.draft(inode)
        return draft.base.revision if draft is not None else None

    def children(self, directory: InodeId) -> Sequence[tuple[bytes, InodeId]]:
        """All names in a directory."""
        if not self._local.replica.is_complete(directory):
            raise Unknown(directory=directory)
        found = dict(self._local.replica.names_after(directory, b"", MAX_ID))
        found.update(self._overlay.children(directory))
        return [(name, inode) for name, inode in found.items() if inode]


class RemoteSide:
    """What the backend has, and what of this device is queued to be made or brought back there.

    What was known of a history that the backend has lost is no answer, though programs are shown it yet.
    """

    def __init__(self, local: LocalState) -> None:
        self._local = local
        self._journal = local.journal
        self._replica = local.replica
        self._gone: dict[InodeId, Place] = {}
        self._content_since: dict[InodeId, RevisionNumber] = {}
        self._emptied: set[InodeId] = set()
        self._asked: dict[InodeId, InodeState | None] = {}

    def told_gone(self, mutation: Mutation, result: OpResult) -> None:
        """The backend has refused a mutation, and said where inodes last were that it lacks."""
        self._gone.update((place.inode, Place(place.parent, place.name)) for place in result.gone)
        if result.content_since:
            self._content_since[mutation.inode] = result.content_since
        if result.is_emptied:
            self._emptied.add(mutation.inode)

    def told(self, inode: InodeId, state: InodeState | None) -> None:
        """The backend has said what it has of an inode that the replica does not know."""
        self._asked[inode] = state

    def forget(self) -> None:
        """What was asked may be older than what is to be judged next."""
        self._asked.clear()
        self._gone.clear()
        self._content_since.clear()
        self._emptied.clear()

    def inode(self, inode: InodeId) -> InodeState | None:
        """An inode that has a name."""
        state = self._replica.inode_now(inode)
        if state is not None:
            return state if state.nlink else None
        if self._is_coming(inode):
            return self._journal.overlay.inode(inode) or InodeState(inode=inode, kind=InodeKind.DIRECTORY, mode=0o755)
        if inode in self._gone:
            return None
        if inode not in self._asked:
            raise Unknown(inode=inode)
        state = self._asked[inode]
        return state if state is not None and state.nlink else None

    def _is_coming(self, inode: InodeId) -> bool:
        """Whether it is queued to be made, or brought back."""
        waiting = (row for row in self._journal.touching(inode) if row.state is not RowState.FAILED)
        return any(isinstance(row.mutation, Create | Restore) for row in waiting)

    def at(self, place: Place) -> InodeId:
        """What a name leads to."""
        found = self._replica.dentry(*place)
        if found is not MISSING:
            return found or NO_INODE
        if self._replica.inode_now(place.parent) is None and self.inode(place.parent) is None:
            return NO_INODE
        if self._is_coming(place.parent):
            return NO_INODE
        raise Unknown(directory=place.parent)

    def names(self, inode: InodeId) -> Sequence[Place]:
        """The names of an inode, as far as they are known here."""
        return [Place(*name) for name in self._replica.names_of(inode)]

    def content(self, state: InodeState) -> bytes:
        """The packed block list of a file's current revision."""
        return packed_content(self._local, state)

    def last_place(self, inode: InodeId) -> Place | None:
        """Where an inode without a name last was."""
        return self._gone.get(inode)

    def was_rewritten(self, inode: InodeId, base: RevisionNumber | None) -> bool:
        """Whether a file got another content than that of a revision before it lost its name."""
        return NO_REVISION < (base or NO_REVISION) < self._content_since.get(inode, NO_REVISION)

    def is_emptied(self, inode: InodeId) -> bool:
        """Whether the backend has let the content of a file without a name go."""
        return inode in self._emptied

    def revision(self, inode: InodeId) -> RevisionNumber:
        """The current revision of a file, 0 if there is none."""
        state = self._replica.inode_now(inode)
        return RevisionNumber(0) if state is None else state.revision
