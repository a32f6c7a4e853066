"""Account keys: drawn once, wrapped at rest, and of no use without the master key that wrapped them."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from sqlalchemy import Connection, select, update

from backend.metadata.schema import account_keys
from backend.metadata.sqlite import Database
from backend.service.keys import AccountKeys, MasterKey, WrongMasterKey
from drivefs.protocol.ids import AccountId
from tests.backend.service.drive import Clock, Random, offload

pytestmark = pytest.mark.anyio
ONE, OTHER = AccountId(1), AccountId(2)
MASTER = MasterKey(bytes(32))


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    found = await Database.open(tmp_path / "metadata.db", offload)
    yield found
    found.close()


def keys(database: Database, master: MasterKey = MASTER) -> AccountKeys:
    return AccountKeys(database, master, Clock(), Random())


def wrapped(connection: Connection) -> list[bytes]:
    return list(connection.execute(select(account_keys.c.wrapped)).scalars())


async def test_an_account_keeps_its_key_over_restarts(database: Database) -> None:
    first = await keys(database).active(ONE)
    again = keys(database)
    assert (await again.active(ONE)).secret == first.secret
    assert (await again.numbered(ONE, first.number)).secret == first.secret


async def test_each_account_has_its_own_key(database: Database) -> None:
    found = keys(database)
    assert (await found.active(ONE)).secret != (await found.active(OTHER)).secret


async def test_two_requests_at_once_agree_on_one_key(database: Database) -> None:
    found = keys(database)
    secrets: list[bytes] = []

    async def ask() -> None:
        secrets.append((await found.active(ONE)).secret)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(ask)
    assert len(set(secrets)) == 1
    assert len(await database.read(wrapped)) == 1


async def test_a_key_lies_wrapped(database: Database) -> None:
    secret = (await keys(database).active(ONE)).secret
    rows = await database.read(wrapped)
    assert all(secret not in row for row in rows)


async def test_another_master_key_is_refused_and_opens_nothing(database: Database) -> None:
    await keys(database).verify_master()
    await keys(database).active(ONE)
    await keys(database).verify_master()
    foreign = keys(database, MasterKey(b"\x01" * 32))
    with pytest.raises(WrongMasterKey, match="Nothing was changed"):
        await foreign.verify_master()
    with pytest.raises(WrongMasterKey):
        await foreign.active(ONE)


async def test_a_key_that_was_moved_to_another_account_does_not_open(database: Database) -> None:
    await keys(database).active(ONE)

    def move(connection: Connection) -> None:
        connection.execute(update(account_keys).values(account=OTHER))

    await database.write(move)
    with pytest.raises(WrongMasterKey):
        await keys(database).active(OTHER)


async def test_a_key_that_is_not_there_is_said_to_be_so(database: Database) -> None:
    with pytest.raises(LookupError):
        await keys(database).numbered(ONE, 9)


async def test_the_cache_is_bounded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.service.keys.MAX_CACHED_KEYS", 2)
    found = keys(database)
    secrets = [(await found.active(AccountId(number))).secret for number in range(1, 6)]
    assert [(await found.numbered(AccountId(number), 1)).secret for number in range(1, 6)] == secrets
    assert len(found._active) <= 2
    assert len(found._opened) <= 2


def test_the_master_key_is_not_shown_and_has_a_name() -> None:
    assert MASTER.secret.hex() not in repr(MASTER)
    assert MASTER.name != MasterKey(b"\x01" * 32).name
