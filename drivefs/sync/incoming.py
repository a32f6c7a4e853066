"""What other devices are sending: large contents on their way, as the backend tells of them.

Owns what was told last, and how it is shown: under the paths that this device knows, with how far it is, and since when
nothing was heard of the device that sends it. All of it is in memory, and a hint: a content is here when a page of
the feed has brought it, whole, and not before.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec
import trio

from drivefs.protocol.ground import NowNs
from drivefs.protocol.ids import NO_INODE, DeviceId, InodeId
from drivefs.protocol.messages import Upload, WorkspaceUploads
from drivefs.sync.events import Event, Events, Kind, Origin
from drivefs.sync.places import Places, path_of

STALLED_SECONDS = 30.0
"""A device that sends something speaks every ten seconds at least: after so long it has gone or lost its network."""
FORGOTTEN_SECONDS = 3600.0


class Incoming(msgspec.Struct, frozen=True):
    """One content on its way here.

    `path` is relative to the root, and None while its directory is not known here; `stalled_since_ns` is when its
    device was last heard of, if that is long ago, else 0.
    """

    path: bytes | None
    name: bytes
    size: int
    sent: int
    device: str
    stalled_since_ns: int


@dataclass(frozen=True, slots=True)
class _Sender:
    """A device that sends; `heard` is when it last spoke, on the clock of trio."""

    name: str
    heard: float
    uploads: dict[InodeId, Upload]


class IncomingUploads:
    """What is on its way into one workspace; `is_online` says whether what was told last can still hold."""

    def __init__(self, places: Places, events: Events, now_ns: NowNs, is_online: Callable[[], bool]) -> None:
        self._places = places
        self._events = events
        self._now_ns = now_ns
        self._is_online = is_online
        self._senders: dict[DeviceId, _Sender] = {}
        self.stamp = 0
        """Which state of the workspace's uploads this is; the poll asks for another one."""

    def heard(self, told: WorkspaceUploads) -> None:
        """The backend has told what is on its way now: it takes the place of what was known."""
        before, now = self._senders, trio.current_time()
        self._senders = {
            each.device: _Sender(
                each.device_name, now - each.silent_seconds, {upload.inode: upload for upload in each.uploads}
            )
            for each in told.devices
        }
        self.stamp = told.stamp
        if self._events.are_heard:
            self._publish(before)

    def _publish(self, before: dict[DeviceId, _Sender]) -> None:
        for device in {**before, **self._senders}:
            old, new = before.get(device), self._senders.get(device)
            was = old.uploads if old is not None else {}
            known = new.uploads if new is not None else {}
            name = (new or old or _NOBODY).name
            for inode, upload in {**was, **known}.items():
                if inode not in known:
                    self._tell(upload, name, "ended")
                elif was.get(inode) != upload:
                    self._tell(upload, name, "coming")

    def _tell(self, upload: Upload, device: str, state: str) -> None:
        path = path_at(self._places, upload)
        if path is None:
            return
        details = {"state": state, "size": upload.size_bytes, "sent": upload.sent_bytes, "device": device}
        self._events.publish(
            Event(kind=Kind.UPLOAD, path=path, origin=Origin.ELSEWHERE, inode=upload.inode, details=details)
        )

    def all(self) -> list[Incoming]:
        """Everything that is on its way, nearest to its end first; nothing while the backend cannot be reached."""
        if not self._is_online():
            return []
        found = [self._shown(sender, upload) for sender, upload in self._awaited()]
        return sorted(found, key=lambda each: (each.size - each.sent, each.name))

    def of(self, inode: InodeId = NO_INODE, parent: InodeId = NO_INODE, name: bytes = b"") -> Incoming | None:
        """What is on its way to a file that is here, or else to a name that does not exist here yet."""
        if self._is_online():
            for sender, upload in self._awaited():
                if upload.inode == inode or (not inode and (upload.parent, upload.name) == (parent, name)):
                    return self._shown(sender, upload)
        return None

    def _awaited(self) -> Iterator[tuple[_Sender, Upload]]:
        now = trio.current_time()
        for sender in self._senders.values():
            if now - sender.heard < FORGOTTEN_SECONDS:
                yield from ((sender, upload) for upload in sender.uploads.values() if not self._has_arrived(upload))

    def _has_arrived(self, upload: Upload) -> bool:
        """Whether all of it was sent and the file here is what it announced: its sender says so a moment later."""
        if upload.sent_bytes < upload.size_bytes:
            return False
        state = self._places.state(upload.inode)
        return state is not None and bool(state.nlink) and state.size == upload.size_bytes

    def _shown(self, sender: _Sender, upload: Upload) -> Incoming:
        silent_seconds = trio.current_time() - sender.heard
        is_stalled = silent_seconds > STALLED_SECONDS
        return Incoming(
            path=path_at(self._places, upload),
            name=upload.name,
            size=upload.size_bytes,
            sent=min(upload.sent_bytes, upload.size_bytes),
            device=sender.name,
            stalled_since_ns=self._now_ns() - int(silent_seconds * 1e9) if is_stalled else 0,
        )


def path_at(places: Places, upload: Upload) -> bytes | None:
    """Where a content will be, as this device sees the tree: a name that was changed here, or since, counts."""
    names = places.names_of(upload.inode)
    parent, name = names[0] if names else (upload.parent, upload.name)
    way = places.way_to(parent)
    return None if way is None else path_of(way, name)


_NOBODY = _Sender("", 0.0, {})
