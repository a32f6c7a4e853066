"""How a login makes a state its own: after everything was had from the backend, and then all at once."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

from cache.errors import CacheError
from cache.workspace import LocalState
from drivefs.protocol.ids import ID_RANGE_LENGTH, Epoch, Incarnation, InodeId, Seq, WorkspaceId
from drivefs.protocol.messages import Cursor, IdRangesReply, IdRangesRequest, Limits, SessionRequest
from drivefs.remote import errors
from drivefs.remote.client import Remote
from drivefs.sync import session
from tests.cache.states import ROOT, Bench, create

HOME = WorkspaceId(5)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close_all()


@pytest.fixture
def local(bench: Bench) -> LocalState:
    return bench.open()


LIMITS = Limits(file_bytes=5, quota_bytes=7)


class Reply:
    """As much of a session's reply as is looked at."""

    def __init__(self, epoch: Epoch) -> None:
        self.epoch = epoch
        self.workspaces: list[Any] = [self]
        self.workspace = HOME
        self.head = Cursor(incarnation=Incarnation(1), seq=Seq(1))
        self.limits = LIMITS


class Backend:
    """Begins a new epoch whenever it is told to, and hands out one range after another, if it does at all."""

    def __init__(self, epoch: Epoch) -> None:
        self.epoch = epoch
        self.has_ids = True
        self.asked: list[IdRangesRequest] = []
        self.sessions: list[SessionRequest] = []
        self.loses_replies = False

    async def session(self, request: SessionRequest) -> Reply:
        await trio.lowlevel.checkpoint()
        self.sessions.append(request)
        if self.loses_replies:
            raise errors.Offline("the reply was lost")
        return Reply(self.epoch)

    async def id_ranges(self, request: IdRangesRequest) -> IdRangesReply:
        await trio.lowlevel.checkpoint()
        if not self.has_ids:
            raise errors.Offline("no server answers")
        self.asked.append(request)
        first = 100 * len(self.asked)
        return IdRangesReply(starts=[InodeId((first + each) * ID_RANGE_LENGTH) for each in range(request.count)])


async def log_in(local: LocalState, backend: Backend) -> None:
    beginning = await session.ask_to_begin(local, cast(Remote, backend), bytes)
    await session.begin(local, beginning)


def only_inode(local: LocalState) -> InodeId:
    ((name, inode),) = local.journal.overlay.children(ROOT)
    assert name == b"file"
    return inode


def test_a_login_over_unsent_changes_gives_them_ids_of_its_epoch(bench: Bench, local: LocalState) -> None:
    create(local.journal, b"file", content=b"12345")
    backend = Backend(Epoch(3))
    trio.run(log_in, local, backend)
    assert local.journal.epoch == 3
    assert [request.epoch for request in backend.asked] == [3]
    assert only_inode(local) == 100 * ID_RANGE_LENGTH
    assert local.journal.ids_left() == session.RESERVE_RANGES * ID_RANGE_LENGTH - 1
    assert not local.journal.is_dirty
    trio.run(log_in, local, backend)
    assert only_inode(local) == 100 * ID_RANGE_LENGTH
    backend.epoch = Epoch(4)
    trio.run(log_in, local, backend)
    assert only_inode(local) == 200 * ID_RANGE_LENGTH
    assert bench.close(local) == []


def test_a_login_that_gets_no_ids_changes_nothing(bench: Bench, local: LocalState) -> None:
    inode, _ = create(local.journal, b"file", content=b"12345")
    left = local.journal.ids_left()
    backend = Backend(Epoch(3))
    backend.has_ids = False
    with pytest.raises(errors.Offline):
        trio.run(log_in, local, backend)
    assert (local.journal.epoch, local.journal.meta("nonce")) == (0, None)
    assert (only_inode(local), local.journal.ids_left()) == (inode, left)
    assert bench.close(local) == []


def test_a_login_with_too_few_ids_changes_nothing(bench: Bench, local: LocalState) -> None:
    inode, _ = create(local.journal, b"file", content=b"12345")
    local.journal.set_meta(session.ASKED, bytes(session.NONCE_BYTES))
    nothing = session.Beginning(cast(Any, Reply(Epoch(3))), [])
    with pytest.raises(CacheError):
        trio.run(session.begin, local, nothing)
    assert (local.journal.epoch, only_inode(local)) == (0, inode)
    assert bench.close(local) == []


def test_a_mount_whose_epoch_ends_says_what_becomes_of_what_waits(
    bench: Bench, local: LocalState, caplog: pytest.LogCaptureFixture
) -> None:
    backend = Backend(Epoch(3))
    renumbered: list[dict[InodeId, InodeId]] = []
    opening = session.Session(
        local,
        cast(Remote, backend),
        HOME,
        random_bytes=bytes,
        opened=lambda reply: None,
    )
    opening.renumbered = renumbered.append
    with caplog.at_level(logging.WARNING):
        trio.run(opening.open)
        assert not local.journal.is_log_dirty
        inode, _ = create(local.journal, b"file")
        trio.run(opening.open)
        assert caplog.messages == []
        backend.epoch = Epoch(4)
        trio.run(opening.open)
    (message,) = caplog.messages
    assert "1 changes" in message
    again = only_inode(local)
    assert renumbered == [{inode: again}]
    assert local.journal.epoch == 4
    opening.has_void_ids = True  # a server that was put back knows no more of the ids that it gave
    trio.run(opening.open)
    assert renumbered[1:] == [{again: only_inode(local)}]
    assert bench.close(local) == []


def test_no_epoch_ends_while_somebody_needs_it_to_stay(local: LocalState) -> None:
    backend = Backend(Epoch(3))
    opening = session.Session(local, cast(Remote, backend), HOME, random_bytes=bytes, opened=lambda reply: None)

    async def main() -> None:
        async with trio.open_nursery() as nursery, opening.undisturbed:
            nursery.start_soon(opening.open)
            await trio.testing.wait_all_tasks_blocked()
            assert backend.sessions == []

    trio.run(main)
    assert local.journal.epoch == 3


def test_limits_that_a_login_heard_hold_before_the_first_mount(local: LocalState) -> None:
    assert session.known_limits(local.journal).quota_bytes == 0
    backend = Backend(Epoch(3))
    trio.run(log_in, local, backend)
    assert session.known_limits(local.journal) == LIMITS


@pytest.mark.fault(18, 27)
def test_each_process_asks_for_a_nonce_of_its_own_and_names_those_that_it_never_heard_of(
    bench: Bench, local: LocalState
) -> None:
    backend, drawn = Backend(Epoch(3)), iter(range(1, 100))

    def process() -> session.Session:
        return session.Session(
            local,
            cast(Remote, backend),
            HOME,
            random_bytes=lambda length: bytes([next(drawn)]) * length,
            opened=lambda reply: None,
        )

    trio.run(process().open)
    backend.loses_replies = True
    for _ in range(2):
        mounted = process()
        for _ in range(3):
            with pytest.raises(errors.Offline):
                trio.run(mounted.open)
    backend.loses_replies = False
    trio.run(process().open)
    trio.run(process().open)
    told = [
        (request.last_nonce[:1], request.next_nonce[:1], [each[:1] for each in request.asked])
        for request in backend.sessions
    ]
    assert told == [
        (b"", b"\1", []),
        *[(b"\1", b"\2", [])] * 3,
        *[(b"\1", b"\3", [b"\2"])] * 3,
        (b"\1", b"\4", [b"\2", b"\3"]),
        (b"\4", b"\5", []),
    ]
    assert bench.close(local) == []
