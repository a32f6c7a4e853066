"""Opening the metadata: made new, current, older, newer; and what lies beside it before it is changed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pysqlite3.dbapi2 as sqlite_library
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, select, text

from backend.metadata import errors, notices, schema, sqlite, upgrade
from backend.metadata.sqlite import Database
from backend.service import workspaces
from drivefs.protocol.ids import UserId, WorkspaceId

pytestmark = pytest.mark.anyio

STEP = '''
"""A step of a test."""

from alembic import op

revision = "{name}"
down_revision = {below!r}


def upgrade() -> None:
    """Make a table."""
    op.execute("CREATE TABLE {table} (a INTEGER)")
    {more}
'''
ENV = '''
"""Runs the steps."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
'''


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


async def opened(path: Path) -> Database:
    return await Database.open(path, anyio.to_thread.run_sync)


def engine(path: Path) -> Engine:
    return sqlite.open_engine(path, begin="BEGIN IMMEDIATE", connection_count=1)


def tables(path: Path) -> set[str]:
    with sqlite_library.connect(str(path)) as connection:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def beside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    """Two steps, the second of which finds what the first one made."""
    folder = tmp_path / "steps"
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text(ENV)
    write_step(folder, "1", None, "one")
    return folder


def write_step(folder: Path, name: str, below: str | None, table: str, more: str = "pass") -> None:
    text = STEP.format(name=name, below=below, table=table, more=more)
    (folder / "versions" / f"v{name}.py").write_text(text)


async def test_the_steps_make_the_schema_that_the_queries_use(tmp_path: Path) -> None:
    database = await opened(tmp_path / "m.db")

    def differences(connection: Connection) -> list[Any]:
        return compare_metadata(MigrationContext.configure(connection), notices.metadata)

    assert await database.read(differences) == []
    wanted = {
        table.name for table in schema.metadata.tables.values() if not table.dialect_options["sqlite"]["with_rowid"]
    }
    sql = "SELECT name FROM sqlite_master WHERE sql LIKE '%WITHOUT ROWID%'"
    assert await database.read(lambda connection: set(connection.execute(text(sql)).scalars())) == wanted
    database.close()


def test_the_newest_step_is_known_without_reading_all() -> None:
    config = Config(attributes={})
    config.set_main_option("script_location", upgrade.MIGRATIONS)
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_current_head() == upgrade.NEWEST


def test_a_server_starts_without_what_only_an_upgrade_needs() -> None:
    """It takes a fifth of the time that a start takes."""
    code = "import sys, backend.app; print('alembic' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


async def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    (await opened(tmp_path / "m.db")).close()
    before = (tmp_path / "m.db").read_bytes()
    (await opened(tmp_path / "m.db")).close()
    assert (tmp_path / "m.db").read_bytes() == before
    assert beside(tmp_path) == ["m.db"]


async def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    (await opened(path)).close()
    with sqlite_library.connect(str(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(errors.NewerSchema, match="9999"):
        await opened(path)
    assert path.read_bytes() == before


async def test_a_library_that_can_lose_commits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "OLDEST_LIBRARY", (99, 0, 0))
    with pytest.raises(errors.LibraryTooOld, match=r"99\.0\.0"):
        await opened(tmp_path / "m.db")
    assert not (tmp_path / "m.db").exists()


def test_an_older_schema_is_copied_and_then_brought_up(tmp_path: Path, steps: Path) -> None:
    path = tmp_path / "m.db"
    upgrade.upgrade(engine(path), path, str(steps))
    assert tables(path) == {"alembic_version", "one"}
    assert list(tmp_path.glob("m.db.before*")) == [], "what is new has nothing to keep"
    write_step(steps, "2", "1", "two")
    upgrade.upgrade(engine(path), path, str(steps))
    assert tables(path) == {"alembic_version", "one", "two"}
    assert tables(tmp_path / "m.db.before-2") == {"alembic_version", "one"}


def test_an_upgrade_that_fails_leaves_everything_as_it_was(tmp_path: Path, steps: Path) -> None:
    path = tmp_path / "m.db"
    upgrade.upgrade(engine(path), path, str(steps))
    write_step(steps, "2", "1", "two", more='raise OSError("no more room")')
    for _ in range(2):
        with pytest.raises(OSError, match="no more room"):
            upgrade.upgrade(engine(path), path, str(steps))
        assert tables(path) == {"alembic_version", "one"}
    write_step(steps, "2", "1", "two")
    upgrade.upgrade(engine(path), path, str(steps))
    assert tables(path) == {"alembic_version", "one", "two"}


async def test_data_of_the_first_schema_is_kept_and_can_be_used_with_this_one(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    config = Config(attributes={})
    config.set_main_option("script_location", upgrade.MIGRATIONS)
    config.set_main_option("path_separator", "os")
    with engine(path).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(text("INSERT INTO users VALUES (7, 'ann', 'hash', 1)"))
        connection.execute(text("INSERT INTO devices VALUES (8, 7, 'laptop', X'01', 5, X'02', 1, 2, NULL)"))
        connection.execute(text("INSERT INTO workspaces VALUES (9, 10, 'home', 11, 1, 1, 0, 1, 'plain')"))
        connection.execute(text("INSERT INTO members VALUES (9, 10, 7, 'owner', 'active')"))
        connection.execute(text("INSERT INTO user_workspaces VALUES (7, 10, 9)"))
        connection.execute(text("INSERT INTO accounts VALUES (9, 7, NULL, NULL, 0, 530)"))
        connection.execute(text("INSERT INTO blocks VALUES (9, X'AA', 2, 1, 30, 30, 0, NULL, 1, NULL)"))
        connection.execute(text("INSERT INTO pins VALUES (9, X'AA', 8, 1, 1), (9, X'BB', 8, 1, 1)"))
    database = await opened(path)

    def differences(connection: Connection) -> list[Any]:
        return compare_metadata(MigrationContext.configure(connection), notices.metadata)

    assert await database.read(differences) == []
    device = await database.read(lambda connection: connection.execute(select(schema.devices)).one())
    assert (device.name, device.last_seen_ns, device.pending_bytes) == ("laptop", 2, None)
    life = await database.read(lambda connection: connection.execute(select(schema.lives)).one())
    assert life == (8, 5, b"\2", 2)
    sql = "SELECT pinned_bytes, (SELECT group_concat(hex(block)) FROM pins) FROM accounts"
    assert await database.read(lambda connection: connection.execute(text(sql)).one()) == (30, "AA")
    access = await database.read(workspaces.find, UserId(7), WorkspaceId(10))
    assert access is not None
    assert access.upload_stamp == 0
    assert len([name for name in beside(tmp_path) if "before" in name]) == 1
    database.close()
