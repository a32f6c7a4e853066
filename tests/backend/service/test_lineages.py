"""History follows the name: through save by rename and save by rename-aside, with forks where two go on."""

import pytest
from sqlalchemy import select

from backend.metadata import schema
from backend.metadata.schema import Trash
from drivefs.protocol.changes import Base
from drivefs.protocol.ids import OpNumber
from drivefs.protocol.model import InodeKind
from tests.backend.service.drive import SECOND, Device, Drive, say

pytestmark = pytest.mark.anyio


async def history(drive: Drive, lineage: int) -> list[tuple[int, int]]:
    """The revisions of a lineage, as (number, inode)."""
    r = schema.revisions.c
    return [
        tuple(row)
        for row in await drive.fetch(select(r.number, r.inode).where(r.lineage == lineage).order_by(r.number))
    ]


async def trash(drive: Drive) -> list[int]:
    v = schema.dentry_versions.c
    return [row.inode for row in await drive.fetch(select(v.inode).where(v.trash == Trash.HELD))]


async def test_save_by_rename_goes_on_with_the_history_of_the_name(drive: Drive, laptop: Device) -> None:
    old = await laptop.save(b"doc", b"one")
    await laptop.write(old, b"two", base=1)
    new = await laptop.save(b"doc.tmp", b"three")
    result = (await laptop.send(laptop.rename(new, b"doc.tmp", b"doc", replaced=old, base=2)))[0]
    assert (say(result), result.revision) == ("ok", 3)
    state = await laptop.known(new)
    assert (state.revision, state.lineage, state.size) == (3, (await laptop.known(old)).lineage, 5)
    assert await history(drive, state.lineage) == [(1, old), (2, old), (3, new)]
    # What was replaced is in the history, and not in the trash; the earlier number of the content still leads to it.
    assert await trash(drive) == []
    assert (await laptop.content(new, 1)).blocks == (await laptop.content(new, 3)).blocks == state.blocks
    # In the history, the number means what stood under the name before.
    assert (await laptop.content(new, 1, history=True)).blocks == (await laptop.content(old, 1)).blocks
    assert (await laptop.content(new, 2, history=True)).blocks == (await laptop.content(old, 2)).blocks != state.blocks
    assert (await laptop.content(new, 3, history=True)).blocks == state.blocks


async def test_a_base_from_before_the_numbers_changed_still_stands(drive: Drive, laptop: Device) -> None:
    old = await laptop.save(b"doc", b"one")
    await laptop.write(old, b"two", base=1)
    new = laptop.create(b"tmp")
    first, second = await drive.upload(laptop, b"three"), await drive.upload(laptop, b"four")
    store = laptop.store(new.inode, first, after=[new])
    move = laptop.rename(new.inode, b"tmp", b"doc", replaced=old, base=2)
    following = laptop.store(new.inode, second, Base(revision_op=store.n), after=[move])
    results = await laptop.send(new, store, move, following)
    assert [(say(result), result.revision) for result in results] == [("ok", 0), ("ok", 1), ("ok", 3), ("ok", 4)]
    assert (await laptop.send(laptop.store(new.inode, first, 3)))[0].reason == "changed"
    assert await laptop.say(laptop.store(new.inode, first, Base(revision_op=following.n))) == "ok"


async def test_the_outcome_of_a_rename_is_a_base_too(drive: Drive, laptop: Device) -> None:
    old, new = await laptop.save(b"doc", b"one"), await laptop.save(b"tmp", b"two")
    move = laptop.rename(new, b"tmp", b"doc", replaced=old, base=1)
    third = await drive.upload(laptop, b"three")
    results = await laptop.send(move, laptop.store(new, third, Base(revision_op=move.n)))
    assert [result.revision for result in results] == [2, 3]


async def test_a_replaced_inode_with_another_name_forks(drive: Drive, laptop: Device) -> None:
    old = await laptop.save(b"doc", b"one")
    assert await laptop.say(laptop.link(old, b"other")) == "ok"
    lineage = (await laptop.known(old)).lineage
    new = await laptop.save(b"tmp", b"two")
    assert await laptop.say(laptop.rename(new, b"tmp", b"doc", replaced=old)) == "ok"
    forked = await laptop.known(old)
    assert (await laptop.known(new)).lineage == lineage != forked.lineage
    assert forked.revision == 1
    assert await history(drive, forked.lineage) == [(1, old)]
    (row,) = await drive.fetch(select(schema.lineages).where(schema.lineages.c.lineage == forked.lineage))
    assert (row.parent_lineage, row.parent_number, row.inode) == (lineage, 1, old)
    # Bases of the fork stay what they were.
    assert await laptop.write(old, b"three", base=1) == 2


@pytest.mark.parametrize("in_one_batch", [True, False])
async def test_save_by_rename_aside_goes_on_with_the_history(drive: Drive, laptop: Device, in_one_batch: bool) -> None:
    old = await laptop.save(b"doc", b"one")
    lineage = (await laptop.known(old)).lineage
    aside, new = laptop.rename(old, b"doc", b"doc~"), laptop.create(b"doc")
    for batch in [(aside, new)] if in_one_batch else [(aside,), (new,)]:
        assert {say(result) for result in await laptop.send(*batch)} == {"ok"}
    assert await laptop.write(new.inode, b"two") == 2
    assert (await laptop.known(new.inode)).lineage == lineage
    assert await history(drive, lineage) == [(1, old), (2, new.inode)]
    forked = await laptop.known(old)
    assert forked.lineage not in (lineage, 0)
    assert await laptop.write(old, b"backup edited", base=1) == 2


@pytest.mark.parametrize("in_one_batch", [True, False])
@pytest.mark.parametrize("is_kept", [True, False])
async def test_what_is_moved_to_where_the_old_file_was_goes_on_with_the_history(
    drive: Drive, laptop: Device, in_one_batch: bool, is_kept: bool
) -> None:
    old = await laptop.save(b"doc", b"one")
    lineage = (await laptop.known(old)).lineage
    new = await laptop.save(b"tmp", b"two")
    away = laptop.rename(old, b"doc", b"doc~") if is_kept else laptop.unlink(old, b"doc", base=1)
    into = laptop.rename(new, b"tmp", b"doc")
    for batch in [(away, into)] if in_one_batch else [(away,), (into,)]:
        assert {say(result) for result in await laptop.send(*batch)} == {"ok"}
    assert (await laptop.known(new)).lineage == lineage
    assert await history(drive, lineage) == [(1, old), (2, new)]
    assert await laptop.write(new, b"three", base=2) == 3
    if not is_kept:
        assert await laptop.say(laptop.restore(old, b"doc~")) == "ok"
    assert (await laptop.known(old)).lineage != lineage
    assert await laptop.write(old, b"backup edited", base=1) == 2


async def test_a_file_that_has_a_history_keeps_it_where_another_one_was(drive: Drive, laptop: Device) -> None:
    old, new = await laptop.save(b"doc", b"one"), await laptop.save(b"letter", b"two")
    assert await laptop.write(new, b"three", base=1) == 2
    assert await laptop.say(laptop.unlink(old, b"doc", base=1)) == "ok"
    assert await laptop.say(laptop.rename(new, b"letter", b"doc")) == "ok"
    assert await history(drive, (await laptop.known(new)).lineage) == [(1, new), (2, new)]


async def test_rename_aside_over_the_last_backup(drive: Drive, laptop: Device) -> None:
    first = await laptop.save(b"doc", b"one")
    lineage = (await laptop.known(first)).lineage
    backup = await laptop.save(b"doc~", b"zero")
    assert await laptop.say(laptop.rename(first, b"doc", b"doc~", replaced=backup, base=1)) == "ok"
    second = await laptop.save(b"doc", b"two")
    assert (await laptop.known(second)).lineage == lineage
    assert await history(drive, lineage) == [(1, first), (2, second)]
    assert await history(drive, (await laptop.known(first)).lineage) == [(1, backup), (2, first)]


async def test_a_file_that_goes_on_under_its_other_name_keeps_its_numbers(drive: Drive, laptop: Device) -> None:
    old = await laptop.save(b"doc", b"one")
    lineage = (await laptop.known(old)).lineage
    assert await laptop.say(laptop.link(old, b"other")) == "ok"
    assert await laptop.say(laptop.unlink(old, b"doc", base=1)) == "ok"
    assert await laptop.write(old, b"two", base=1) == 2
    new = await laptop.save(b"doc", b"three")
    assert await history(drive, lineage) == [(1, old), (2, old), (3, new)]
    forked = await laptop.known(old)
    assert forked.lineage != lineage
    assert await laptop.write(old, b"four", base=2) == 3


async def test_only_one_of_two_names_goes_on_with_the_history_of_their_file(drive: Drive, laptop: Device) -> None:
    old = await laptop.save(b"doc", b"one")
    lineage = (await laptop.known(old)).lineage
    assert await laptop.say(laptop.link(old, b"other")) == "ok"
    for name in (b"doc", b"other"):
        assert await laptop.say(laptop.unlink(old, name, base=1)) == "ok"
    first = await laptop.save(b"doc", b"two")
    second = await laptop.save(b"other", b"three")
    assert await history(drive, lineage) == [(1, old), (2, first)]
    assert (await laptop.known(second)).lineage not in (lineage, (await laptop.known(first)).lineage)


async def test_a_history_taken_over_by_rename_is_not_taken_again(drive: Drive, laptop: Device) -> None:
    old = await laptop.save(b"doc", b"one")
    lineage = (await laptop.known(old)).lineage
    assert await laptop.say(laptop.link(old, b"other")) == "ok"
    assert await laptop.say(laptop.rename(old, b"doc", b"doc~")) == "ok"
    saved = await laptop.save(b"tmp", b"two")
    assert await laptop.say(laptop.rename(saved, b"tmp", b"other", replaced=old)) == "ok"
    new = await laptop.save(b"doc", b"three")
    assert await history(drive, lineage) == [(1, old), (2, saved)]
    assert len({(await laptop.known(each)).lineage for each in (old, saved, new)}) == 3


async def test_delete_and_create_anew_goes_on_with_the_history(drive: Drive, laptop: Device) -> None:
    old = await laptop.save(b"doc", b"one")
    assert await laptop.say(laptop.unlink(old, b"doc", base=1)) == "ok"
    assert await trash(drive) == [old]
    new = await laptop.save(b"doc", b"two")
    state = await laptop.known(new)
    assert (state.lineage, state.revision) == ((await laptop.known(old)).lineage, 2)
    # Brought back, the old one is a file of its own.
    assert await laptop.say(laptop.restore(old, b"old")) == "ok"
    assert await trash(drive) == []
    back = await laptop.known(old)
    assert back.lineage != state.lineage
    assert await laptop.write(old, b"three", base=1) == 2


async def test_another_device_or_a_minute_later_is_another_file(drive: Drive, laptop: Device, phone: Device) -> None:
    for device, wait_seconds, goes_on in ((phone, 0, False), (laptop, 61, False), (laptop, 59, True)):
        old = await laptop.save(b"doc", b"one")
        assert await laptop.say(laptop.unlink(old, b"doc", base=(await laptop.known(old)).revision)) == "ok"
        drive.clock.ns += wait_seconds * SECOND
        new = await device.make(b"doc")
        same = (await device.known(new)).lineage == (await device.known(old)).lineage
        assert same == goes_on
        assert await device.say(device.unlink(new, b"doc")) == "ok"
        drive.clock.ns += 100 * SECOND


async def test_a_file_without_content_leaves_no_history(laptop: Device) -> None:
    old = await laptop.make(b"doc")
    new = await laptop.save(b"tmp", b"one")
    before = await laptop.known(new)
    assert await laptop.say(laptop.rename(new, b"tmp", b"doc", replaced=old)) == "ok"
    after = await laptop.known(new)
    assert (after.lineage, after.revision) == (before.lineage, 1)


async def test_other_kinds_neither_take_nor_give_a_history(drive: Drive, laptop: Device) -> None:
    file = await laptop.save(b"doc", b"one")
    link = laptop.create(b"link", kind=InodeKind.SYMLINK, target=b"x")
    assert await laptop.say(link) == "ok"
    assert await laptop.say(laptop.rename(link.inode, b"link", b"doc", replaced=file, base=1)) == "ok"
    assert (await laptop.known(link.inode)).lineage == 0
    assert await trash(drive) == [file]


async def test_numbers_of_an_inode_only_grow(laptop: Device) -> None:
    old = await laptop.save(b"doc", b"one")
    new = await laptop.save(b"tmp", b"a")
    for base in range(1, 5):
        await laptop.write(new, b"a%d" % base, base=base)
    assert await laptop.say(laptop.rename(new, b"tmp", b"doc", replaced=old, base=1)) == "ok"
    assert (await laptop.known(new)).revision == 6
    assert await laptop.write(new, b"b", base=5) == 7


async def test_a_base_by_op_is_found_though_its_answer_is_forgotten(drive: Drive, laptop: Device) -> None:
    file = await laptop.make(b"a")
    first, second = await drive.upload(laptop, b"one"), await drive.upload(laptop, b"two")
    store = laptop.store(file, first)
    following = laptop.store(file, second, Base(revision_op=store.n))
    assert await laptop.say(store) == "ok"
    laptop.watermark = following.n
    assert await laptop.say(laptop.create(b"forgets")) == "ok"
    assert await laptop.say(following) == "ok"
    late = laptop.store(file, first, Base(revision_op=OpNumber(store.n)))
    assert await laptop.say(late) == "conflict changed"


async def test_history_of_what_came_and_left_within_a_batch_is_not_taken_over_unseen(
    drive: Drive, laptop: Device
) -> None:
    first = await laptop.make(b"tmp")
    mid = laptop.create(b"tmp")
    stored = laptop.store(mid.inode, await drive.upload(laptop, b"2"))
    away = laptop.rename(mid.inode, b"tmp", b"kept")
    results = await laptop.send(laptop.rename(first, b"tmp", b"other"), mid, stored, away)
    assert {result.status for result in results} == {"ok"}
    last = await laptop.save(b"tmp", b"3")
    revision = (await laptop.known(mid.inode)).revision
    assert await laptop.write(mid.inode, b"4", base=revision) > revision
    assert len({(await laptop.known(inode)).lineage for inode in (first, mid.inode, last)}) == 3
