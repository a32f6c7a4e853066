"""The collector of blocks: what nobody names goes, in two steps and days; whatever somebody wants stays."""

import errno
import random
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from sqlalchemy import func, select

from backend.metadata.schema import pins
from backend.service import block_rows, garbage, marking
from backend.service.garbage import CONDEMN_SECONDS, DELETE_SECONDS, Collected
from backend.service.ground import Limits
from backend.service.sealing import SMALL_PAYLOAD_BYTES
from drivefs.protocol import blocks as codec
from drivefs.protocol import messages, routes
from drivefs.protocol.ids import Epoch
from tests.backend.api.served import SESSION, Drive, Served, serving
from tests.backend.service import invariants

pytestmark = pytest.mark.anyio
LARGE = random.Random(1).randbytes(2 * SMALL_PAYLOAD_BYTES)
"""In an object of its own."""
NOTHING = Collected()


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path, Limits(pin_seconds=3600)) as served:
        yield served
        assert not (await served.services.checks.check(_quiet)).findings
        await served.ground.database.read(invariants.check)


async def _quiet(_done: int, _total: int) -> None:
    pass


async def later(served: Served, seconds: float) -> Collected:
    served.clock.ns += int(seconds * 10**9)
    return await served.services.garbage.collect()


async def condemned(served: Served, *plaintexts: bytes) -> list[bytes]:
    """Blocks that were uploaded, and of which no more was heard."""
    await served.put(*plaintexts)
    assert await later(served, CONDEMN_SECONDS - 1) == NOTHING
    assert await later(served, 1) == Collected(condemned_count=len(plaintexts))
    return [codec.block_id(each) for each in plaintexts]


async def a_drive(served: Served) -> Drive:
    session = (await served.post(routes.SESSION, SESSION)).message(messages.SessionReply)
    ranges = await served.post(routes.ID_RANGES, messages.IdRangesRequest(epoch=Epoch(session.epoch)))
    return Drive(served, session, ranges.message(messages.IdRangesReply).starts[0])


async def content_of(served: Served, plaintext: bytes) -> bytes:
    block = codec.block_id(plaintext)
    return codec.decode_payload((await served.get(block))[0].payload or b"", block)


async def test_what_nobody_names_is_deleted_after_days_and_in_two_steps(served: Served) -> None:
    drive = await a_drive(served)
    await drive.store_file(10, b"kept", b"kept")
    await condemned(served, LARGE, b"small", b"smaller")
    assert await later(served, DELETE_SECONDS - 1) == NOTHING
    assert len(served.objects()) == 3
    assert await later(served, 1) == Collected(deleted_count=3, object_count=2, object_bytes=262_384)
    assert len(served.objects()) == 1
    assert await later(served, 10 * CONDEMN_SECONDS) == NOTHING
    gone = [codec.block_id(each) for each in (LARGE, b"small", b"smaller")]
    assert await served.missing(*gone) == gone
    assert (await served.usage()).pinned_bytes == 0
    assert await content_of(served, b"kept") == b"kept"
    await served.put(LARGE)
    assert await content_of(served, LARGE) == LARGE


async def test_pins_of_what_is_deleted_take_no_room_however_many_they_are(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of an upload that was given up run out all at once, here when others have just been dropped."""
    monkeypatch.setattr(garbage, "_unpin", lambda *_arguments: 0)
    await condemned(served, *(b"%d" % number for number in range(block_rows.MAX_IN_QUERY + 100)))
    await later(served, DELETE_SECONDS)
    assert (await served.usage()).pinned_bytes == 0


async def test_pins_that_have_run_out_are_dropped_however_many_they_are(served: Served) -> None:
    await served.put(*(b"%d" % number for number in range(2 * block_rows.MAX_IN_QUERY + 1)))
    assert await later(served, 3601) == NOTHING
    assert (await served.usage()).pinned_bytes == 0
    pinned = select(func.count()).select_from(pins)
    assert await served.ground.database.read(lambda connection: connection.execute(pinned).scalar_one()) == 0


async def test_a_server_that_was_away_for_weeks_still_takes_two_steps(served: Served) -> None:
    await served.put(b"x")
    assert await later(served, 100 * CONDEMN_SECONDS) == Collected(condemned_count=1)
    assert await later(served, 1) == NOTHING


@pytest.mark.fault(49)
@pytest.mark.parametrize("step", ["stored", "condemned", "about to be deleted"])
async def test_a_pin_wins_against_the_collector_up_to_the_last_moment(
    served: Served, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A device that was told "it is here" can commit what it has, whatever the collector is doing."""
    drive = await a_drive(served)
    await served.put(LARGE)
    if step != "stored":
        await later(served, CONDEMN_SECONDS)
    served.clock.ns += max(CONDEMN_SECONDS, DELETE_SECONDS) * 10**9
    if step == "about to be deleted":
        real = garbage._inside

        def pin_first(connection: block_rows.Connection, *args: object) -> garbage.Objects:
            found = real(connection, *args)  # type: ignore[arg-type]
            anyio.from_thread.run(told_that_it_is_here)
            return found

        monkeypatch.setattr(garbage, "_inside", pin_first)

    async def told_that_it_is_here() -> None:
        assert await served.missing(codec.block_id(LARGE)) == []

    if step != "about to be deleted":
        await told_that_it_is_here()
    assert await served.services.garbage.collect() == NOTHING
    await drive.store_file(10, b"file", LARGE)
    assert await later(served, 10 * CONDEMN_SECONDS) == NOTHING
    assert await content_of(served, LARGE) == LARGE


@pytest.mark.fault(49)
@pytest.mark.parametrize("crashes", [False, True])
async def test_what_comes_back_while_it_is_deleted_is_kept(
    served: Served, monkeypatch: pytest.MonkeyPatch, crashes: bool
) -> None:
    """An upload that meets the deletion of the same block lies in an object of its own; also after a crash between."""
    drive = await a_drive(served)
    await condemned(served, LARGE)
    delete = served.ground.store.delete

    def sent_again(name: str) -> None:
        anyio.from_thread.run(served.put, LARGE)
        monkeypatch.undo()
        if crashes:
            raise OSError(errno.EIO, "Input/output error")
        delete(name)

    monkeypatch.setattr(served.ground.store, "delete", sent_again)
    if crashes:
        with pytest.raises(OSError, match="Input/output"):
            await later(served, DELETE_SECONDS)
    else:
        await later(served, DELETE_SECONDS)
    assert await served.missing(codec.block_id(LARGE)) == [], "it was acknowledged"
    await drive.store_file(10, b"file", LARGE)
    await served.services.garbage.collect()
    assert await later(served, 10 * CONDEMN_SECONDS) == NOTHING
    assert await content_of(served, LARGE) == LARGE


async def test_a_deletion_that_failed_is_finished_by_the_next_round(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = await condemned(served, LARGE)

    def fail(_name: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(served.ground.store, "delete", fail)
    with pytest.raises(OSError, match="Input/output"):
        await later(served, DELETE_SECONDS)
    monkeypatch.undo()
    assert await served.missing(block) == [block]  # type: ignore[arg-type]
    assert await served.services.garbage.collect() == Collected(deleted_count=1, object_count=1, object_bytes=262_220)
    assert served.objects() == []


async def test_an_object_that_cannot_be_deleted_keeps_no_other_from_it(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    await condemned(served, LARGE, LARGE[::-1])
    resisting, delete = served.objects()[0].name, served.ground.store.delete

    def fail(name: str) -> None:
        if name.endswith(resisting):
            raise OSError(errno.EPERM, "Operation not permitted")
        delete(name)

    monkeypatch.setattr(served.ground.store, "delete", fail)
    with pytest.raises(OSError, match="not permitted"):
        await later(served, DELETE_SECONDS)
    assert [each.name for each in served.objects()] == [resisting]
    monkeypatch.undo()
    assert (await served.services.garbage.collect()).deleted_count == 1
    assert served.objects() == []


async def test_an_object_stays_while_anything_in_it_is_wanted(served: Served) -> None:
    drive = await a_drive(served)
    await served.put(b"wanted", b"unwanted")
    await drive.store_file(10, b"file", b"wanted")
    assert (await later(served, CONDEMN_SECONDS)).condemned_count == 1
    assert await later(served, DELETE_SECONDS) == NOTHING
    assert await content_of(served, b"wanted") == b"wanted"


@pytest.mark.parametrize("is_condemned", [True, False])
async def test_an_object_stays_until_all_in_it_has_waited(served: Served, is_condemned: bool) -> None:
    await served.put(b"first", b"other")
    first, other = codec.block_id(b"first"), codec.block_id(b"other")
    database, clock = served.ground.database, served.clock
    (account,) = await database.read(garbage._accounts)
    clock.ns += CONDEMN_SECONDS * 10**9
    assert await database.write(garbage._condemn, account, [first], clock.ns) == 1
    clock.ns += DELETE_SECONDS * 10**9
    if is_condemned:
        assert await database.write(garbage._condemn, account, [other], clock.ns) == 1
    objects = await database.read(garbage._inside, account, [each.name for each in served.ground.store.objects()])
    assert await database.write(garbage._begin_to_delete, account, objects, clock.ns) == {}


@pytest.mark.fault(40)
async def test_what_was_put_back_is_kept_as_long_as_what_is_new(served: Served) -> None:
    """Since the copy was made, a device may have been told that a block is here, and relied on that."""
    await condemned(served, LARGE)
    served.clock.ns += DELETE_SECONDS * 10**9
    (served.data / marking.MARK_NAME).write_text("of another copy")
    own = (served.data, served.ground.database.path, served.ground.random_bytes, served.clock)
    assert await served.ground.database.write(marking.renew_if_copied, *own)
    assert await later(served, CONDEMN_SECONDS - 1) == NOTHING
    assert await later(served, 1) == Collected(condemned_count=1)


async def test_nothing_is_deleted_while_a_backup_is_made(served: Served) -> None:
    await condemned(served, LARGE)
    async with anyio.create_task_group() as tasks, served.services.garbage.deleting:
        tasks.start_soon(later, served, DELETE_SECONDS)
        with anyio.fail_after(30):
            while not served.services.garbage.deleting.statistics().tasks_waiting:  # noqa: ASYNC110 (nobody tells)
                await anyio.sleep(0.01)
        assert len(served.objects()) == 1
    assert served.objects() == []


async def test_a_backup_holds_what_it_copies(served: Served) -> None:
    async def at_work(_done: int, _total: int) -> None:
        assert served.services.garbage.deleting.locked()

    await served.put(LARGE)
    report = await served.services.backups.make(served.data / "backup", at_work)
    assert report.block_count == 1
