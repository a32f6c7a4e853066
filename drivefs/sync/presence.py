"""Tells the backend what this device is sending and has still to send, so that other devices can be told.

Owns the choice of what is worth telling, and the rhythm: large contents whenever there is news of them, at most once a
second, and now and then while there is none; what else is pending rarely, since each poll carries it too. Nothing
depends on it: what is not told is merely not seen elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import trio

from cache.journal import Journal
from drivefs.protocol.errors import Code
from drivefs.protocol.ids import InodeId
from drivefs.protocol.messages import MAX_UPLOADS, Pending, PresenceRequest, Upload
from drivefs.remote import errors
from drivefs.sync import status
from drivefs.sync.connection import Connection
from drivefs.sync.ends import Ends
from drivefs.sync.events import Event, Events, Kind, Origin
from drivefs.sync.incoming import Incoming, IncomingUploads, path_at
from drivefs.sync.places import Places
from drivefs.sync.publications import Publications
from drivefs.sync.publisher import Publisher

TICK_SECONDS = 1.0
LARGE_BYTES = 8 * 2**20
LONG_SECONDS = 2.0
"""A content is worth telling of when it is so large, or takes so long."""
BEAT_SECONDS = 10.0
PENDING_SECONDS = 5.0
UNKNOWN_SECONDS = 300.0
"""How long a backend that knows nothing of presence is left alone."""


@dataclass(slots=True)
class Progress:
    """How far a content is that this device sends; `since` is on the clock of trio."""

    since: float
    size_bytes: int
    sent_bytes: int = 0


class Outgoing:
    """The contents that this device sends, from the first block to the commit."""

    def __init__(self, publisher: Publisher, publications: Publications, places: Places) -> None:
        self._publisher = publisher
        self._publications = publications
        self._places = places
        self._known: dict[InodeId, Progress] = {}

    def look(self) -> None:
        """Find out how far everything is."""
        for inode, upload in self._publisher.uploads.items():
            known = self._known.setdefault(inode, Progress(trio.current_time(), upload.size_bytes))
            known.size_bytes = upload.size_bytes
            known.sent_bytes = min(upload.done_bytes, upload.size_bytes)
        for inode in [inode for inode in self._known if inode not in self._publisher.uploads]:
            if not self._publications.is_on_its_way(inode):
                del self._known[inode]

    def all(self) -> list[Incoming]:
        """Everything large that this device sends now, as others are told of it; its device is this one."""
        self.look()
        return [
            Incoming(
                path=path_at(self._places, upload),
                name=upload.name,
                size=upload.size_bytes,
                sent=upload.sent_bytes,
                device="",
                stalled_since_ns=0,
            )
            for upload in self.worth_telling()
        ]

    def worth_telling(self) -> list[Upload]:
        """Those that others should be told of; what has no name any more is not among them."""
        now, found = trio.current_time(), list[Upload]()
        for inode, progress in self._known.items():
            if progress.size_bytes < LARGE_BYTES and now - progress.since < LONG_SECONDS:
                continue
            for parent, name in self._places.names_of(inode)[:1]:
                size, sent = progress.size_bytes, progress.sent_bytes
                found.append(Upload(inode=inode, parent=parent, name=name, size_bytes=size, sent_bytes=sent))
        return found[:MAX_UPLOADS]


class Presence:
    """Reports from this device to the others, and has what they report."""

    def __init__(
        self, ends: Ends, outgoing: Outgoing, incoming: IncomingUploads, events: Events, places: Places
    ) -> None:
        self._journal: Journal = ends.local.journal
        self._remote = ends.remote
        self._workspace = ends.workspace
        self.outgoing = outgoing
        self.incoming = incoming
        self._events = events
        self._places = places
        self._told: list[Upload] = []
        self._told_pending = Pending()
        self._told_at = -BEAT_SECONDS
        self._shown: Mapping[InodeId, Upload] = {}

    async def run(self, connection: Connection) -> None:
        """Report until cancelled; what cannot be told now is told later."""
        while True:
            await trio.sleep(TICK_SECONDS)
            self.outgoing.look()
            uploads = self.outgoing.worth_telling()
            self._publish(uploads)
            if not connection.reach.online:
                self._told_at = -BEAT_SECONDS
            elif self._is_due(uploads):
                try:
                    await self._tell(uploads)
                except errors.RemoteError as error:
                    connection.lost(error)
                    if isinstance(error, errors.Refused) and error.code is Code.NOT_FOUND:
                        await trio.sleep(UNKNOWN_SECONDS)

    def pending(self) -> Pending:
        """What is still to be sent, for the poll, which tells it."""
        mutation_count, size_bytes = status.pending(self._journal)
        self._told_pending = Pending(mutation_count=mutation_count, size_bytes=size_bytes)
        return self._told_pending

    def _is_due(self, uploads: list[Upload]) -> bool:
        if uploads != self._told:
            return True
        silent_seconds = trio.current_time() - self._told_at
        if uploads and silent_seconds >= BEAT_SECONDS:
            return True
        if silent_seconds < PENDING_SECONDS:
            return False
        mutation_count, size_bytes = status.pending(self._journal)
        return (mutation_count, size_bytes) != (self._told_pending.mutation_count, self._told_pending.size_bytes)

    async def _tell(self, uploads: list[Upload]) -> None:
        request = PresenceRequest(workspace=self._workspace, pending=self.pending(), uploads=uploads)
        reply = await self._remote.presence(request)
        if not reply.retry_seconds:
            self._told = uploads
        self._told_at = trio.current_time()

    def _publish(self, uploads: list[Upload]) -> None:
        """Tell those who watch this mount."""
        before, now = self._shown, {upload.inode: upload for upload in uploads}
        self._shown = now
        if not self._events.are_heard:
            return
        for inode, upload in {**before, **now}.items():
            if inode not in now:
                self._event(upload, "ended")
            elif before.get(inode) != upload:
                self._event(upload, "sending")

    def _event(self, upload: Upload, state: str) -> None:
        path = path_at(self._places, upload)
        if path is not None:
            details = {"state": state, "size": upload.size_bytes, "sent": upload.sent_bytes}
            self._events.publish(
                Event(kind=Kind.UPLOAD, path=path, origin=Origin.HERE, inode=upload.inode, details=details)
            )
