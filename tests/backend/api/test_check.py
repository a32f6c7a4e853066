"""The check: sound when all is well, and each way of not being well is found and named."""

import errno
import os
import random
from contextlib import closing
from dataclasses import replace

import pysqlite3.dbapi2 as sqlite_library
import pytest
from sqlalchemy import Connection, delete, insert, select, update

from backend.blockstore.errors import ObjectMissing
from backend.metadata.schema import blocks, runs
from backend.service import block_rows, mending
from backend.service.checks import Report
from drivefs.protocol import blocks as codec
from drivefs.protocol import messages, model, routes
from drivefs.protocol.errors import ProtocolError
from drivefs.protocol.model import BlockRef
from tests.backend.api.served import Drive, Served

pytestmark = pytest.mark.anyio
LARGE = 2**18


def noise(seed: int) -> bytes:
    return random.Random(seed).randbytes(LARGE)


async def repair(served: Served) -> Report:
    async def report(_done: int, _total: int) -> None:
        pass

    return await served.services.checks.check(report, is_repair=True)


async def lost(served: Served, after: bytes = b"") -> messages.LostReply:
    return (await served.post(routes.LOST, messages.LostRequest(after=after))).message(messages.LostReply)


async def check(served: Served) -> tuple[Report, list[tuple[int, int]]]:
    progress: list[tuple[int, int]] = []

    async def report(done: int, total: int) -> None:
        progress.append((done, total))

    return await served.services.checks.check(report), progress


async def test_an_empty_server_is_sound(served: Served) -> None:
    report, _ = await check(served)
    assert report.is_sound
    assert report.block_count == 0


async def test_all_blocks_are_looked_at_page_by_page(served: Served) -> None:
    await served.put(*[b"block %d" % number for number in range(150)], noise(1))
    report, progress = await check(served)
    assert report.is_sound
    assert report.block_count == 151
    assert progress[0] == (0, 151)
    assert progress[-1] == (151, 151)
    assert len(progress) > 3


async def test_what_comes_back_while_it_is_looked_at_is_not_lost(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device may send a block again, or the collector delete it, once its row was read."""
    await served.put(noise(1))
    look = served.ground.store.get

    def missing_once(name: str, offset: int, length: int) -> bytes:
        monkeypatch.setattr(served.ground.store, "get", look)
        raise ObjectMissing(name)

    monkeypatch.setattr(served.ground.store, "get", missing_once)
    report, _ = await check(served)
    assert report.is_sound
    assert await served.missing(codec.block_id(noise(1))) == []


async def test_a_lost_a_damaged_and_an_exchanged_block_are_found(served: Served) -> None:
    for seed in range(4):
        await served.put(noise(seed))
    lost, damaged, one, other = served.objects()
    lost.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    swapped = one.read_bytes(), other.read_bytes()
    one.write_bytes(swapped[1])
    other.write_bytes(swapped[0])
    report, _ = await check(served)
    assert not report.is_sound
    assert {finding.block for finding in report.findings} == {codec.block_id(noise(seed)) for seed in range(4)}
    assert all(finding.problem for finding in report.findings)
    again, _ = await check(served)
    assert len(again.findings) == 4


@pytest.mark.parametrize(("number", "is_damage"), [(errno.EIO, True), (errno.EMFILE, False), (errno.EACCES, False)])
async def test_a_read_that_fails_is_damage_if_it_says_so_of_the_object(
    served: Served, monkeypatch: pytest.MonkeyPatch, number: int, is_damage: bool
) -> None:
    await served.put(noise(1))

    def fail(_name: str, _offset: int, _length: int) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(served.ground.store, "get", fail)
    if is_damage:
        assert len((await check(served))[0].findings) == 1
    else:
        with pytest.raises(ProtocolError, match="says nothing of them"):
            await repair(served)
    monkeypatch.undo()
    assert len(served.objects()) == 1
    assert bool(await served.missing(codec.block_id(noise(1)))) is is_damage


@pytest.mark.fault(48)
async def test_what_was_found_lost_is_healed_by_a_device_that_has_it(served: Served) -> None:
    await served.put(noise(1))
    served.objects()[0].unlink()
    await check(served)
    assert await served.missing(codec.block_id(noise(1))) == [codec.block_id(noise(1))]
    await served.put(noise(1))
    report, _ = await check(served)
    assert report.is_sound


def need(connection: Connection, served: Served, account: int, refs: list[BlockRef]) -> None:
    packed = model.pack_blocks(refs)
    row = {"account": account, "run": model.run_id(packed), "packed": packed, "refs": 1}
    connection.execute(insert(runs), row)


def account_of(connection: Connection) -> int:
    found: int = connection.execute(blocks.select()).first().account  # type: ignore[union-attr]
    return found


@pytest.mark.fault(48)
async def test_a_block_that_a_revision_needs_and_nobody_has_is_found(served: Served) -> None:
    await served.put(noise(1))
    database = served.ground.database
    account = await database.read(account_of)
    here, absent = codec.block_id(noise(1)), codec.block_id(b"absent")
    refs = [BlockRef(here, LARGE), BlockRef(absent, 6)]
    await database.write(need, served, account, refs)
    report, _ = await check(served)
    assert [finding.block for finding in report.findings] == [absent]
    assert report.findings[0].is_referenced
    await database.write(lambda connection: connection.execute(delete(runs)))
    assert (await check(served))[0].is_sound


async def test_a_size_that_does_not_agree_is_found(served: Served) -> None:
    await served.put(noise(1))
    database = served.ground.database
    account = await database.read(account_of)
    await database.write(need, served, account, [BlockRef(codec.block_id(noise(1)), LARGE - 1)])
    report, _ = await check(served)
    assert len(report.findings) == 1
    await database.write(lambda connection: connection.execute(update(blocks).values(size_bytes=LARGE - 1)))
    report, _ = await check(served)
    assert [finding.block for finding in report.findings] == [codec.block_id(noise(1))]


async def test_the_files_that_a_damaged_block_belongs_to_are_named(served: Served, drive: Drive) -> None:
    await drive.store_file(1, b"thesis.txt", noise(1))
    await drive.store_file(3, b"copy\xff\n.txt", noise(1))
    await drive.store_file(5, b"other.txt", noise(2))
    assert (await check(served))[0].is_sound
    for path in served.objects():
        path.unlink()
    report, _ = await check(served)
    files = {finding.block: finding.files for finding in report.findings}
    assert set(files[codec.block_id(noise(1))]) == {"/thesis.txt", "/copy\\xff\\n.txt"}
    assert files[codec.block_id(noise(2))] == ("/other.txt",)


async def test_a_block_that_is_needed_or_here_is_not_forgotten(served: Served, drive: Drive) -> None:
    """It was neither when it was looked at."""
    await drive.store_file(1, b"thesis.txt", noise(1))
    await served.put(noise(2))
    needed, here = codec.block_id(noise(1)), codec.block_id(noise(2))
    database, of_blocks = served.ground.database, select(blocks.c.account).distinct()
    account = await database.read(lambda connection: connection.execute(of_blocks).scalar_one())
    place = (await database.read(block_rows.places, account, [needed]))[needed]
    await database.write(block_rows.mark_lost, account, place)
    for block in (needed, here):
        assert not await database.write(block_rows.forget_unreadable, account, block)
    assert (await lost(served)).blocks == [needed]
    await check(served)
    assert (await lost(served)).blocks == []


async def test_needed_blocks_that_cannot_be_read_are_asked_for_until_a_device_sends_them(
    served: Served, drive: Drive
) -> None:
    await drive.store_file(1, b"thesis.txt", noise(1))
    await drive.store_file(3, b"other.txt", noise(2))
    await served.put(noise(3))
    assert (await lost(served)).blocks == []
    for path in served.objects():
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    report = await repair(served)
    needed = sorted(codec.block_id(noise(seed)) for seed in (1, 2))
    assert sorted(finding.block for finding in report.findings) == needed
    assert (report.mended.forgotten_count, report.mended.quarantined_count) == (1, 3)
    assert (await lost(served)) == messages.LostReply(blocks=needed)
    assert (await lost(served, needed[0])).blocks == needed[1:]
    assert len(list((served.data / "blocks" / "quarantine").rglob("*/*/*"))) == 3
    before = await served.usage()
    await served.put(noise(1), noise(2))
    assert await served.usage() == before
    assert (await lost(served)).blocks == []
    assert (await check(served))[0].is_sound
    assert not (await repair(served)).mended.is_change


@pytest.mark.fault(48)
async def test_a_full_account_takes_what_it_has_lost_and_nothing_else(served: Served, drive: Drive) -> None:
    await drive.store_file(1, b"thesis.txt", noise(1))
    await served.services.accounts.set_limits("ann", {"quota_bytes": 1})
    assert (await served.put(noise(2))).problem() == "over_quota"
    served.objects()[0].unlink()
    await check(served)
    before = await served.usage()
    assert (await served.put(noise(1), noise(2))).problem() == "over_quota"
    assert (await served.put(noise(1))).status == 200
    assert await served.usage() == before
    assert (await check(served))[0].is_sound
    assert (await served.put(noise(2))).problem() == "over_quota"


async def test_what_somebody_else_has_lost_is_not_told(served: Served, drive: Drive) -> None:
    await drive.store_file(1, b"thesis.txt", noise(1))
    served.objects()[0].unlink()
    await check(served)
    await served.services.accounts.add_user("bea", "correct horse")
    other = await served.log_in_as("bea")
    assert (await lost(other)).blocks == []
    foreign = replace(other, workspace=served.workspace)
    assert (await foreign.post(routes.LOST, messages.LostRequest())).problem() == "not_found"


async def test_objects_that_nothing_names_are_counted_and_removed_when_they_are_old(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between writing and recording leaves them; an upload under way looks the same."""
    monkeypatch.setattr(mending, "PAGE_OBJECTS", 1)
    await served.put(noise(1))
    (path,) = served.objects()
    account = path.parent.parent
    old, young, foreign = account / "aa" / ("b" * 32), account / "aa" / ("c" * 32), account / "notes.txt"
    old.parent.mkdir(exist_ok=True)
    for each in (old, young, foreign):
        each.write_bytes(b"12345")
    day = 24 * 3600
    now = served.clock.ns // 10**9
    served.clock.ns += 2 * day * 10**9
    os.utime(young, (now + day + 10, now + day + 10))
    for each in (old, foreign, path):
        os.utime(each, (now, now))
    report, _ = await check(served)
    assert report.is_sound
    assert (report.mended.orphan_count, report.mended.orphan_bytes) == (2, 10)
    assert old.exists()
    replaced = served.ground.database.path.with_name("metadata.db.replaced-1")
    replaced.touch()
    assert not (await repair(served)).mended.is_change
    replaced.unlink()
    mended = (await repair(served)).mended
    assert (mended.removed_count, mended.removed_bytes, mended.orphan_count) == (1, 5, 1)
    assert [each.exists() for each in (old, young, foreign, path)] == [False, True, True, True]


def empty_index(served: Served, name: str) -> None:
    """Let an index of the database lead nowhere, as where a page was never written."""
    path = served.ground.database.path
    served.ground.database.close()
    with closing(sqlite_library.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ((page,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchall()
        ((size,),) = connection.execute("PRAGMA page_size").fetchall()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\x0a\0\0\0\0" + size.to_bytes(2, "big") + b"\0")


async def test_what_a_damaged_index_does_not_lead_to_is_neither_removed_nor_collected(served: Served) -> None:
    for seed in range(2):
        await served.put(noise(seed))
    served.clock.ns += 2 * mending.SAFE_SECONDS * 10**9
    for path in served.objects():
        os.utime(path, (0, 0))
    empty_index(served, "block_copies_by_object")
    report, _ = await check(served)
    assert "block_copies_by_object" in report.database[0]
    with pytest.raises(ProtocolError, match="database is damaged"):
        await served.services.maintenance.run()
    mended = await repair(served)
    assert mended.is_sound
    assert mended.mended.index_problem_count
    assert len(served.objects()) == 2
    assert not (await repair(served)).mended.is_change


async def test_a_revision_whose_list_of_blocks_is_gone_is_found(served: Served, drive: Drive) -> None:
    await drive.store_file(1, b"doc", noise(1))
    assert (await check(served))[0].is_sound
    await served.ground.database.write(lambda connection: connection.execute(update(runs).values(run=bytes(32))))
    assert "/doc has a list of blocks" in (await check(served))[0].database[0]
