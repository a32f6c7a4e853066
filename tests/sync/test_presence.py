"""When this device tells the others of what it sends: at once, at most once a second, and no more when it has ended."""

from dataclasses import dataclass, field

import trio
import trio.testing

from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import InodeId, WorkspaceId
from drivefs.protocol.messages import PresenceReply, PresenceRequest
from drivefs.remote import errors
from drivefs.sync import presence
from drivefs.sync.ends import Ends
from drivefs.sync.events import Events
from drivefs.sync.presence import BEAT_SECONDS, LARGE_BYTES, UNKNOWN_SECONDS, Outgoing, Presence
from drivefs.sync.publisher import Upload

FILE = InodeId(3)


@dataclass
class Drafts:
    def count(self) -> int:
        return 0


class Ignored:
    def drafts(self) -> tuple[int, int]:
        return 0, 0


@dataclass
class World:
    """A device that sends what `uploads` says, and a backend that notes what it is told."""

    uploads: dict[InodeId, Upload] = field(default_factory=dict)
    names: dict[InodeId, list[tuple[InodeId, bytes]]] = field(default_factory=dict)
    told: list[tuple[float, list[int]]] = field(default_factory=list)
    committing: set[InodeId] = field(default_factory=set)
    online: bool = True
    failure: Exception | None = None
    lost_count: int = 0
    pending_count: int = 0
    pending_bytes: int = 0
    drafts: Drafts = field(default_factory=Drafts)
    ignored: Ignored = field(default_factory=Ignored)

    @property
    def journal(self) -> "World":
        return self

    @property
    def reach(self) -> "World":
        return self

    def is_on_its_way(self, inode: InodeId) -> bool:
        return inode in self.committing

    def names_of(self, inode: InodeId) -> list[tuple[InodeId, bytes]]:
        return self.names.get(inode, [])

    def lost(self, error: errors.RemoteError) -> None:
        self.lost_count += 1

    async def presence(self, request: PresenceRequest) -> PresenceReply:
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        self.told.append((trio.current_time(), [each.sent_bytes for each in request.uploads]))
        return PresenceReply()

    def send(self, inode: InodeId = FILE, size: int = LARGE_BYTES) -> Upload:
        upload = self.uploads[inode] = Upload(inode, size)
        self.names[inode] = [(InodeId(1), b"%d" % inode)]
        return upload

    async def run(self, seconds: float) -> None:
        """Let so much time pass for a presence of this device."""
        outgoing = Outgoing(self, self, self)  # type: ignore[arg-type]
        told = Presence(Ends(self, self, WorkspaceId(1), bytes), outgoing, None, Events(), self)  # type: ignore[arg-type]
        with trio.move_on_after(seconds):
            await told.run(self)  # type: ignore[arg-type]


def run(world: World, seconds: float) -> list[tuple[float, list[int]]]:
    trio.run(world.run, seconds, clock=trio.testing.MockClock(autojump_threshold=0))
    began = world.told[0][0] if world.told else 0.0
    return [(round(moment - began, 1), sent) for moment, sent in world.told]


def test_who_sends_nothing_says_nothing() -> None:
    assert run(World(), 1000) == []


def test_a_large_content_is_told_and_then_only_now_and_then() -> None:
    world = World()
    world.send()
    told = run(world, 2 * BEAT_SECONDS + 2)
    assert [sent for _, sent in told] == [[0], [0], [0]]
    assert [moment for moment, _ in told] == [0, BEAT_SECONDS, 2 * BEAT_SECONDS]


def test_a_small_content_is_told_once_it_takes_long() -> None:
    world = World()
    world.send(size=1000)
    assert run(world, 2) == []
    assert len(run(world, 4)) == 1


def test_it_is_told_to_its_commit_and_then_that_it_has_ended() -> None:
    world = World()
    world.send().done_bytes = 5

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.run, 20)
            await trio.sleep(1.5)
            del world.uploads[FILE]
            world.committing.add(FILE)
            await trio.sleep(5)
            world.committing.clear()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert [sent for _, sent in world.told] == [[5], []]


def test_what_has_ended_is_not_shown_until_the_next_look() -> None:
    world = World()
    world.send()
    outgoing = Outgoing(world, world, world)  # type: ignore[arg-type]

    async def main() -> None:
        outgoing.look()
        assert len(outgoing.worth_telling()) == 1
        world.uploads.clear()
        assert outgoing.all() == []

    trio.run(main)


def test_a_file_that_was_removed_is_not_told_any_more() -> None:
    world = World()
    world.send()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.run, 5)
            await trio.sleep(1.5)
            world.names.clear()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert [sent for _, sent in world.told] == [[0], []]


def test_many_are_told_up_to_the_bound() -> None:
    world = World()
    for number in range(40):
        world.send(InodeId(number + 1))
    assert [len(sent) for _, sent in run(world, 1.5)] == [presence.MAX_UPLOADS]


def test_without_the_backend_it_waits_and_then_tells() -> None:
    world = World(online=False)
    world.send()
    assert run(world, 30) == []
    world.online = True
    assert len(run(world, 1.5)) == 1


def test_a_backend_that_does_not_know_presence_is_left_alone() -> None:
    world = World(failure=errors.Refused(ProtocolError(Code.NOT_FOUND, "no")))
    world.send()
    run(world, UNKNOWN_SECONDS)
    assert world.lost_count == 1
