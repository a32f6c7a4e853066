"""A commit is wholly there or wholly not: whatever statement of it fails, and wherever the process is killed."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import Connection, select

from backend.metadata import schema, sqlite
from drivefs.protocol.changes import Mutation
from tests.backend.service import invariants
from tests.backend.service.drive import Device, Drive, empty_database, refs, reopen_drive, say, watching

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).resolve().parents[3]


class Broken(Exception):
    """The fault that a test plants."""


def failing_at(number: int) -> Callable[[list[str]], None]:
    """Let the statement of that number fail, counted from 0."""

    def fail(statements: list[str]) -> None:
        if len(statements) == number + 1:
            raise Broken(statements[-1])

    return fail


def everything(connection: Connection) -> dict[str, list[Any]]:
    return {table.name: sorted(map(repr, connection.execute(select(table)))) for table in schema.metadata.sorted_tables}


async def rich_batch(drive: Drive, device: Device) -> list[Mutation]:
    """One that writes every table that a commit can write."""
    old, other, gone = (
        await device.save(b"doc", b"one"),
        await device.save(b"other", b"o"),
        await device.save(b"g", b"g"),
    )
    assert await device.say(device.link(old, b"doc2")) == "ok"
    assert await device.say(device.set_xattr(other, b"user.x", b"1")) == "ok"
    assert await device.say(device.unlink(gone, b"g", base=1)) == "ok"
    blocks = await drive.upload(device, b"two", b"three")
    new = device.create(b"tmp")
    device.watermark = new.n
    return [
        new,
        device.store(new.inode, blocks, after=[new]),
        device.rename(new.inode, b"tmp", b"doc", replaced=old),
        device.set_xattr(other, b"user.x", None),
        device.set_xattr(other, b"user.y", b"2"),
        device.unlink(other, b"other", base=1),
        device.restore(gone, b"back"),
        device.create(b"a/b"),
    ]


@pytest.mark.fault(38)
async def test_a_commit_that_fails_anywhere_leaves_nothing_and_succeeds_when_sent_again(
    drive: Drive, laptop: Device
) -> None:
    batch = await rich_batch(drive, laptop)
    before = await drive.database.read(everything)
    number = 0
    while True:
        with watching(drive, failing_at(number)) as tried:
            try:
                results = await laptop.send(*batch)
                break
            except Broken:
                assert await drive.database.read(everything) == before, tried[-1]
        number += 1
    assert number == len(tried) > 25
    assert [say(result) for result in results] == ["ok"] * 7 + ["rejected malformed"]
    written = {statement.split()[2] for statement in tried if statement.startswith("INSERT")}
    assert written >= {
        "inode_versions",
        "dentry_versions",
        "xattr_versions",
        "lineages",
        "op_results",
        "changes",
        "runs",
    }
    assert await laptop.send(*batch) == results


@pytest.mark.fault(39)
async def test_a_commit_of_which_nobody_knows_the_outcome_is_settled_by_its_answers(
    drive: Drive, laptop: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction ended, well or not, and the connection to the database was lost before anybody heard which."""
    run = sqlite._run
    for is_done in (True, False):

        def lose(engine: Any, work: Any, args: Any, kwargs: Any, is_done: bool = is_done) -> Any:
            if is_done:
                run(engine, work, args, kwargs)
            raise Broken("the connection to the database was lost")

        batch = [laptop.create(b"made %d" % is_done), laptop.create(b"a/b")]
        head = await laptop.head()
        with monkeypatch.context() as patch:
            patch.setattr(sqlite, "_run", lose)
            with pytest.raises(Broken):
                await laptop.send(*batch)
        assert await laptop.head() == head + is_done
        results = await laptop.send(*batch)
        assert [say(result) for result in results] == ["ok", "rejected malformed"]
        assert await laptop.head() == head + 1
        assert await laptop.send(*batch) == results
    assert set(await laptop.names()) == {b"made 1", b"made 0"}
    await drive.database.read(invariants.check)


@pytest.mark.fault(38)
@pytest.mark.parametrize("commit_count", [1, 7, 23])
async def test_a_killed_server_has_what_it_acknowledged_and_no_half_of_anything(
    tmp_path: Path, commit_count: int
) -> None:
    path = tmp_path / "metadata.db"
    shutil.copy(await empty_database(), path)
    said = await anyio.to_thread.run_sync(kill_after, path, commit_count)
    drive = await reopen_drive(path)
    await drive.database.read(invariants.check)
    drive.device_count = 50
    device = await drive.device()
    names = await device.names()
    for seq, inode, number in said:
        assert names[b"%d" % number] == inode
        state = await device.known(inode)
        assert (state.seq, state.revision) == (seq, 1)
        assert state.blocks is not None
        assert state.blocks.startswith(refs([b"content %d" % number])[0].block)
    assert len(names) in (len(said), len(said) + 1), "what was not acknowledged is one commit at most"
    assert await device.say(device.create(b"goes on")) == "ok"
    drive.database.close()


def kill_after(path: Path, commit_count: int) -> list[tuple[int, ...]]:
    """Kill a committing process while it commits; gives what it has acknowledged."""
    command = [sys.executable, "-m", "tests.backend.service.committer", str(path)]
    said = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if len(said) == commit_count:
                process.send_signal(signal.SIGKILL)
    return [tuple(map(int, line.split())) for line in said]
