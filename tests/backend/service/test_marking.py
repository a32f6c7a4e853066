"""A data directory that was put back by hand is noticed, whatever it was put back with; and what then holds."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, select

from backend.metadata import schema
from backend.metadata.sqlite import Database
from backend.service import ids, marking
from drivefs.protocol.ids import Epoch
from tests.backend.service.drive import Clock, Random, offload, open_drive

pytestmark = [pytest.mark.anyio, pytest.mark.fault(40)]

NAME = "metadata.db"


async def made(place: Path) -> tuple[Path, Path]:
    """A data directory with a drive in it, used once; and a copy of it that was made then."""
    data = place / "data"
    data.mkdir()
    drive = await open_drive(data)
    drive.database.close()
    (found,) = data.glob("*.db")
    found.rename(data / NAME)
    assert not await started(data)
    shutil.copytree(data, place / "copy")
    for path in (place / "copy").iterdir():
        os.utime(path, (1_700_000_000, 1_700_000_000))  # it was made long ago, and tools go by that
    assert not await started(data)
    return data, place / "copy"


async def started(data: Path, *, stops: bool = True) -> bool:
    """Start and stop as a server does; gives whether a new incarnation began."""
    before = await incarnation(data)
    database = await Database.open(data / NAME, offload)
    random = Random()
    random.drawn = RANDOM.drawn = RANDOM.drawn + 100
    is_copied = await database.write(marking.renew_if_copied, data, data / NAME, random, Clock())
    if stops:
        await database.write(marking.mark, data, data / NAME, random)
    database.close()
    assert is_copied == (await incarnation(data) != before)
    return is_copied


RANDOM = Random()


async def incarnation(data: Path) -> int:
    database = await Database.open(data / NAME, offload)
    found = await database.read(ids.incarnation)
    database.close()
    return found


def moved_there(data: Path, copy: Path) -> None:
    shutil.rmtree(data)
    copy.rename(data)


def copied_there(data: Path, copy: Path) -> None:
    shutil.rmtree(data)
    shutil.copytree(copy, data)


def copied_over(data: Path, copy: Path) -> None:
    shutil.copytree(copy, data, dirs_exist_ok=True)


def only_the_database(data: Path, copy: Path) -> None:
    shutil.copyfile(copy / NAME, data / NAME)


def with_rsync(data: Path, copy: Path) -> None:
    subprocess.run(["rsync", "-a", "--delete", f"{copy}/", f"{data}/"], check=True)


def with_rsync_in_place(data: Path, copy: Path) -> None:
    subprocess.run(["rsync", "-a", "--inplace", f"{copy}/", f"{data}/"], check=True)


def with_tar(data: Path, copy: Path) -> None:
    subprocess.run(f"tar -C {copy} -c . | tar -C {data} -x", shell=True, check=True)


WAYS = [moved_there, copied_there, copied_over, only_the_database, with_rsync, with_rsync_in_place, with_tar]


@pytest.mark.parametrize("put_back", WAYS)
async def test_data_that_was_put_back_is_noticed_once(tmp_path: Path, put_back: Callable[[Path, Path], None]) -> None:
    data, copy = await made(tmp_path)
    put_back(data, copy)
    assert await started(data)
    assert not await started(data)


async def test_a_server_that_was_killed_is_not_taken_for_a_copy(tmp_path: Path) -> None:
    data, _copy = await made(tmp_path)
    assert not await started(data, stops=False)
    assert not await started(data)


async def test_data_that_was_never_marked_is_taken_as_it_is_but_an_old_one_is_not(tmp_path: Path) -> None:
    data, copy = await made(tmp_path)
    (copy / marking.MARK_NAME).unlink()
    database = await Database.open(copy / NAME, offload)
    await database.write(lambda connection: connection.execute(schema.deployment.update().values(mark=None)) and None)
    database.close()
    shutil.copyfile(copy / NAME, data / NAME)
    assert await started(data)
    assert not await started(copy)


async def test_ids_and_histories_of_before_and_after_are_told_apart(tmp_path: Path) -> None:
    data, _copy = await made(tmp_path)
    database = await Database.open(data / NAME, offload)

    def take(connection: Connection) -> tuple[list[int], list[int]]:
        before = ids.take_ranges(connection, ids.BACKEND_DEVICE, Epoch(1), count=2)
        own = [ids.take_inode(connection)]
        for _ in range(2):
            assert ids.renew_incarnation(connection, random_bytes=RANDOM) is not None
        after = ids.take_ranges(connection, ids.BACKEND_DEVICE, Epoch(1), count=2)
        return [*before, *own], [*after, ids.take_inode(connection)]

    before, after = await database.write(take)
    assert not set(before) & set(after)
    rows = await database.read(
        lambda connection: connection.execute(select(schema.restores).order_by(schema.restores.c.number)).all()
    )
    heads = await database.read(lambda connection: connection.execute(select(schema.workspaces.c.head_seq)).scalar())
    assert [(row.number, row.head_seq) for row in rows] == [(1, heads), (2, heads)]
    assert len({row.ended for row in rows} | {await database.read(ids.incarnation)}) == 3
    database.close()


async def test_data_without_any_user_has_no_incarnation_to_renew(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / NAME, offload)
    (tmp_path / marking.MARK_NAME).write_text("of something else")
    assert not await database.write(marking.renew_if_copied, tmp_path, tmp_path / NAME, RANDOM, Clock())
    database.close()
