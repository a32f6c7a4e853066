"""Backups where something is damaged: what can be read is copied, and a restore takes from the copy what is not."""

import errno
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backend import app, reports
from backend.api import control
from backend.config import Settings
from backend.service import ids, marking
from backend.service.ground import Limits
from tests.backend.api.served import MASTER, Served, serving

pytestmark = pytest.mark.anyio
CONTENTS = [random.Random(seed).randbytes(200_000) for seed in range(3)]


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    (tmp_path / "data").mkdir()
    async with serving(tmp_path / "data", Limits()) as served:
        await served.put(*CONTENTS)
        yield served


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "key").write_text(MASTER.secret.hex())
    return Settings(tmp_path / "data", master_key=tmp_path / "key")


async def quiet(_done: int, _total: int) -> None:
    pass


@pytest.mark.fault(48)
async def test_what_a_disk_has_lost_does_not_keep_the_rest_from_being_copied(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, read = served.objects()[0], served.ground.store.get

    def get(name: str, offset: int, length: int) -> bytes:
        if name.endswith(bad.name):
            raise OSError(errno.EIO, "Input/output error")
        return read(name, offset, length)

    monkeypatch.setattr(served.ground.store, "get", get)
    report = await served.services.backups.make(tmp_path / "copy", quiet)
    assert (report.block_count, len(report.findings)) == (3, 1)
    copied = {each.name for each in (tmp_path / "copy" / "blocks" / "objects").rglob("*") if each.is_file()}
    assert copied == {each.name for each in served.objects()[1:]}


@pytest.mark.fault(48)
@pytest.mark.parametrize("database", [b"", b"no database", None], ids=["empty", "damaged", "missing"])
async def test_a_restore_mends_whatever_is_damaged(
    served: Served, settings: Settings, tmp_path: Path, database: bytes | None
) -> None:
    await served.services.backups.make(tmp_path / "copy", quiet)
    path, (rotten, gone, _) = served.ground.database.path, served.objects()
    content = rotten.read_bytes()
    rotten.write_bytes(bytes(len(content)))
    gone.unlink()
    served.ground.database.close()
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    if database is not None:
        path.write_bytes(database)
    found, kept = await app.restore(settings, tmp_path / "copy", quiet, replaces=True)
    assert found.is_sound
    assert found.block_count == 3
    assert rotten.read_bytes() == content
    assert len([each for each in (settings.data / "blocks" / "quarantine").rglob("*") if each.is_file()]) == 1
    assert (kept is None) is (database is None)


@pytest.mark.parametrize("is_empty", [True, False])
async def test_data_that_has_lost_its_database_is_not_taken_for_new(
    served: Served, settings: Settings, is_empty: bool
) -> None:
    """Nobody would be known, all that is stored would be named by nothing, and the next repair would remove it."""
    path = served.ground.database.path
    served.ground.database.close()
    async with app.opened(settings):
        pass
    path.unlink()
    if is_empty:
        path.touch()
    with pytest.raises(app.CannotServe, match="missing or empty"):
        async with app.opened(settings):
            pass
    assert path.exists() is is_empty
    (settings.data / marking.MARK_NAME).unlink()
    async with app.opened(settings):
        pass


class Killed(Exception):
    """Nothing of what a server does when it ends is done."""


@pytest.mark.fault(40)
@pytest.mark.parametrize("is_damaged", [False, True])
async def test_a_killed_server_whose_log_lacks_commits_says_so_and_begins_a_new_incarnation(
    served: Served, settings: Settings, capsys: pytest.CaptureFixture[str], *, is_damaged: bool
) -> None:
    path = served.ground.database.path
    served.ground.database.close()
    files = [path.with_name(f"{path.name}{suffix}") for suffix in ("", "-wal", "-shm")]
    images = list[bytes]()

    async def killed() -> None:
        async with app.opened(settings) as services:
            await services.accounts.add_user("bert", "correct horse")
            images.extend(each.read_bytes() for each in files)
            raise Killed(await services.database.read(ids.incarnation))

    with pytest.raises(Killed) as death:
        await killed()
    (before,) = death.value.args
    if is_damaged:
        images[1] = images[1][:-2000] + bytes(2000)
    for each, image in zip(files, images, strict=True):
        each.write_bytes(image)
    async with app.opened(settings) as services:
        assert (await services.database.read(ids.incarnation) != before) is is_damaged
        assert ("bert" not in {each.name for each in await services.accounts.list_users()}) is is_damaged
        report = await services.checks.check(quiet, is_repair=True)
    assert report.is_sound is not is_damaged
    assert reports.tell_check(control.result_of(report), {}, False) == (3 if is_damaged else 0)
    assert ("metadata.db-wal.lost-1: the log of the database was damaged" in capsys.readouterr().out) is is_damaged
