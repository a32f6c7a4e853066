"""The newest commit of the workspace that this device has seen: by the feed, or by an answer to a commit of its own.

Owns that one fact, which the journal keeps. What was acknowledged may be newer than the replica's cursor: a backend
that was put back to a state in between would still know the cursor, and no longer what it has acknowledged. So both
are named in all that is asked, and it says so (`diverged`) before anything is committed to the other history.
"""

from cache.journal import Journal
from cache.workspace import LocalState
from drivefs.protocol import wire
from drivefs.protocol.ids import WorkspaceId
from drivefs.protocol.messages import Cursor

ANSWERED = "answered"
"""The fact under which the head after the last answer to an own commit is remembered."""


def answered(journal: Journal, head: Cursor) -> None:
    """Note, in the caller's transaction, where the workspace stood after an own commit was answered."""
    journal.set_meta(ANSWERED, wire.encode(head))


def forget(journal: Journal) -> None:
    """What was answered belongs to a history that is no more."""
    journal.set_meta(ANSWERED, None)


def beyond(local: LocalState, cursor: Cursor) -> Cursor | None:
    """What was seen beyond the cursor, if anything was."""
    known = local.journal.meta(ANSWERED)
    head = None if known is None else wire.decode(known, Cursor)
    return head if head is not None and head.seq > cursor.seq else None


def newest(local: LocalState, workspace: WorkspaceId) -> Cursor | None:
    """The newest commit that was seen; None before the first session."""
    cursor = local.replica.cursor(workspace)
    return None if cursor is None else beyond(local, cursor) or cursor
