"""Who is here, what is on its way, and revoking: as devices see it through the sync API."""

import random

import anyio
import pytest

from backend.api import control
from backend.notify.hub import InProcessHub
from drivefs.protocol import blocks, messages, routes, wire
from drivefs.protocol.errors import ProtocolError
from drivefs.protocol.ids import DeviceId, InodeId
from tests.backend.api.served import Drive, Request, Served

pytestmark = pytest.mark.anyio

SECOND = 10**9


def upload(name: bytes = b"film", sent: int = 0) -> messages.Upload:
    return messages.Upload(inode=InodeId(5), parent=InodeId(1), name=name, size_bytes=100, sent_bytes=sent)


async def report(
    device: Served, *uploads: messages.Upload, pending: messages.Pending | None = None
) -> messages.PresenceReply:
    request = messages.PresenceRequest(
        workspace=device.workspace, pending=pending or messages.Pending(), uploads=list(uploads)
    )
    return (await device.post(routes.PRESENCE, request)).message(messages.PresenceReply)


async def second(served: Served) -> Served:
    """Another device of the same user."""
    return await served.log_in_as("ann")


def poll(device: Served, drive: Drive, known: int = 0, wait: float = 0, left: int | None = None) -> Request:
    cursor = messages.WorkspaceCursor(workspace=device.workspace, cursor=drive.head, uploads=known)
    pending = None if left is None else messages.Pending(mutation_count=left, size_bytes=left * 10)
    request = messages.ChangesRequest(cursors=[cursor], wait_seconds=wait, pending=pending)
    return Request(routes.CHANGES, [wire.encode(request)], device.token)


async def told(device: Served, drive: Drive, known: int = 0) -> list[messages.WorkspaceUploads]:
    return (await device.run(poll(device, drive, known))).message(messages.ChangesReply).uploads


async def listening(served: Served, count: int) -> None:
    """Return when so many polls wait."""
    hub = served.services.lifecycle.hub
    assert isinstance(hub, InProcessHub)
    with anyio.fail_after(60):
        while hub.listener_count() < count:  # noqa: ASYNC110
            await anyio.sleep(0.001)


async def devices(served: Served) -> list[messages.DeviceInfo]:
    return (await served.post(routes.DEVICES)).message(messages.DevicesReply).devices


async def me(served: Served) -> messages.DeviceInfo:
    """The device itself: the newest of its user whose token this is."""
    caller = await served.services.accounts.authenticate(served.token)
    return next(each for each in await devices(served) if each.device == caller.device)


# -- uploads --


async def test_others_are_told_what_is_on_its_way_and_the_device_itself_is_not(served: Served, drive: Drive) -> None:
    other = await second(served)
    assert await told(other, drive) == []
    await report(served, upload(sent=40))
    assert await told(served, drive) == []
    (found,) = await told(other, drive)
    (device,) = found.devices
    assert (device.device_name, device.uploads) == ("d", [upload(sent=40)])
    assert await told(other, drive, found.stamp) == []


async def test_a_report_wakes_the_polls_of_the_others(served: Served, drive: Drive) -> None:
    other = await second(served)
    waiting = poll(other, drive, wait=100)
    own = poll(served, drive, wait=100)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:

            async def hear() -> None:
                await other.run(waiting)
                own.gone.set()

            tasks.start_soon(hear)
            tasks.start_soon(served.run, own)
            await listening(served, 2)
            await report(served, upload())
    assert waiting.message(messages.ChangesReply).uploads[0].devices[0].uploads == [upload()]
    assert own.status == 0, "its own poll went on waiting"


async def test_the_end_of_an_upload_is_told_too(served: Served, drive: Drive) -> None:
    other = await second(served)
    await report(served, upload(), upload(b"second"))
    known = (await told(other, drive))[0].stamp
    await report(served)
    (found,) = await told(other, drive, known)
    assert found.devices == []
    assert await told(other, drive, found.stamp) == []


async def test_reports_that_come_too_fast_are_not_taken_but_an_end_is(served: Served, drive: Drive) -> None:
    other = await second(served)
    assert (await report(served, upload(sent=1))).retry_seconds == 0
    assert (await report(served, upload(sent=2))).retry_seconds > 0
    assert (await told(other, drive))[0].devices[0].uploads == [upload(sent=1)]
    served.clock.ns += SECOND
    assert (await report(served, upload(sent=3))).retry_seconds == 0
    assert (await told(other, drive))[0].devices[0].uploads == [upload(sent=3)]
    assert (await report(served)).retry_seconds == 0
    assert (await told(other, drive))[0].devices == []


async def test_a_device_that_falls_silent_is_told_with_how_long_and_forgotten_later(
    served: Served, drive: Drive
) -> None:
    other = await second(served)
    await report(served, upload())
    served.clock.ns += 60 * SECOND
    assert (await told(other, drive))[0].devices[0].silent_seconds == 60
    served.clock.ns += 3600 * SECOND
    assert (await told(other, drive))[0].devices == []


async def test_only_members_report_and_are_told(served: Served, drive: Drive) -> None:
    await served.services.accounts.add_user("bob", "correct horse")
    stranger = await served.log_in_as("bob")
    own, stranger.workspace = stranger.workspace, served.workspace
    request = messages.PresenceRequest(workspace=served.workspace, pending=messages.Pending(), uploads=[upload()])
    assert (await stranger.post(routes.PRESENCE, request)).problem() == "not_found"
    await report(served, upload())
    assert await told(stranger, drive) == []
    stranger.workspace = own
    assert await told(stranger, drive) == []


async def test_a_list_of_uploads_is_bounded(served: Served) -> None:
    request = messages.PresenceRequest(
        workspace=served.workspace, pending=messages.Pending(), uploads=[upload()] * (messages.MAX_UPLOADS + 1)
    )
    assert (await served.post(routes.PRESENCE, request)).problem() == "malformed"


async def test_where_nothing_is_sent_nothing_is_written(served: Served) -> None:
    served.ground.hub.wake = None  # type: ignore[assignment,method-assign]
    assert (await report(served)).retry_seconds == 0


# -- who is here --


async def test_a_device_is_online_while_it_polls_and_offline_when_its_connection_ends(
    served: Served, drive: Drive
) -> None:
    assert not (await me(served)).is_online
    other = await second(served)
    waiting = poll(served, drive, wait=100, left=3)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(served.run, waiting)
            await listening(served, 1)
            seen = next(each for each in await devices(other) if each.is_online)
            assert seen.pending == messages.Pending(mutation_count=3, size_bytes=30)
            served.clock.ns += 5 * SECOND
            waiting.gone.set()
    gone = await me(served)
    assert not gone.is_online
    assert gone.last_seen_ns == served.clock.ns


async def test_between_two_polls_a_device_stays_online_for_a_moment(served: Served, drive: Drive) -> None:
    await served.run(poll(served, drive))
    served.clock.ns += 5 * SECOND
    assert (await me(served)).is_online
    served.clock.ns += 6 * SECOND
    assert not (await me(served)).is_online


async def test_what_is_flushed_is_what_another_server_tells(served: Served, drive: Drive) -> None:
    await served.run(poll(served, drive, left=2))
    seen_ns = served.clock.ns
    await served.services.devices.flush()
    elsewhere = type(served.services.devices)(served.ground)
    user = (await served.services.accounts.authenticate(served.token)).user
    (info,) = await elsewhere.of_user(user)
    assert info.is_online
    assert info.pending == messages.Pending(mutation_count=2, size_bytes=20)
    served.clock.ns += 11 * SECOND
    await served.services.devices.flush()
    (info,) = await elsewhere.of_user(user)
    assert (info.is_online, info.last_seen_ns) == (False, seen_ns)


# -- what nobody is going to commit --


async def pinned_bytes(served: Served) -> int:
    await served.services.devices.flush()
    return (await served.usage()).pinned_bytes


async def test_what_was_uploaded_in_vain_gives_its_room_back(served: Served, drive: Drive) -> None:
    await served.put(b"of a file that was removed before it was committed")
    await report(served, pending=messages.Pending(mutation_count=1))
    assert await pinned_bytes(served)
    other = await second(served)
    await report(other)
    assert await pinned_bytes(served), "it is none of the other device's"
    await other.put(b"is being sent")
    served.clock.ns += SECOND
    await report(served)
    assert await pinned_bytes(served) == len(b"is being sent")


async def test_what_is_uploaded_after_a_device_had_nothing_to_send_stays(served: Served, drive: Drive) -> None:
    await report(served)
    served.clock.ns += SECOND
    await served.put(b"began right after that")
    assert await pinned_bytes(served)


async def test_one_copy_of_a_device_does_not_give_up_what_the_other_sends(served: Served, drive: Drive) -> None:
    copied = messages.SessionRequest(next_nonce=bytes(15) + b"2", last_nonce=b"an older one", epoch=drive.epoch)
    reply = (await served.post(routes.SESSION, copied)).message(messages.SessionReply)
    assert reply.epoch != drive.epoch
    await served.put(b"is being sent")
    await report(served)
    assert await pinned_bytes(served)


async def test_a_server_that_died_is_not_believed_for_long(served: Served, drive: Drive) -> None:
    await served.run(poll(served, drive))
    await served.services.devices.flush()
    served.clock.ns += 200 * SECOND
    elsewhere = type(served.services.devices)(served.ground)
    (info,) = await elsewhere.of_user((await served.services.accounts.authenticate(served.token)).user)
    assert not info.is_online


async def test_a_report_says_what_is_still_to_be_sent(served: Served, drive: Drive) -> None:
    await report(served, pending=messages.Pending(mutation_count=9, size_bytes=1))
    assert (await me(served)).pending == messages.Pending(mutation_count=9, size_bytes=1)


async def test_users_see_their_own_devices_only(served: Served) -> None:
    await served.services.accounts.add_user("bob", "correct horse")
    stranger = await served.log_in_as("bob")
    assert len(await devices(stranger)) == len(await devices(served)) == 1
    theirs = (await devices(stranger))[0].device
    assert (await served.post(routes.REVOKE, messages.RevokeRequest(device=theirs))).problem() == "not_found"
    assert (await stranger.post(routes.USAGE)).status == 200


# -- revoking --


@pytest.mark.fault(53)
async def test_a_revoked_device_is_refused_everywhere_at_once(served: Served, drive: Drive) -> None:
    other = await second(served)
    victim = (await me(served)).device
    await report(served, upload())
    known = (await told(other, drive))[0].stamp
    for _ in range(2):
        assert (await other.post(routes.REVOKE, messages.RevokeRequest(device=victim))).status == 200
    for path in (routes.SESSION, routes.USAGE, routes.CHANGES, routes.PRESENCE, routes.DEVICES, routes.PUT_BLOCKS):
        assert (await served.post(path)).problem() == "device_revoked"
    assert (await told(other, drive, known))[0].devices == [], "what it was sending does not come any more"
    last = (await devices(other))[-1]
    assert (last.device, last.is_online) == (victim, False)
    assert last.revoked_ns


async def test_a_revoked_device_is_offline_at_once(served: Served, drive: Drive) -> None:
    other = await second(served)
    await served.run(poll(served, drive))
    victim = await me(served)
    assert victim.is_online
    await other.post(routes.REVOKE, messages.RevokeRequest(device=victim.device))
    last = (await devices(other))[-1]
    assert (last.device, last.is_online) == (victim.device, False)


@pytest.mark.parametrize("follows", ["a drive", "nothing yet"])
async def test_a_waiting_poll_ends_when_its_device_is_revoked(served: Served, drive: Drive, follows: str) -> None:
    other = await second(served)
    waiting = poll(served, drive, wait=100)
    if follows == "nothing yet":
        waiting.pieces = [wire.encode(messages.ChangesRequest(cursors=[], wait_seconds=100))]
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(served.run, waiting)
            await listening(served, 1)
            victim = (await me(served)).device
            await other.post(routes.REVOKE, messages.RevokeRequest(device=victim))
    assert waiting.problem() == "device_revoked"


async def test_an_upload_in_flight_ends_when_its_device_is_revoked(served: Served) -> None:
    other = await second(served)
    victim = (await me(served)).device

    class Slow(Request):
        async def receive(self) -> dict[str, object]:
            if self.taken_count == 1:
                await other.post(routes.REVOKE, messages.RevokeRequest(device=victim))
            return await super().receive()

    sending = Slow(routes.PUT_BLOCKS.format(workspace=served.workspace), [b"x", b"y", b"z"], served.token)
    assert (await served.run(sending)).problem() == "device_revoked"
    assert sending.taken_count == 2


async def test_a_download_in_flight_ends_when_its_device_is_revoked(served: Served) -> None:
    plaintexts = [random.Random(number).randbytes(3_000_000) for number in range(4)]
    other = await second(served)
    await served.put(*plaintexts, compression=blocks.Compression.FAST)
    victim = (await me(served)).device

    class Slow(Request):
        async def send(self, message: dict[str, object]) -> None:
            await super().send(message)
            if message["type"] == "http.response.start":
                await other.post(routes.REVOKE, messages.RevokeRequest(device=victim))

    ids = [blocks.block_id(each) for each in plaintexts]
    path = routes.GET_BLOCKS.format(workspace=served.workspace)
    getting = Slow(path, [wire.encode(messages.BlocksRequest(blocks=ids))], served.token)
    await served.run(getting)
    assert getting.status == 200
    assert len(getting.reply) < sum(map(len, plaintexts))


async def test_an_administrator_lists_and_revokes_by_name_and_by_number(served: Served) -> None:
    async def nothing(done: int, total: int) -> None:
        pass

    async def perform(command: control.Command) -> control.Reply:
        return await control.perform(served.services, command, nothing)

    (only,) = (await perform(control.ListDevices())).devices
    assert (only.user, only.device.name) == ("ann", "d")
    other = await second(served)
    for user, name in (("ann", "e"), ("bob", "d"), ("ann", "d")):
        with pytest.raises(ProtocolError, match="Nothing was changed"):
            await perform(control.RevokeDevice(user, name))
    assert (await served.post(routes.USAGE)).status == (await other.post(routes.USAGE)).status == 200
    number = str((await me(served)).device)
    assert (await perform(control.RevokeDevice("ann", number))).devices[0].device.device == DeviceId(int(number))
    assert (await served.post(routes.USAGE)).problem() == "device_revoked"
    await perform(control.RevokeDevice("ann", "d"))
    assert (await other.post(routes.USAGE)).problem() == "device_revoked"
    assert len((await perform(control.ListDevices("ann"))).devices) == 2
