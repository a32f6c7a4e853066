"""Each step that makes something durable is needed: what it made is there after a cut that leaves nothing else.

Owns the cuts right behind such steps; the steps themselves, with what happens without each, are in `tests.weakenings`.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import trio
from sqlalchemy import text

from backend import app
from backend.blockstore.local import LocalStore
from backend.config import Settings
from backend.metadata.sqlite import Database
from backend.service import backups
from cache import rescue, salvage, synced, workspace
from cache.errors import SUSPECT
from cache.lost import LostAndFound
from cache.workspace import LocalState
from drivefs import config
from drivefs.protocol import messages, routes, wire
from drivefs.protocol.ids import CommitId, Incarnation, InodeId, Seq, WorkspaceId
from drivefs.protocol.messages import Cursor
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.protocol.wal import Damage
from drivefs.sync import draft_files
from drivefs.sync.session import ASKED
from tests.cache.states import FIRST_ID, content_of, create, inline
from tests.cache.test_barrier import BIG, write
from tests.simulation import worlds
from tests.simulation.disk import PAGE_BYTES, SimDisk, nothing_survives, write_image
from tests.simulation.interception import small_sizes, watching
from tests.sync.fleet import Line, at_once

A = b"A" * PAGE_BYTES


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SimDisk]:
    disk = SimDisk(tmp_path / "disk", Random(1))
    with watching(disk), small_sizes():
        yield disk


def begun(disk: SimDisk) -> LocalState:
    """A state, opened just now."""
    with disk.booted():
        local = LocalState(disk.root / "state", disk.root / "cache", offload=inline, cache_limit_bytes=2**20)
    if not local.journal.ids_left():
        local.journal.add_id_range(FIRST_ID)
    return local


def opened(disk: SimDisk) -> LocalState:
    """A state whose beginning is durable."""
    local = begun(disk)
    disk.settle()
    return local


def test_the_log_of_a_second_mount_has_a_durable_name(disk: SimDisk) -> None:
    begun(disk).close()
    disk.settle()
    local = begun(disk)
    create(local.journal, b"file")
    trio.run(local.barrier)
    disk.crash(nothing_survives)
    local.close()
    again = begun(disk)
    assert [row.mutation.name for row in again.journal.unsettled(10)] == [b"file"]
    again.close()


def test_staged_bytes_outlive_the_journal_that_let_go_of_them(disk: SimDisk) -> None:
    local = opened(disk)
    file = write(local, 7)
    trio.run(local.barrier)
    with local.journal.transaction():
        local.journal.drafts.drop_draft(7)  # type: ignore[arg-type]
    told: list[str] = []
    disk.on_boundary = told.append
    trio.run(local.barrier)
    disk.on_boundary = None
    local.close()
    assert told.index("after sync state/redo") < told.index(f"before remove state/staging/{file:016x}")


def test_what_was_synced_beside_the_log_outlives_a_start_that_is_cut_off(disk: SimDisk, tmp_path: Path) -> None:
    """Whenever the power fails again: what is run again is in the log for good before the file begins anew."""
    local = begun(disk)
    for name in (b"first", b"second"):
        create(local.journal, name)
        trio.run(local.barrier)
    disk.crash(nothing_survives)
    local.close()
    images = []

    def cut_off(_what: str = "") -> None:
        images.append(disk.look().image(lambda change: PAGE_BYTES * change.path.endswith("redo")))

    cut_off()
    disk.on_boundary = cut_off
    local = begun(disk)
    disk.on_boundary = None
    cut_off()
    local.close()
    for index, image in enumerate(images):
        place = tmp_path / f"cut{index}"
        place.mkdir()
        write_image(image, place)
        with LocalState(place / "state", place / "cache", offload=inline, cache_limit_bytes=2**20) as again:
            assert [row.mutation.name for row in again.journal.unsettled(10)] == [b"first", b"second"]


def test_how_much_of_the_log_is_synced_is_noted_once_it_is_and_known_after_a_cut(disk: SimDisk) -> None:
    local = opened(disk)
    database = local.journal._database
    create(local.journal, b"first")
    database.flush()
    written, told = synced.extent_of(database), list[str]()
    create(local.journal, b"second")
    database.flush()
    disk.on_boundary = told.append
    synced.checkpoint(database, written)
    disk.on_boundary = None
    copied = synced.extent_of(database)
    assert copied.frame_count > written.frame_count
    disk.crash(nothing_survives)
    local.close()
    salts = int.from_bytes(copied.salts[:4], "big"), int.from_bytes(copied.salts[4:], "big")
    assert synced.noted(disk.root / "state" / "journal.db", salts) == copied.frame_count
    assert told.index("after sync state/journal.db-wal") < told.index("before write state/synced")


def test_what_comes_to_lost_and_found_stays_there(disk: SimDisk) -> None:
    lost = LostAndFound(disk.root / "lost+found")
    (disk.root / "from").mkdir()
    source = disk.root / "from" / "file"
    descriptor = os.open(source, os.O_CREAT | os.O_WRONLY, 0o600)
    disk.settle()
    os.write(descriptor, A)
    os.close(descriptor)
    lost.take_file("taken", source)
    lost.keep_pieces("pieces", [(0, A), (2 * PAGE_BYTES, A)])
    descriptor = lost.begin_file("begun")
    os.write(descriptor, A)
    os.fsync(descriptor)
    os.close(descriptor)
    lost.complete_file("begun")
    root = disk.crash(nothing_survives)
    assert (root / "lost+found" / "taken").read_bytes() == (root / "lost+found" / "begun").read_bytes() == A
    assert (root / "lost+found" / "pieces").read_bytes() == A + bytes(PAGE_BYTES) + A
    assert list((root / "from").iterdir()) == []


def test_credentials_are_whole_or_the_old_ones(disk: SimDisk) -> None:
    config.write_durably(disk.root / "profile" / "credentials.json", b"old")
    config.write_durably(disk.root / "profile" / "credentials.json", b"new")
    root = disk.crash(nothing_survives)
    assert {path.name: path.read_bytes() for path in (root / "profile").iterdir()} == {"credentials.json": b"new"}


def test_the_replica_has_what_it_says_is_synced(disk: SimDisk) -> None:
    local = opened(disk)
    workspace = WorkspaceId(1)
    local.replica.set_cursor(workspace, Cursor(incarnation=Incarnation(1), seq=Seq(6), commit=CommitId(bytes(16))))
    trio.run(local.replica.sync)
    assert local.replica.synced_seq(workspace) == 6
    disk.crash(nothing_survives)
    local.close()
    again = opened(disk)
    cursor = again.replica.cursor(workspace)
    again.close()
    assert cursor is not None
    assert cursor.seq == 6


def test_records_whose_bytes_a_cut_took_are_not_taken_for_content(disk: SimDisk) -> None:
    local = opened(disk)
    inode, _ = create(local.journal, b"file", content=b"first ")
    with local.journal.transaction():
        staged = local.staging.append(inode, BIG)
        local.journal.drafts.add_record(inode, 6, BIG, staged)
    trio.run(local.journal.log_barrier)
    disk.crash(nothing_survives)
    local.close()
    again = opened(disk)
    assert content_of(again, inode) == b"first "
    again.close()


def test_content_that_takes_the_place_of_other_content_is_durable_with_the_log(disk: SimDisk) -> None:
    local = opened(disk)
    inode, _ = create(local.journal, b"file", content=b"first ")
    with local.journal.transaction():
        staged = local.staging.append(inode, BIG)
        local.journal.drafts.add_record(inode, 6, BIG, staged)
        local.journal.content_goes()
    trio.run(local.journal.log_barrier)
    disk.crash(nothing_survives)
    local.close()
    again = opened(disk)
    assert content_of(again, inode) == b"first " + BIG
    again.close()


def test_what_was_staged_by_a_process_that_died_is_durable_once_the_next_one_has_synced(disk: SimDisk) -> None:
    local = opened(disk)
    inode, _ = create(local.journal, b"file", content=b"first ")
    with local.journal.transaction():
        staged = local.staging.append(inode, BIG)
        local.journal.drafts.add_record(inode, 6, BIG, staged)
    disk.kill()
    local.close()
    again = begun(disk)
    create(again.journal, b"other")
    trio.run(again.barrier)
    disk.crash(nothing_survives)
    again.close()
    last = begun(disk)
    assert content_of(last, inode) == b"first " + BIG
    last.close()


def test_the_master_key_and_the_data_directory_are_there_before_anything_is_kept(disk: SimDisk) -> None:
    """All is sealed with the key: without it nothing that was ever acknowledged can be read."""
    settings = Settings(data=disk.root / "srv" / "data", master_key=disk.root / "config" / "server" / "master.key")
    with app.locked(settings.data, create=True):
        key = app.load_master_key(settings, is_new=True)
    root = disk.crash(nothing_survives)
    assert (root / "srv" / "data").is_dir()
    there = replace(settings, master_key=root / "config" / "server" / "master.key")
    assert app.load_master_key(there, is_new=False) == key


def test_an_object_is_there_when_it_was_settled(disk: SimDisk) -> None:
    store = LocalStore(disk.root / "store")
    store.prepare()
    contents = {"a/small": A, "a/large": os.urandom(300_000), "b/huge": os.urandom(6 * 2**20)}
    for name, content in contents.items():
        store.put(name, [content])
    store.settle(contents)
    again = LocalStore(disk.crash(nothing_survives) / "store")
    again.prepare()
    assert {name: again.get(name, 0, len(content)) for name, content in contents.items()} == contents


def test_an_object_that_a_backup_has_copied_is_there(disk: SimDisk) -> None:
    stores = [LocalStore(disk.root / name) for name in ("store", "backup")]
    for store in stores:
        store.prepare()
    stores[0].put("a/object", [A])
    backups._copy_objects([("a/object", len(A))], *stores)
    assert LocalStore(disk.crash(nothing_survives) / "backup").whole("a/object") == A


def written(path: Path) -> None:
    """A file of which nothing is durable yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    os.write(descriptor, A)
    os.close(descriptor)


def test_what_is_put_aside_in_the_store_stays_aside(disk: SimDisk) -> None:
    store = LocalStore(disk.root / "store")
    store.prepare()
    store.put("a/bad", [A])
    store.settle(["a/bad"])
    store.quarantine("a/bad")
    root = disk.crash(nothing_survives)
    found = [path.relative_to(root / "store").as_posix() for path in (root / "store").rglob("bad")]
    assert found == ["quarantine/a/bad"]


def test_a_backup_is_whole_when_it_has_its_name(disk: SimDisk) -> None:
    disk.settle()
    written(disk.root / "partial" / backups.DATABASE_NAME)
    backups._finish(disk.root / "partial", disk.root / "backup")
    root = disk.crash(nothing_survives)
    assert (root / "backup" / backups.DATABASE_NAME).read_bytes() == A


def test_a_database_that_was_put_back_is_whole_and_so_is_the_one_beside_it(disk: SimDisk) -> None:
    path, fresh = disk.root / "metadata.db", disk.root / "metadata.db.restored"
    path.write_bytes(b"present")
    disk.settle()
    written(fresh)
    kept = backups._swap(path, fresh)
    assert kept is not None
    root = disk.crash(nothing_survives)
    assert {each.name: each.read_bytes() for each in root.iterdir()} == {path.name: A, kept.name: b"present"}


def test_a_copy_of_a_content_is_durable_when_it_is_finished(disk: SimDisk) -> None:
    descriptor = os.open(disk.root / "copy", os.O_CREAT | os.O_WRONLY, 0o600)
    disk.settle()
    draft_files.write_at(descriptor, A, 0)
    state = InodeState(inode=InodeId(1), kind=InodeKind.FILE, mode=0o600)
    draft_files.finish(descriptor, state)
    os.close(descriptor)
    assert (disk.crash(nothing_survives) / "copy").read_bytes() == A


def test_a_journal_made_anew_never_meets_the_log_of_the_old_one(disk: SimDisk) -> None:
    state = disk.root / "state"
    for name in ("journal.db", "journal.db-wal"):
        written(state / name)
    written(state / salvage.SALVAGED)
    disk.settle()
    told: list[str] = []
    disk.on_boundary = told.append
    salvage.finish_salvage(state)
    disk.on_boundary = None
    renamed = next(number for number, each in enumerate(told) if "rename" in each or "replace" in each)
    synced = [number for number, each in enumerate(told) if each == "after sync state"]
    assert told.index("after remove state/journal.db-wal") < synced[0] < renamed < synced[-1], told
    assert [path.name for path in (disk.crash(nothing_survives) / "state").iterdir()] == ["journal.db"]


def test_a_salvaged_journal_has_its_name_before_the_log_of_the_damaged_one_goes(disk: SimDisk) -> None:
    begun(disk).close()
    state = disk.root / "state"
    written(state / "journal.db-wal")
    disk.settle()
    told: list[str] = []
    disk.on_boundary = told.append
    salvage.salvage(state, lambda inode: None)
    disk.on_boundary = None
    named = next(number for number, each in enumerate(told) if each.startswith("after") and salvage.SALVAGED in each)
    assert "after sync state" in told[named : told.index("before remove state/journal.db-wal")], told


def test_rows_that_are_put_aside_stay_aside(disk: SimDisk) -> None:
    disk.settle()
    with salvage._Aside(disk.root / salvage.ROWS) as aside:
        aside.keep("records", (1, A))
    assert A.hex() in (disk.crash(nothing_survives) / salvage.ROWS).read_text()


def test_that_a_disk_is_not_to_be_trusted_is_known_after_a_cut(disk: SimDisk) -> None:
    disk.settle()
    workspace.mark_suspect(disk.root)
    assert (disk.crash(nothing_survives) / SUSPECT).exists()


def test_what_is_copied_aside_is_there_before_anything_is_mended(disk: SimDisk) -> None:
    path, aside = disk.root / "state" / "journal.db", disk.root / "state" / "lost+found" / "journal-1"
    for source in (path, Path(f"{path}-wal")):
        written(source)
    disk.settle()
    rescue.copy_aside(path, aside)
    found = disk.crash(nothing_survives) / "state" / "lost+found" / "journal-1"
    assert {each.name: each.read_bytes() for each in found.iterdir()} == {"journal.db": A, "journal.db-wal": A}


def test_a_mended_log_is_synced_before_it_takes_the_place_of_the_damaged_one(disk: SimDisk) -> None:
    path, mended = disk.root / "state" / "journal.db", disk.root / "state" / "mending" / "journal.db"
    for source in (path, Path(f"{path}-wal")):
        written(source)
    (disk.root / "state" / "mending").mkdir()
    disk.settle()
    log: Any = SimpleNamespace(mended=lambda start, end: [A])
    told: list[str] = []
    disk.on_boundary = told.append
    rescue._mend(path, log, Damage(1, 2, 1), mended)
    disk.on_boundary = None
    assert "after sync state/mending/journal.db-wal" in told


def test_a_log_that_was_found_keeps_its_other_name_until_just_before_it_is_copied(
    disk: SimDisk, tmp_path: Path
) -> None:
    path = disk.root / "state" / "journal.db"
    written(Path(f"{path}-wal"))
    disk.settle()
    kept, copying = tmp_path / "kept", tmp_path / "copying"
    for place in (kept, copying):
        place.mkdir()
    with rescue.log_unless_refused(path) as copied:
        rescue._keep_found(path)
        assert left_names(disk, kept) == ["journal.db-wal", f"journal.db{rescue.FOUND}"]
        copied()
        assert left_names(disk, copying) == ["journal.db-wal"]


def left_names(disk: SimDisk, place: Path) -> list[str]:
    """The names of a state as a cut at this moment leaves them."""
    write_image(disk.look().image(nothing_survives), place)
    return sorted(path.name for path in (place / "state").iterdir())


def test_what_stands_behind_a_gap_in_the_log_stays_in_lost_and_found(disk: SimDisk) -> None:
    log: Any = SimpleNamespace(salts=(1, 2), raw=lambda first, end: A)
    (disk.root / "lost+found").mkdir()
    disk.settle()
    rescue._put_aside(log, Damage(first_bad=3, end=4, lost_commits=1), disk.root / "lost+found")
    (kept,) = (disk.crash(nothing_survives) / "lost+found").iterdir()
    assert kept.read_bytes() == A


def test_a_commit_is_there_when_it_was_acknowledged(disk: SimDisk) -> None:
    async def run() -> list[Any]:
        database = await Database.open(disk.root / "metadata.db", at_once)
        disk.settle()
        await database.write(lambda connection: connection.execute(text("CREATE TABLE written (a)")) and None)
        root = disk.crash(nothing_survives)
        database.close()
        after = Database(root / "metadata.db", at_once)
        rows = await after.read(lambda connection: list(connection.execute(text("SELECT * FROM written"))))
        after.close()
        return rows

    assert trio.run(run) == []


def test_what_is_sent_can_be_sent_again_after_a_cut(disk: SimDisk, tmp_path: Path, monkeypatch: Any) -> None:
    """At the moment of each request, the disk already knows what it says: the nonce, and which mutations were sent."""
    places = {name: tmp_path / name for name in worlds.MACHINES}
    places["anna"] = disk.root
    for place in places.values():
        place.mkdir(exist_ok=True)
    handle = Line.handle_async_request
    seen: list[str] = []

    async def looking(line: Line, request: httpx.Request) -> httpx.Response:
        await request.aread()
        if request.url.path == routes.SESSION and line is lines.get("anna"):
            asked = wire.decode(request.content, messages.SessionRequest)
            with left(disk, tmp_path) as local:
                assert asked.next_nonce in (local.journal.meta(ASKED) or b"")
            seen.append("session")
        if request.url.path.endswith("/commit") and line is lines.get("anna"):
            sent = wire.decode(request.content, messages.CommitRequest)
            with left(disk, tmp_path) as local:
                rows = {row.n: row.state.name for row in local.journal.unsettled(100)}
            assert {mutation.n: "SENT" for mutation in sent.mutations}.items() <= rows.items()
            seen.append("commit")
        return await handle(line, request)

    lines: dict[str, Line] = {}

    async def run() -> None:
        facts = await worlds.first_world(places)
        disk.settle()
        async with worlds.world_of(places, facts, life=1) as world:
            anna = await world.begin("anna")
            disk.settle()
            lines["anna"] = anna.line
            await anna.begin()
            await anna.write("new", b"content")
            await anna.mkdir("directory")
            await anna.sync()

    monkeypatch.setattr(Line, "handle_async_request", looking)
    trio.run(run)
    assert {"session", "commit"} <= set(seen)


class left:
    """The local state as a cut at this moment leaves it, opened."""

    def __init__(self, disk: SimDisk, base: Path) -> None:
        self._image, self._place = disk.look().image(nothing_survives), base / "left"

    def __enter__(self) -> LocalState:
        self._place.mkdir()
        write_image(self._image, self._place)
        state, cache = self._place / "state", self._place / "cache"
        self._local = LocalState(state, cache, offload=inline, cache_limit_bytes=2**20)
        return self._local

    def __exit__(self, *error: object) -> None:
        self._local.close()
        shutil.rmtree(self._place)
