"""What is put back of a backup: nothing with a wrong key, and always under the mark of a backup."""

import errno
from pathlib import Path
from unittest.mock import Mock

import pytest
import trio
from sqlalchemy import select

from backend.blockstore.local import LocalStore
from backend.blockstore.places import BLOCKS_NAME
from backend.metadata.schema import deployment
from backend.metadata.sqlite import Database
from backend.service.backups import COPIED_MARK, DATABASE_NAME, Target, _copy_objects, _take, put_back
from backend.service.keys import AccountKeys, MasterKey, WrongMasterKey
from tests.backend.service.drive import Random, offload, open_drive

MASTER = MasterKey(bytes(32))
PRESENT = b"the present state"


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A copy of data that is sealed with `MASTER` and has no mark, and a data directory."""
    source, data = tmp_path / "source", tmp_path / "data"
    for place in (source, data):
        place.mkdir()
    (data / DATABASE_NAME).write_bytes(PRESENT)

    async def make() -> None:
        drive = await open_drive(source)
        await AccountKeys(drive.database, MASTER, drive.clock, Random()).active(drive.home.account)
        drive.database.close()

    trio.run(make)
    return source, data


def into(data: Path) -> Target:
    return Target(data, LocalStore(data / BLOCKS_NAME))


async def quiet(_done: int, _total: int) -> None:
    pass


def test_with_another_master_key_the_present_state_stays(places: tuple[Path, Path]) -> None:
    source, data = places
    with pytest.raises(WrongMasterKey, match="Nothing was changed"):
        trio.run(put_back, source, into(data), MasterKey(bytes([1]) * 32), offload, quiet)
    assert (data / DATABASE_NAME).read_bytes() == PRESENT


def test_a_log_that_was_left_without_its_database_is_not_taken_for_that_of_the_one_put_back(
    places: tuple[Path, Path],
) -> None:
    source, data = places
    (data / DATABASE_NAME).unlink()
    (data / f"{DATABASE_NAME}-wal").write_bytes(b"what another database has not taken in")
    assert trio.run(put_back, source, into(data), MASTER, offload, quiet) is None
    assert not (data / f"{DATABASE_NAME}-wal").exists()
    assert (data / f"{DATABASE_NAME}.replaced-1-wal").exists()


def test_what_is_put_back_has_the_mark_of_a_backup_and_what_was_there_stays_beside_it(
    places: tuple[Path, Path],
) -> None:
    source, data = places

    async def run() -> tuple[Path | None, str]:
        kept = await put_back(source, into(data), MASTER, offload, quiet)
        database = await Database.open(data / DATABASE_NAME, offload)
        mark = await database.read(lambda connection: connection.execute(select(deployment.c.mark)).scalar_one())
        database.close()
        return kept, mark

    kept, mark = trio.run(run)
    assert mark == COPIED_MARK
    assert kept is not None
    assert kept.read_bytes() == PRESENT


class TestObjects:
    """What is copied from one store to another."""

    NAME, DATA = "aa/1", bytes(range(100))

    @pytest.fixture
    def stores(self, tmp_path: Path) -> tuple[LocalStore, LocalStore]:
        """One that has an object, and one that has a part of it."""
        source, target = LocalStore(tmp_path / "one"), LocalStore(tmp_path / "two")
        for store, data in ((source, self.DATA), (target, self.DATA[:50])):
            store.prepare()
            store.put(self.NAME, [data])
        return source, target

    def test_one_that_ends_too_early_is_not_there(self, stores: tuple[LocalStore, LocalStore]) -> None:
        _copy_objects([(self.NAME, 100)], *stores)
        assert stores[1].whole(self.NAME) == self.DATA

    def test_one_that_cannot_be_read_now_is_not_left_out(self, stores: tuple[LocalStore, LocalStore]) -> None:
        source, target = stores
        source.get = Mock(side_effect=OSError(errno.EMFILE, "Too many open files"))  # type: ignore[method-assign]
        with pytest.raises(OSError, match="Too many"):
            _copy_objects([(self.NAME, 100)], source, target)

    def test_one_that_is_replaced_is_put_aside(self, stores: tuple[LocalStore, LocalStore], tmp_path: Path) -> None:
        assert _take(self.NAME, 100, *stores)
        assert stores[1].whole(self.NAME) == self.DATA
        assert (tmp_path / "two/quarantine" / self.NAME).read_bytes() == self.DATA[:50]
