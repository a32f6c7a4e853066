"""Unpublished content of a file of which nothing else is known any more: it is never lost, and stops nothing else.

Owns the state that such a file gets, and what people are told. With it the content goes the ordinary way: the backend
takes it, or does not know the file, and then it becomes a file in `lost+found`. Whatever led to it is a defect.
"""

import logging

import msgspec

from cache.drafts import DraftRow
from cache.recovery import size_after, state_created
from cache.workspace import LocalState
from drivefs.fs import errors
from drivefs.fs.view import View
from drivefs.protocol.changes import Create
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind, InodeState

log = logging.getLogger(__name__)

MODE = 0o600
"""Of a file of which nobody knows who may read it."""


class Strays:
    """Finds drafts without a state and gives them one; `notes` are sentences for people."""

    def __init__(self, local: LocalState, view: View) -> None:
        self._journal = local.journal
        self._view = view
        self.notes: dict[InodeId, str] = {}

    def state(self, inode: InodeId) -> InodeState | None:
        """The state of an inode; None if nothing is known of it and it has no draft either."""
        try:
            return self._view.inode(inode)
        except errors.NotFound:
            draft = self._journal.drafts.draft(inode)
            return None if draft is None else self.take_in(draft)

    def take_in(self, draft: DraftRow) -> InodeState:
        """Give the file of a draft the state of its creation, or any, with the size that its content has."""
        inode, size = draft.inode, draft.base_size
        for record in self._journal.drafts.records(inode):
            size = size_after(record, size)
        made = (row.mutation for row in self._journal.touching(inode))
        bare = InodeState(inode=inode, kind=InodeKind.FILE, mode=MODE, atime_ns=draft.mtime_ns)
        state = next((state_created(each) for each in made if isinstance(each, Create) and each.inode == inode), bare)
        state = msgspec.structs.replace(state, size=size, mtime_ns=draft.mtime_ns, ctime_ns=draft.mtime_ns, nlink=1)
        with self._journal.transaction():
            self._view.put_inode(state)
        note = (
            f"what was written to inode {inode} ({size} bytes) had lost its file: it is kept and sent. If the file is "
            "not where it was, look into lost+found of the drive"
        )
        log.error("%s", note)
        self.notes[inode] = note
        return state
