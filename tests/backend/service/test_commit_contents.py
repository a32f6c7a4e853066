"""Stores: what content must bring, what it counts, and what it may not be; attributes and extended attributes."""

from typing import Any

import pytest
from sqlalchemy import select, update

from backend.metadata import schema
from backend.metadata.schema import BlockState, CopyState, Role
from drivefs.protocol import names
from drivefs.protocol.changes import Store
from drivefs.protocol.ids import BlockId, RunId
from drivefs.protocol.model import BlockRef, InodeKind, cut_runs, pack_blocks, run_id
from tests.backend.service.drive import DIRECTORY, SECOND, Device, Drive, refs, say

pytestmark = pytest.mark.anyio
DAY = 24 * 3600 * SECOND


def run_ending(data: bytes) -> bytes:
    """A content whose block id begins with a zero byte, so that a run ends there."""
    number = 0
    while refs([data + b"%d" % number])[0].block[0]:
        number += 1
    return data + b"%d" % number


async def test_store_makes_a_revision(drive: Drive, laptop: Device) -> None:
    file = await laptop.make(b"a")
    blocks = await drive.upload(laptop, b"hello", b"world!")
    mutation = laptop.store(file, blocks, mtime_ns=77)
    results = await laptop.send(mutation)
    assert (say(results[0]), results[0].revision, results[0].seq) == ("ok", 1, 3)
    state = await laptop.known(file)
    assert (state.revision, state.size, state.blocks) == (1, 11, pack_blocks(blocks))
    assert (state.mtime_ns, state.ctime_ns) == (77, mutation.time_ns)
    content = await laptop.content(file, 1)
    assert (content.size, content.blocks) == (11, pack_blocks(blocks))


async def test_a_clock_that_went_back_by_years_keeps_no_content_from_being_committed(
    drive: Drive, laptop: Device
) -> None:
    """The next commit comes after the last one, however late that was; what was uploaded is pinned by the clock."""
    drive.clock.ns += 5 * 365 * DAY
    file = await laptop.save(b"f", b"old")
    drive.clock.ns -= 5 * 365 * DAY
    blocks = await drive.upload(laptop, b"new")
    await drive.execute(update(schema.pins).values(expires_ns=drive.clock.ns + 3 * DAY))
    assert await laptop.say(laptop.store(file, blocks, 1)) == "ok"


async def test_long_block_lists_are_fetched_and_not_sent_along(drive: Drive, laptop: Device) -> None:
    file = await laptop.make(b"a")
    blocks = await drive.upload(laptop, *[b"block %d" % number for number in range(17)])
    assert await laptop.say(laptop.store(file, blocks)) == "ok"
    assert (await laptop.known(file)).blocks is None
    assert (await laptop.content(file, 1)).blocks == pack_blocks(blocks)
    assert await laptop.say(laptop.store(file, blocks[:16], 1)) == "ok"
    assert (await laptop.known(file)).blocks == pack_blocks(blocks[:16])


@pytest.mark.fault(56)
async def test_a_content_names_no_more_blocks_than_its_size_could_have(drive: Drive, laptop: Device) -> None:
    """Nobody makes the server put a list together that is a thousand times as long as what came."""
    file = await laptop.make(b"a")
    run = pack_blocks((await drive.upload(laptop, b"x")) * 1024)

    def naming(times: int) -> Store:
        runs = [run_id(run)] * times
        return laptop.store(file, [], runs=runs, new_runs=[run], size=1024 * times)

    assert await laptop.say(naming(17)) == "rejected limit"
    assert await laptop.say(naming(16)) == "ok"


async def test_an_empty_content_is_a_revision_without_blocks(laptop: Device) -> None:
    file = await laptop.save(b"a", b"full")
    assert await laptop.say(laptop.store(file, [], 1)) == "ok"
    state = await laptop.known(file)
    assert (state.revision, state.size, state.blocks) == (2, 0, b"")
    assert (await laptop.content(file, 2)).blocks == b""


async def test_the_first_store_on_a_base_wins(drive: Drive, laptop: Device, phone: Device) -> None:
    file = await laptop.save(b"a", b"base")
    mine, theirs = await drive.upload(laptop, b"mine"), await drive.upload(phone, b"theirs")
    assert await laptop.say(laptop.store(file, mine, 1)) == "ok"
    assert await phone.say(phone.store(file, theirs, 1)) == "conflict changed"
    assert (await phone.known(file)).blocks == pack_blocks(mine)
    assert await phone.say(phone.store(file, theirs, 2)) == "ok"
    assert (await laptop.content(file, 2)).blocks == pack_blocks(mine)


async def test_store_goes_into_files_that_have_a_name(drive: Drive, laptop: Device) -> None:
    blocks = await drive.upload(laptop, b"data")
    directory = await laptop.make(b"d", kind=DIRECTORY)
    link = laptop.create(b"l", kind=InodeKind.SYMLINK, target=b"x")
    assert await laptop.say(link) == "ok"
    file = await laptop.make(b"f")
    assert await laptop.say(laptop.unlink(file, b"f")) == "ok"
    assert await laptop.say(laptop.store(directory, blocks)) == "rejected is_directory"
    assert await laptop.say(laptop.store(link.inode, blocks)) == "rejected malformed"
    assert await laptop.say(laptop.store(file, blocks)) == "conflict absent"
    assert await laptop.say(laptop.store(laptop.new_inode(), blocks)) == "conflict absent"


async def test_blocks_have_to_be_here_and_this_devices(drive: Drive, laptop: Device, phone: Device) -> None:
    file = await laptop.make(b"a")
    (here,) = await drive.upload(laptop, b"here")
    (others,) = await drive.upload(phone, b"of the other device")
    absent = refs([b"nowhere"])[0]
    mutation = laptop.store(file, [here, others, absent])
    result = (await laptop.send(mutation))[0]
    assert (result.status, result.blocks) == ("needs_blocks", [others.block, absent.block])
    assert await laptop.names() == {b"a": file}
    assert (await laptop.known(file)).revision == 0
    # It is no answer: the same op goes through once the blocks are here.
    await drive.upload(laptop, b"of the other device", b"nowhere")
    assert await laptop.say(mutation) == "ok"


@pytest.mark.fault(46)
@pytest.mark.parametrize(
    "harm",
    [
        update(schema.blocks).values(state=BlockState.UPLOADING),
        update(schema.blocks).values(state=BlockState.CONDEMNED),
        update(schema.blocks).values(state=BlockState.DELETING),
        update(schema.blocks).values(generation=2),
        update(schema.block_copies).values(state=CopyState.OWED),
        update(schema.pins).values(expires_ns=1),
    ],
    ids=["uploading", "condemned", "deleting", "other generation", "lost", "pin expired"],
)
async def test_a_block_that_cannot_be_served_or_may_go_is_asked_for(drive: Drive, laptop: Device, harm: Any) -> None:
    file = await laptop.make(b"a")
    blocks = await drive.upload(laptop, b"data")
    await drive.execute(harm)
    result = (await laptop.send(laptop.store(file, blocks)))[0]
    assert (result.status, result.blocks) == ("needs_blocks", [blocks[0].block])


async def test_blocks_of_the_base_need_no_pin(drive: Drive, laptop: Device, phone: Device) -> None:
    file = await laptop.save(b"a", b"one", b"two")
    new = await drive.upload(phone, b"three")
    both = [*refs([b"one"]), *new]
    assert await phone.say(phone.store(file, both, 1)) == "ok"
    # A part of another file is not part of this one's base.
    other = await laptop.save(b"b", b"secret")
    result = (await phone.send(phone.store(file, refs([b"secret"]), 2)))[0]
    assert (result.status, result.blocks) == ("needs_blocks", [refs([b"secret"])[0].block])
    assert (await phone.known(other)).revision == 1


async def test_runs_of_the_base_travel_by_name(drive: Drive, laptop: Device) -> None:
    file = await laptop.make(b"a")
    head, tail = run_ending(b"head"), b"tail"
    old = await drive.upload(laptop, head, tail)
    assert await laptop.say(laptop.store(file, old)) == "ok"
    first, second = cut_runs(old)
    (new,) = await drive.upload(laptop, b"other tail")
    packed = pack_blocks([new])
    runs = [run_id(first), run_id(packed)]
    size = len(head) + new.size_bytes
    assert await laptop.say(laptop.store(file, [], 1, runs=runs, new_runs=[packed], size=size)) == "ok"
    assert (await laptop.content(file, 2)).blocks == first + packed
    rows = await drive.fetch(select(schema.runs.c.run, schema.runs.c.refs))
    assert {row.run: row.refs for row in rows} == {run_id(first): 2, run_id(second): 1, run_id(packed): 1}


async def test_runs_that_are_neither_brought_nor_in_the_base_are_rejected(drive: Drive, laptop: Device) -> None:
    other = await laptop.save(b"o", b"other")
    run = run_id(pack_blocks(refs([b"other"])))
    file = await laptop.make(b"a")
    assert await laptop.say(laptop.store(file, [], 0, runs=[run], size=5)) == "rejected malformed"
    assert await laptop.say(laptop.store(file, [], 0, runs=[RunId(b"x" * 32)], size=5)) == "rejected malformed"
    assert (await laptop.known(other)).revision == 1


async def test_sizes_have_to_be_true(drive: Drive, laptop: Device) -> None:
    file = await laptop.make(b"a")
    (block,) = await drive.upload(laptop, b"12345")
    assert await laptop.say(laptop.store(file, [block], size=4)) == "rejected malformed"
    assert await laptop.say(laptop.store(file, [BlockRef(block.block, 4)])) == "rejected malformed"
    assert await laptop.say(laptop.store(file, [block], size=-1)) == "rejected malformed"
    assert await laptop.say(laptop.store(file, [block], new_runs=[b"x"])) == "rejected malformed"
    assert await laptop.say(laptop.store(file, [block], runs=[RunId(b"x")])) == "rejected malformed"
    assert await laptop.say(laptop.store(file, [block])) == "ok"


async def test_files_are_bounded(drive: Drive, laptop: Device) -> None:
    file = await laptop.make(b"a")
    blocks = [BlockRef(BlockId(bytes([number]) * 32), 10_000) for number in range(1, 7)]
    assert await laptop.say(laptop.store(file, blocks)) == "rejected limit"
    await drive.execute(update(schema.accounts).values(file_bytes=60_000))
    assert await laptop.say(laptop.store(file, blocks)) == "needs_blocks"


async def test_quota_counts_each_block_once_and_moves_it_from_pinned_to_stored(drive: Drive, laptop: Device) -> None:
    file, other = await laptop.make(b"a"), await laptop.make(b"b")
    one, two = await drive.upload(laptop, b"x" * 100, b"y" * 10)
    account = await drive.account()
    assert (account.stored_bytes, account.pinned_bytes) == (0, 110)
    reply = await laptop.commit(laptop.store(file, [one, one, two]), laptop.store(other, [one]))
    assert [say(result) for result in reply.results] == ["ok", "ok"]
    assert (reply.usage.stored_bytes, reply.usage.pinned_bytes) == (110, 0)
    account = await drive.account()
    assert (account.stored_bytes, account.pinned_bytes) == (110, 0)
    # Old revisions are kept, and so what they hold still counts.
    assert await laptop.say(laptop.store(file, [], 1)) == "ok"
    assert (await drive.account()).stored_bytes == 110
    rows = await drive.fetch(select(schema.blocks.c.block, schema.blocks.c.refs))
    assert {row.block: row.refs for row in rows} == {one.block: 3, two.block: 1}


@pytest.mark.fault(55)
async def test_over_quota_is_no_answer_and_deletes_still_work(drive: Drive, laptop: Device) -> None:
    file = await laptop.save(b"a", b"z" * 1000)
    await drive.execute(update(schema.accounts).values(quota_bytes=1100))
    blocks = await drive.upload(laptop, b"x" * 200)
    store = laptop.store(file, blocks, 1)
    assert await laptop.say(store) == "over_quota"
    assert await laptop.say(laptop.create(b"empty")) == "ok"
    # What adds nothing goes through.
    again = laptop.create(b"again")
    results = await laptop.send(again, laptop.store(again.inode, refs([b"z" * 1000])))
    assert [say(result) for result in results] == ["ok", "ok"]
    assert await laptop.say(laptop.unlink(again.inode, b"again", base=1)) == "ok"
    await drive.execute(update(schema.accounts).values(quota_bytes=2000))
    assert await laptop.say(store) == "ok"


async def test_of_what_was_sent_before_the_quota_became_smaller_as_much_is_taken_as_fits(
    drive: Drive, laptop: Device
) -> None:
    """What waits holds up nothing that was sent already."""
    files = [await laptop.make(name) for name in (b"a", b"b", b"c")]
    contents = [await drive.upload(laptop, each * 100) for each in (b"xyz", b"uvw", b"rs")]
    await drive.execute(update(schema.accounts).values(quota_bytes=550))
    stores = [laptop.store(file, blocks) for file, blocks in zip(files, contents, strict=True)]
    assert [say(each) for each in await laptop.send(*stores)] == ["ok", "over_quota", "ok"]
    account = await drive.account()
    assert (account.stored_bytes, account.pinned_bytes) == (500, 300)
    await drive.execute(update(schema.accounts).values(quota_bytes=800))
    assert await laptop.say(stores[1]) == "ok"


async def test_attributes_change_one_by_one_and_the_last_commit_wins(laptop: Device, phone: Device) -> None:
    file = await laptop.make(b"a")
    change = laptop.set_attributes(file, mode=0o4755, uid=1000, atime_ns=-5, mtime_ns=6)
    assert await laptop.say(change) == "ok"
    assert await phone.say(phone.set_attributes(file, gid=50)) == "ok"
    state = await laptop.known(file)
    assert (state.mode, state.uid, state.gid, state.atime_ns, state.mtime_ns) == (0o4755, 1000, 50, -5, 6)
    assert state.ctime_ns == change.time_ns
    assert await phone.say(phone.set_attributes(file, own_uid=True, own_gid=True)) == "ok"
    state = await laptop.known(file)
    assert (state.uid, state.gid) == (None, None)


@pytest.mark.parametrize(
    "values",
    [{"mode": 0o10000}, {"mode": -1}, {"uid": -1}, {"uid": 2**32}, {"mtime_ns": 2**63}, {"uid": 1, "own_uid": True}],
)
async def test_attributes_that_nothing_can_have_are_rejected(laptop: Device, values: dict[str, Any]) -> None:
    file = await laptop.make(b"a")
    assert await laptop.say(laptop.set_attributes(file, **values)) == "rejected malformed"


async def test_attributes_of_what_is_gone_are_refused(laptop: Device) -> None:
    file = await laptop.make(b"a")
    assert await laptop.say(laptop.unlink(file, b"a")) == "ok"
    assert await laptop.say(laptop.set_attributes(file, mode=0)) == "conflict absent"
    assert await laptop.say(laptop.set_xattr(file, b"user.x", b"")) == "conflict absent"


async def test_extended_attributes_are_set_replaced_and_removed(laptop: Device) -> None:
    file = await laptop.make(b"a")
    assert await laptop.say(laptop.set_xattr(file, b"user.x", b"1")) == "ok"
    assert await laptop.say(laptop.set_xattr(file, b"user.y", b"\0\xff")) == "ok"
    before = await laptop.head()
    results = await laptop.send(laptop.set_xattr(file, b"user.x", b"2"), laptop.set_xattr(file, b"user.y", None))
    assert [say(result) for result in results] == ["ok", "ok"]
    assert (await laptop.known(file)).xattrs == {b"user.x": b"2"}
    assert (await laptop.known(file, before)).xattrs == {b"user.x": b"1", b"user.y": b"\0\xff"}
    assert await laptop.say(laptop.set_xattr(file, b"user.y", None)) == "ok"


async def test_extended_attributes_are_bounded_in_all(laptop: Device) -> None:
    file = await laptop.make(b"a")
    half = b"v" * (names.MAX_XATTRS_TOTAL_BYTES // 2)
    assert await laptop.say(laptop.set_xattr(file, b"user.x", half)) == "ok"
    assert await laptop.say(laptop.set_xattr(file, b"user.y", half)) == "rejected limit"
    assert await laptop.say(laptop.set_xattr(file, b"user.x", half + b"more")) == "ok"
    assert await laptop.say(laptop.set_xattr(file, b"n" * 256, b"")) == "rejected limit"
    assert await laptop.say(laptop.set_xattr(file, b"", b"")) == "rejected malformed"
    assert await laptop.say(laptop.set_xattr(file, b"user.x", b"v" * 65537)) == "rejected limit"


@pytest.mark.fault(54)
async def test_a_viewer_changes_nothing(drive: Drive, laptop: Device, phone: Device) -> None:
    file = await laptop.make(b"a")
    await drive.execute(update(schema.members).values(role=Role.VIEWER))
    head = await laptop.head()
    assert await phone.say(phone.create(b"b")) == "rejected role"
    assert await phone.say(phone.unlink(file, b"a")) == "rejected role"
    assert await phone.names() == {b"a": file}
    assert await phone.head() == head
