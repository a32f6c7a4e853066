"""Transactions of the embedded database: snapshots, turns, and what is left when something goes wrong."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import Connection, insert, select, text

from backend.metadata import schema
from backend.metadata.errors import Unreadable
from backend.metadata.queries import MAX_PARAMETERS, are_asked, is_asked, select_in, select_in_pairs
from backend.metadata.sqlite import MAX_READERS, Database

pytestmark = pytest.mark.anyio
STORES = schema.stores


@pytest.fixture(params=["trio", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(tmp_path / "m.db", anyio.to_thread.run_sync)
    yield opened
    opened.close()


def add(connection: Connection, *stores: int) -> None:
    connection.execute(insert(STORES), [{"store": store, "kind": "local", "region": ""} for store in stores])


def stores(connection: Connection) -> list[int]:
    return list(connection.execute(select(STORES.c.store)).scalars())


async def test_writes_are_durable_and_their_results_come_back(database: Database) -> None:
    await database.write(add, 1)
    assert await database.write(stores) == [1]
    assert await database.read(stores) == [1]
    pragmas = await database.read(
        lambda c: [c.execute(text(f"PRAGMA {p}")).scalar() for p in ("journal_mode", "synchronous")]
    )
    assert pragmas == ["wal", 2]


async def test_a_write_that_fails_leaves_nothing(database: Database) -> None:
    def fail(connection: Connection) -> None:
        add(connection, 1)
        raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        await database.write(fail)
    assert await database.read(stores) == []
    await database.write(add, 2)
    assert await database.read(stores) == [2]


async def test_a_read_sees_one_moment(database: Database) -> None:
    seen: list[list[int]] = []

    def look_twice(connection: Connection) -> None:
        seen.append(stores(connection))
        anyio.from_thread.run(database.write, add, 1)
        seen.append(stores(connection))

    await database.read(look_twice)
    assert seen == [[], []]
    assert await database.read(stores) == [1]


async def test_a_read_cannot_write(database: Database) -> None:
    with pytest.raises(Exception, match="readonly"):
        await database.read(add, 1)


async def test_writes_take_turns_and_hold_no_thread_while_they_wait(database: Database) -> None:
    threads = anyio.to_thread.current_default_thread_limiter()
    inside = 0

    def work(connection: Connection, number: int) -> None:
        nonlocal inside
        inside += 1
        assert inside == 1
        assert threads.borrowed_tokens <= 1 + MAX_READERS
        add(connection, number)
        inside -= 1

    async with anyio.create_task_group() as tasks:
        for number in range(1, 21):
            tasks.start_soon(database.write, work, number)
            tasks.start_soon(database.read, stores)
    assert await database.read(stores) == list(range(1, 21))


async def test_a_write_begun_is_not_cancelled(database: Database) -> None:
    with anyio.CancelScope() as scope:

        def work(connection: Connection) -> None:
            anyio.from_thread.run_sync(scope.cancel)
            add(connection, 1)

        await database.write(work)
        await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert await database.read(stores) == [1]


async def test_long_lists_of_keys_are_cut(database: Database) -> None:
    count = MAX_PARAMETERS + 10
    by_number = select(STORES.c.store).where(is_asked(STORES.c.store))
    await database.write(add, *range(count))

    def ask(connection: Connection) -> tuple[Any, Any]:
        found = [row.store for row in select_in(connection, by_number, range(5, count + 5))]
        pairs = [(number, "local") for number in range(count)] + [(1, "other")]
        by_both = select(STORES.c.store).where(are_asked(STORES.c.store, STORES.c.kind))
        paired = [row.store for row in select_in_pairs(connection, by_both, pairs)]
        return sorted(found), sorted(paired)

    assert await database.read(ask) == (list(range(5, count)), list(range(count)))
    nothing = await database.read(lambda c: list(select_in(c, by_number, [])))
    assert nothing == []


@pytest.mark.parametrize(
    ("wanted", "other"),
    [
        (b"password_hash TEXT", b"password_hasi TEXT"),
        (b"incarnation BIGINT", b"incarnation BIGINS"),
        (b"dentry_versions_held ON", b"dentry_versions_helf ON"),
    ],
)
async def test_a_schema_that_is_not_the_one_that_was_made_is_refused(
    tmp_path: Path, wanted: bytes, other: bytes
) -> None:
    path = tmp_path / "m.db"
    (await Database.open(path, anyio.to_thread.run_sync)).close()
    data = path.read_bytes()
    assert wanted in data
    broken = data.replace(wanted, other)
    path.write_bytes(broken)
    with pytest.raises(Unreadable, match="put a backup back"):
        await Database.open(path, anyio.to_thread.run_sync)
    assert path.read_bytes() == broken


@pytest.mark.parametrize("value", ["x'ff'", "'text'", "1.5"])
async def test_a_value_of_another_type_is_told_as_damage(database: Database, value: str) -> None:
    await database.write(add, 1)
    assert await database.problems() == []
    await database.write(lambda connection: connection.execute(text(f"UPDATE stores SET store = {value}")))
    assert "the table stores" in (await database.problems())[0]
