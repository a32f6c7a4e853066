"""What is shown of contents that others are sending: under which path, how far, since when nothing is heard of it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from cache.workspace import LocalState
from drivefs.protocol.ids import DeviceId, InodeId, RevisionNumber, Seq, WorkspaceId
from drivefs.protocol.messages import DeviceUploads, Entry, Upload, WorkspaceUploads
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.sync.events import Event, Events, Origin
from drivefs.sync.incoming import FORGOTTEN_SECONDS, STALLED_SECONDS, IncomingUploads
from drivefs.sync.places import Places

ROOT, DIRECTORY, FILE = InodeId(1), InodeId(2), InodeId(3)
WORKSPACE = WorkspaceId(9)
NOW_NS = 10**18


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalState]:
    with LocalState(
        tmp_path / "state", tmp_path / "cache", offload=trio.to_thread.run_sync, cache_limit_bytes=2**26
    ) as opened:
        root = InodeState(inode=ROOT, kind=InodeKind.DIRECTORY, mode=0o755, nlink=3)
        opened.replica.put_inodes([root], Seq(1))
        list_directory(opened, ROOT, {b"films": InodeState(inode=DIRECTORY, kind=InodeKind.DIRECTORY, mode=0o755)})
        yield opened


def list_directory(local: LocalState, directory: InodeId, entries: dict[bytes, InodeState]) -> None:
    listed = [Entry(name=name, inode=state) for name, state in entries.items()]
    state = InodeState(inode=directory, kind=InodeKind.DIRECTORY, mode=0o755, nlink=3)
    local.replica.apply_listing(state, listed, Seq(1), complete=True)


class Shown:
    """What is on its way, and what was told to who listens."""

    def __init__(self, local: LocalState) -> None:
        self.is_online = True
        self.events = Events()
        self.uploads = IncomingUploads(Places(local, ROOT), self.events, lambda: NOW_NS, lambda: self.is_online)

    def hear(self, *uploads: Upload, silent: float = 0.0, stamp: int = 1) -> None:
        device = DeviceUploads(device=DeviceId(5), device_name="laptop", silent_seconds=silent, uploads=list(uploads))
        self.uploads.heard(WorkspaceUploads(workspace=WORKSPACE, stamp=stamp, devices=[device] if uploads else []))


def upload(sent: int = 10, inode: InodeId = FILE, parent: InodeId = DIRECTORY, name: bytes = b"film") -> Upload:
    return Upload(inode=inode, parent=parent, name=name, size_bytes=100, sent_bytes=sent)


def run(work: Callable[[Shown], object], local: LocalState) -> None:
    async def main() -> None:
        await trio.lowlevel.checkpoint()
        work(Shown(local))

    trio.run(main, clock=trio.testing.MockClock())


def test_a_new_file_is_shown_at_the_path_that_it_will_have(local: LocalState) -> None:
    def check(shown: Shown) -> None:
        shown.hear(upload())
        (found,) = shown.uploads.all()
        assert (found.path, found.size, found.sent, found.device) == (b"films/film", 100, 10, "laptop")
        assert shown.uploads.of(parent=DIRECTORY, name=b"film") == found
        assert shown.uploads.of(parent=ROOT, name=b"film") is None
        assert shown.uploads.stamp == 1

    run(check, local)


def test_a_directory_that_is_not_known_here_leaves_the_name(local: LocalState) -> None:
    def check(shown: Shown) -> None:
        shown.hear(upload(parent=InodeId(77)))
        (found,) = shown.uploads.all()
        assert (found.path, found.name) == (None, b"film")

    run(check, local)


def test_a_file_that_is_here_is_shown_under_its_name_here(local: LocalState) -> None:
    known = InodeState(inode=FILE, kind=InodeKind.FILE, mode=0o644, size=3, revision=RevisionNumber(1))
    list_directory(local, DIRECTORY, {b"other": known})

    def check(shown: Shown) -> None:
        shown.hear(upload())
        assert [each.path for each in shown.uploads.all()] == [b"films/other"]
        assert shown.uploads.of(FILE) is not None

    run(check, local)


def test_what_was_sent_whole_and_is_here_is_not_coming_any_more(local: LocalState) -> None:
    whole = InodeState(inode=FILE, kind=InodeKind.FILE, mode=0o644, size=100, revision=RevisionNumber(1))
    list_directory(local, DIRECTORY, {b"film": whole})

    def check(shown: Shown) -> None:
        shown.hear(upload(sent=100))
        assert shown.uploads.all() == []
        shown.hear(upload(sent=99))
        assert len(shown.uploads.all()) == 1

    run(check, local)


def test_a_silent_device_has_stalled_and_is_forgotten(local: LocalState) -> None:
    def check(shown: Shown) -> None:
        shown.hear(upload(), silent=STALLED_SECONDS - 1)
        assert shown.uploads.all()[0].stalled_since_ns == 0
        shown.hear(upload(), silent=STALLED_SECONDS + 1)
        assert shown.uploads.all()[0].stalled_since_ns == NOW_NS - int((STALLED_SECONDS + 1) * 10**9)
        shown.hear(upload(), silent=FORGOTTEN_SECONDS + 1)
        assert shown.uploads.all() == []

    run(check, local)


def test_without_the_backend_nothing_is_known_to_be_coming(local: LocalState) -> None:
    def check(shown: Shown) -> None:
        shown.hear(upload())
        shown.is_online = False
        assert shown.uploads.all() == []
        assert shown.uploads.of(parent=DIRECTORY, name=b"film") is None

    run(check, local)


def test_who_watches_is_told_of_progress_and_of_the_end_once(local: LocalState) -> None:
    def check(shown: Shown) -> None:
        told: list[Event] = []
        with shown.events.subscribed() as subscription:
            shown.hear(upload())
            shown.hear(upload(), stamp=2)
            shown.hear(upload(sent=20), stamp=3)
            shown.hear(stamp=4)
            told += list(subscription._waiting)
        assert [(each.details["state"], each.details["sent"]) for each in told] == [
            ("coming", 10),
            ("coming", 20),
            ("ended", 20),
        ]
        assert {(each.path, each.origin) for each in told} == {(b"films/film", Origin.ELSEWHERE)}

    run(check, local)
