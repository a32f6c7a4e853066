"""Backups of a real server: made while it serves, whole, verified; and put back."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend import app
from backend.blockstore.places import MARK_NAME
from backend.config import Settings
from drivefs.protocol import blocks as codec
from drivefs.protocol import changes, messages, model, routes
from drivefs.protocol.ids import InodeId, OpNumber
from tests.backend.server_process import RemoteDevice, ServerProcess

pytestmark = pytest.mark.fault(40)


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    made = ServerProcess(tmp_path / "data", tmp_path / "home")
    assert made.add_user().returncode == 0
    made.start()
    yield made
    made.close()


class Laptop:
    """A device that stores files of one block in the root."""

    def __init__(self, server: ServerProcess) -> None:
        self.device: RemoteDevice = server.log_in()
        self.n = 0
        self.start = self.ranges()[0]

    def call(self, route: str, message: object, kind: type) -> object:
        return self.device.server.call(self.device.path(route), message, kind, self.device.token)

    def ranges(self) -> list[InodeId]:
        request = messages.IdRangesRequest(epoch=self.device.session.epoch)
        reply = self.call(routes.ID_RANGES, request, messages.IdRangesReply)
        assert isinstance(reply, messages.IdRangesReply)
        return reply.starts

    def save(self, name: bytes, content: bytes) -> None:
        self.device.put(content)
        self.n += 2
        inode, root = InodeId(self.start + self.n), self.device.session.workspaces[0].root
        packed = list(model.cut_runs([model.BlockRef(codec.block_id(content), len(content))]))
        create = changes.Create(
            n=OpNumber(self.n), time_ns=1, inode=inode, parent=root, name=name, kind=model.InodeKind.FILE, mode=0o644
        )
        store = changes.Store(
            n=OpNumber(self.n + 1),
            time_ns=1,
            inode=inode,
            base=changes.Base(),
            size=len(content),
            runs=[model.run_id(run) for run in packed],
            new_runs=packed,
            mtime_ns=1,
        )
        request = messages.CommitRequest(
            epoch=self.device.session.epoch, watermark=OpNumber(self.n), mutations=[create, store]
        )
        reply = self.call(routes.COMMIT, request, messages.CommitReply)
        assert isinstance(reply, messages.CommitReply)
        assert [each.status for each in reply.results] == [changes.Status.OK] * 2

    def names(self) -> list[bytes]:
        request = messages.ListRequest(directory=self.device.session.workspaces[0].root)
        reply = self.call(routes.LIST, request, messages.ListReply)
        assert isinstance(reply, messages.ListReply)
        return [entry.name for entry in reply.entries]


def test_a_backup_of_a_server_that_serves_can_be_put_back(server: ServerProcess, tmp_path: Path) -> None:
    laptop = Laptop(server)
    laptop.save(b"small", b"s" * 1000)
    laptop.save(b"large", os.urandom(3_000_000))
    made = server.on_data("backup", str(tmp_path / "kept"), "--json")
    assert made.returncode == 0, made.stderr
    told = json.loads(made.stdout)
    assert (told["sound"], told["blocks"], told["bytes"]) == (True, 2, 3_001_000)
    assert oct((tmp_path / "kept").stat().st_mode)[-3:] == "700"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["data", "home", "kept"]
    before = laptop.ranges()
    laptop.save(b"later", b"l" * 1000)
    refused = server.on_data("restore", str(tmp_path / "kept"), "--replace")
    assert (refused.returncode, "Another drivefs-server uses" in refused.stderr) == (1, True)
    server.stop()
    refused = server.on_data("restore", str(tmp_path / "kept"))
    assert (refused.returncode, "Nothing was changed" in refused.stderr) == (1, True)
    done = server.on_data("restore", str(tmp_path / "kept"), "--replace", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["sound"], told["blocks"]) == (True, 2)
    assert Path(told["replaced"]).name == "metadata.db.replaced-1"
    server.start()
    assert laptop.names() == [b"large", b"small"]
    assert not set(laptop.ranges()) & {*before, laptop.start}
    session = messages.SessionRequest(next_nonce=bytes(16))
    again = server.call(routes.SESSION, session, messages.SessionReply, laptop.device.token)
    assert again.incarnation != laptop.device.session.incarnation
    assert json.loads(server.on_data("check", "--json").stdout)["sound"]


def test_a_backup_makes_a_server_where_there_was_none(server: ServerProcess, tmp_path: Path) -> None:
    laptop = Laptop(server)
    laptop.save(b"file", b"content")
    assert server.on_data("backup", str(tmp_path / "kept")).returncode == 0
    server.stop()
    shutil.rmtree(server.data)
    done = server.on_data("restore", str(tmp_path / "kept"))
    assert done.returncode == 0, done.stderr
    assert "Start the server" in done.stdout
    server.start()
    assert laptop.names() == [b"file"]


@pytest.mark.anyio
async def test_a_restore_is_refused_where_the_cold_store_is_that_of_another_data_directory(tmp_path: Path) -> None:
    for name in ("data", "source", "cold"):
        (tmp_path / name).mkdir()
    (tmp_path / "key").write_text(bytes(32).hex())
    (tmp_path / "source" / app.DATABASE_NAME).write_bytes(b"what is not opened")
    (tmp_path / "cold" / MARK_NAME).write_text("another's")
    settings = Settings(tmp_path / "data", master_key=tmp_path / "key", cold=tmp_path / "cold")

    async def quiet(_done: int, _total: int) -> None:
        pass

    with pytest.raises(app.CannotServe, match="another data directory"):
        await app.restore(settings, tmp_path / "source", quiet, replaces=False)
    assert (tmp_path / "cold" / MARK_NAME).read_text() == "another's"
    assert not (tmp_path / "data" / app.DATABASE_NAME).exists()


def test_what_is_damaged_is_told_and_nothing_is_overwritten(server: ServerProcess, tmp_path: Path) -> None:
    laptop = Laptop(server)
    laptop.save(b"file", b"c" * 100_000)
    (tmp_path / "kept").mkdir()
    refused = server.on_data("backup", str(tmp_path / "kept"))
    assert (refused.returncode, "give a name that is free" in refused.stderr) == (1, True)
    (damaged,) = (each for each in (server.data / "blocks/objects").rglob("*") if each.is_file())
    damaged.write_bytes(bytes(len(damaged.read_bytes())))
    made = server.on_data("backup", str(tmp_path / "other"))
    assert made.returncode == 3
    assert "needed by file" in made.stdout.replace("/", "")
    assert (tmp_path / "other").is_dir()
    server.stop()
    other = ServerProcess(tmp_path / "data", tmp_path / "another home")
    refused = other.on_data("restore", str(tmp_path / "other"), "--replace")
    assert (refused.returncode, "master key" in refused.stderr) == (1, True)
    assert not list(server.data.glob("*.replaced-*"))
