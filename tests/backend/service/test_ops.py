"""Exactly once: answers that are kept and given again, predecessors, watermarks, epochs, and who waits for whom."""

from typing import Any

import anyio
import pytest
from sqlalchemy import func, select, update

from backend.metadata import schema
from backend.notify import hub
from drivefs.protocol import messages
from drivefs.protocol.changes import Base, OpResult, Status
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import Epoch, OpNumber, WorkspaceId
from drivefs.protocol.messages import MAX_BATCH_BLOCKS
from tests.backend.service.drive import DIRECTORY, Device, Drive, refs, say, watching

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["trio", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def result_count(drive: Drive) -> int:
    return int((await drive.fetch(select(func.count()).select_from(schema.op_results)))[0][0])


async def test_a_batch_is_one_commit_with_one_seq(drive: Drive, laptop: Device) -> None:
    directory = laptop.directory(b"d")
    file = laptop.create(b"f", directory.inode, after=[directory])
    bad = laptop.create(b"d")
    reply = await laptop.commit(directory, file, bad)
    assert [(say(each), each.seq) for each in reply.results] == [("ok", 2), ("ok", 2), ("conflict exists", 0)]
    assert (reply.head.seq, await laptop.head()) == (2, 2)
    (row,) = await drive.fetch(select(schema.commits).where(schema.commits.c.seq == 2))
    assert (row.commit_id, row.device) == (reply.head.commit, laptop.caller.device)


async def test_a_batch_of_which_nothing_is_applied_is_no_commit(drive: Drive, laptop: Device) -> None:
    woken = listen(drive)
    assert await laptop.say(laptop.create(b"a/b")) == "rejected malformed"
    assert await laptop.head() == 1
    assert not woken.woken.is_set()


def listen(drive: Drive) -> Any:
    listener = drive.ground.hub.listen([hub.of_workspace(drive.workspace)])
    listener.__enter__()
    return listener


async def test_a_commit_wakes_those_who_wait(drive: Drive, laptop: Device) -> None:
    woken = listen(drive)
    await laptop.make(b"a")
    assert woken.woken.is_set()


@pytest.mark.fault(28)
async def test_an_op_sent_again_is_answered_again_and_done_once(drive: Drive, laptop: Device) -> None:
    good, bad = laptop.create(b"a"), laptop.create(b"x/y")
    first = await laptop.send(good, bad)
    woken = listen(drive)
    assert await laptop.send(good, bad) == first
    assert await laptop.send(good) == first[:1]
    assert await laptop.names() == {b"a": good.inode}
    assert await laptop.head() == 2
    assert not woken.woken.is_set()


async def test_a_conflict_is_final_even_when_the_reason_is_gone(laptop: Device, phone: Device) -> None:
    file = await laptop.make(b"a")
    late = phone.create(b"a")
    assert await phone.say(late) == "conflict exists"
    assert await laptop.say(laptop.unlink(file, b"a")) == "ok"
    assert await phone.say(late) == "conflict exists"


@pytest.mark.fault(18, 68)
async def test_a_number_used_for_another_mutation_is_taken(laptop: Device) -> None:
    first, second = laptop.create(b"a"), laptop.create(b"b")
    second.n = first.n
    assert await laptop.say(first) == "ok"
    assert await laptop.say(second) == "id_taken"
    assert await laptop.say(first) == "ok"
    assert await laptop.names() == {b"a": first.inode}


async def test_what_is_no_answer_is_not_kept(drive: Drive, laptop: Device) -> None:
    file = laptop.create(b"a")
    store = laptop.store(file.inode, refs([b"data"]), after=[file])
    unlink = laptop.unlink(file.inode, b"a", base=Base(revision_op=store.n))
    assert await laptop.say(file) == "ok"
    results = await laptop.send(store, unlink)
    assert [say(each) for each in results] == ["needs_blocks", "blocked"]
    assert await result_count(drive) == 1
    await drive.upload(laptop, b"data")
    assert [say(each) for each in await laptop.send(store, unlink)] == ["ok", "ok"]


async def test_nobody_sees_a_file_before_its_first_content(drive: Drive, laptop: Device) -> None:
    file, other = laptop.create(b"a"), laptop.create(b"b")
    store = laptop.store(file.inode, refs([b"data"]), after=[file])
    results = await laptop.send(file, store, other)
    assert [say(each) for each in results] == ["blocked", "needs_blocks", "ok"]
    assert results[1].blocks == [refs([b"data"])[0].block]
    assert await laptop.names() == {b"b": other.inode}
    await drive.upload(laptop, b"data")
    assert [say(each) for each in await laptop.send(file, store)] == ["ok", "ok"]
    assert set(await laptop.names()) == {b"a", b"b"}


async def test_no_content_is_asked_for_of_a_file_that_cannot_be_created(drive: Drive, laptop: Device) -> None:
    directory = laptop.directory(b"d")
    assert await laptop.say(directory) == "ok"
    assert await laptop.say(laptop.unlink(directory.inode, b"d")) == "ok"
    taken = await laptop.make(b"a")
    for file, why in (
        (laptop.create(b"b", directory.inode), "conflict no_parent"),
        (laptop.create(b"a"), "conflict exists"),
    ):
        results = await laptop.send(file, laptop.store(file.inode, refs([b"data"]), after=[file]))
        assert [say(each) for each in results] == [why, "conflict predecessor"]
    assert await laptop.names() == {b"a": taken}


async def test_file_over_quota_is_not_created_empty(drive: Drive, laptop: Device) -> None:
    await drive.execute(update(schema.accounts).values(quota_bytes=100))
    blocks = await drive.upload(laptop, b"x" * 200)
    file = laptop.create(b"a")
    results = await laptop.send(file, laptop.store(file.inode, blocks, after=[file]))
    assert [say(each) for each in results] == ["blocked", "over_quota"]
    assert await laptop.names() == {}


async def test_file_that_is_too_large_is_not_created_empty(drive: Drive, laptop: Device) -> None:
    await drive.execute(update(schema.accounts).values(file_bytes=100))
    blocks = await drive.upload(laptop, b"x" * 200)
    file = laptop.create(b"a")
    results = await laptop.send(file, laptop.store(file.inode, blocks, after=[file]))
    assert [say(each) for each in results] == ["rejected limit", "rejected limit"]
    assert await laptop.names() == {}


@pytest.mark.fault(29)
async def test_an_op_waits_for_its_predecessors(laptop: Device) -> None:
    first = laptop.directory(b"d")
    second = laptop.create(b"f", first.inode, after=[first])
    third = laptop.create(b"g", first.inode, after=[second])
    assert [say(each) for each in await laptop.send(second, third)] == ["blocked", "blocked"]
    assert await laptop.say(first) == "ok"
    assert [say(each) for each in await laptop.send(second, third)] == ["ok", "ok"]


async def test_what_follows_a_refused_op_is_refused(laptop: Device, phone: Device) -> None:
    await phone.make(b"a")
    first = laptop.create(b"a")
    second = laptop.set_attributes(first.inode, mode=0)
    second.after = [first.n]
    third = laptop.create(b"free", after=[second])
    expected = ["conflict exists", "conflict predecessor", "conflict predecessor"]
    assert [say(each) for each in await laptop.send(first, second, third)] == expected
    # The same in a later batch, from the answers that are kept.
    fourth = laptop.create(b"free", after=[third])
    assert await laptop.say(fourth) == "conflict predecessor"


async def test_what_waited_for_an_op_behind_it_is_judged_anew_when_sent_again(laptop: Device, phone: Device) -> None:
    await phone.make(b"a")
    refused = laptop.create(b"a")
    waiting = laptop.create(b"free", after=[refused])
    assert [say(each) for each in await laptop.send(waiting, refused)] == ["blocked", "conflict exists"]
    assert [say(each) for each in await laptop.send(waiting, refused)] == ["conflict predecessor", "conflict exists"]


async def test_predecessors_below_the_watermark_are_settled(laptop: Device) -> None:
    first = laptop.create(b"a")
    assert await laptop.say(first) == "ok"
    laptop.watermark = first.n + 1
    assert await laptop.say(laptop.create(b"b", after=[first])) == "ok"


async def test_a_settled_base_is_what_its_own_device_made_by_that_number(
    drive: Drive, laptop: Device, phone: Device
) -> None:
    file = await laptop.make(b"a")
    first = laptop.store(file, await drive.upload(laptop, b"1"))
    assert await laptop.say(first) == "ok"
    phone.n = first.n
    for device, said in ((phone, "conflict changed"), (laptop, "ok")):
        device.watermark = first.n + 1
        content = await drive.upload(device, b"2")
        assert await device.say(device.store(file, content, Base(revision_op=first.n))) == said


@pytest.mark.fault(28)
async def test_the_watermark_forgets_answers_and_refuses_what_is_below_it(drive: Drive, laptop: Device) -> None:
    ops = [laptop.create(b"%d" % number) for number in range(3)]
    assert {say(each) for each in await laptop.send(*ops)} == {"ok"}
    never_sent = laptop.create(b"never")
    assert await result_count(drive) == 3
    laptop.watermark = laptop.n + 1
    last = laptop.create(b"last")
    assert await laptop.say(last) == "ok"
    assert await result_count(drive) == 1
    # A late duplicate, and one that was never done, with the old watermark they were sent with.
    laptop.watermark = 1
    assert [say(each) for each in await laptop.send(*ops, never_sent)] == ["stale"] * 4
    assert [say(each) for each in await laptop.send(last)] == ["ok"]
    assert len(await laptop.names()) == 4


async def test_numbers_belong_to_a_device(drive: Drive, laptop: Device, phone: Device) -> None:
    mine, theirs = laptop.create(b"a"), phone.create(b"b")
    assert mine.n == theirs.n
    assert await laptop.say(mine) == await phone.say(theirs) == "ok"
    assert await result_count(drive) == 2


async def test_a_stale_epoch_commits_nothing(laptop: Device) -> None:
    mutation = laptop.create(b"a")
    current, laptop.epoch = laptop.epoch, Epoch(laptop.epoch - 1)
    await refused(Code.STALE_EPOCH, laptop, mutation)
    laptop.epoch = Epoch(0)
    await refused(Code.STALE_EPOCH, laptop, mutation)
    laptop.epoch = current
    assert await laptop.say(mutation) == "ok"


@pytest.mark.fault(19)
async def test_a_session_that_is_not_the_last_commits_nothing(drive: Drive, laptop: Device) -> None:
    """Of two copies of a device with one epoch, the one that began last goes on; who names no nonce is not asked."""

    async def say_as(nonce: bytes, name: bytes) -> str:
        watermark, mutations = OpNumber(laptop.watermark), [laptop.create(name)]
        request = messages.CommitRequest(epoch=laptop.epoch, nonce=nonce, watermark=watermark, mutations=mutations)
        return say((await drive.commits.commit(laptop.caller, drive.workspace, request)).results[0])

    before = laptop.nonce
    assert await say_as(before, b"a") == "ok"
    await laptop.begin()
    with pytest.raises(ProtocolError) as caught:
        await say_as(before, b"b")
    assert caught.value.code is Code.STALE_EPOCH
    assert [await say_as(laptop.nonce, b"c"), await say_as(b"", b"d")] == ["ok", "ok"]
    assert set(await laptop.names()) == {b"a", b"c", b"d"}


async def refused(code: Code, device: Device, *mutations: Any) -> None:
    with pytest.raises(ProtocolError) as caught:
        await device.send(*mutations)
    assert caught.value.code is code
    assert await device.names() == {}


async def test_a_batch_is_judged_in_the_order_given(laptop: Device) -> None:
    first, second = laptop.create(b"a"), laptop.create(b"a")
    assert [say(each) for each in await laptop.send(second, first)] == ["ok", "conflict exists"]


async def test_a_batch_is_within_bounds(laptop: Device) -> None:
    first, second = laptop.create(b"a"), laptop.create(b"b")
    await refused(Code.MALFORMED, laptop, first, first)
    for number in (0, -1, 2**63):
        second.n = OpNumber(number)
        await refused(Code.MALFORMED, laptop, second)
    laptop.watermark = 2**63
    await refused(Code.MALFORMED, laptop, first)
    laptop.watermark = 1
    packed = [b"x" * 36 * 1000] * (MAX_BATCH_BLOCKS // 1000 + 1)
    await refused(Code.TOO_LARGE, laptop, laptop.store(first.inode, [], new_runs=packed))


@pytest.mark.parametrize("number", [0, -1, 2**63, 2**64 - 1])
async def test_ids_that_no_column_holds_are_rejected(drive: Drive, laptop: Device, number: int) -> None:
    file = await laptop.make(b"a")
    harmful: list[Any] = [
        laptop.create(b"b", inode=number),
        laptop.create(b"b", parent=drive.root, after=[]),
        laptop.link(number, b"b"),  # type: ignore[arg-type]
        laptop.unlink(file, b"a", base=number),
        laptop.exchange(file, b"a", number, b"b"),  # type: ignore[arg-type]
        laptop.set_attributes(file, uid=1),
    ]
    harmful[1].after = [number]
    harmful[5].time_ns = number if abs(number) > 1 else 2**63
    if number == 0:
        harmful[3].base = Base(revision_op=OpNumber(2**64 - 1))
    assert {say(each) for each in await laptop.send(*harmful)} == {"rejected malformed"}


@pytest.mark.fault(57)
async def test_a_workspace_of_somebody_else_does_not_exist(drive: Drive, laptop: Device) -> None:
    stranger = await drive.stranger()
    with pytest.raises(ProtocolError) as caught:
        await stranger.send(stranger.create(b"a"))
    assert caught.value.code is Code.NOT_FOUND
    other = await laptop.drive.database.write(count_commits)
    request = messages.CommitRequest(epoch=laptop.epoch, watermark=OpNumber(1), mutations=[laptop.create(b"a")])
    with pytest.raises(ProtocolError) as caught:
        await drive.commits.commit(laptop.caller, WorkspaceId(drive.workspace + 1), request)
    assert caught.value.code is Code.NOT_FOUND
    assert await laptop.drive.database.write(count_commits) == other


def count_commits(connection: Any) -> int:
    return int(connection.execute(select(func.count()).select_from(schema.commits)).scalar_one())


@pytest.mark.fault(57)
async def test_inodes_of_another_workspace_of_the_account_do_not_exist(drive: Drive, laptop: Device) -> None:
    directory = await laptop.make(b"d", kind=DIRECTORY)
    inner = await laptop.make(b"inner", directory)
    other = WorkspaceId(drive.workspace + 1)
    moved = (directory, inner)
    inodes = schema.inodes.c
    await drive.execute(update(schema.inodes).where(inodes.inode.in_(moved)).values(workspace=other))
    assert await laptop.say(laptop.create(b"x", directory)) == "conflict no_parent"
    assert await laptop.say(laptop.unlink(inner, b"inner", directory)) == "conflict absent"
    assert await laptop.say(laptop.set_attributes(inner, mode=0)) == "conflict absent"
    assert await laptop.say(laptop.create(b"x", inode=inner)) == "id_taken inode"
    assert await laptop.state(inner) is None
    await drive.execute(update(schema.inodes).where(inodes.inode.in_(moved)).values(workspace=drive.workspace))


async def test_devices_that_commit_at_once_take_turns(drive: Drive, laptop: Device, phone: Device) -> None:
    answers: list[OpResult] = []

    async def work(device: Device) -> None:
        for number in range(10):
            answers.extend(
                await device.send(device.create(b"%d" % number), device.create(b"%d" % device.caller.device))
            )

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work, laptop)
        tasks.start_soon(work, phone)
    won = [answer for answer in answers if answer.status is Status.OK]
    assert len(won) == 12, "each shared name once, and each device its own name once"
    assert sorted({answer.seq for answer in won}) == list(range(2, await laptop.head() + 1))


async def test_whoever_goes_away_while_waiting_leaves_nothing(drive: Drive, laptop: Device, phone: Device) -> None:
    # Keeps the only writing connection busy, so that the commit has to wait.
    release, started = anyio.Event(), anyio.Event()

    def hold(_connection: Any) -> None:
        anyio.from_thread.run_sync(started.set)
        anyio.from_thread.run(release.wait)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(drive.database.write, hold)
        await started.wait()
        with anyio.move_on_after(0) as gone:
            await laptop.send(laptop.create(b"a"))
        release.set()
    assert gone.cancelled_caught
    assert await phone.names() == {}


async def test_a_commit_begun_ends_and_wakes_though_its_caller_is_gone(drive: Drive, laptop: Device) -> None:
    woken = listen(drive)
    with anyio.CancelScope() as scope:

        def now_ns() -> int:
            anyio.from_thread.run_sync(scope.cancel)
            return 2_000 * 10**9

        object.__setattr__(drive.ground, "now_ns", now_ns)
        await laptop.send(laptop.create(b"a"))
        await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert list(await laptop.names()) == [b"a"]
    assert woken.woken.is_set()


@pytest.mark.fault(36)
async def test_times_of_commits_grow_though_the_clock_goes_back(drive: Drive, laptop: Device) -> None:
    await laptop.make(b"a")
    drive.clock.ns -= 500
    await laptop.make(b"b")
    times = [row.time_ns for row in await drive.fetch(select(schema.commits.c.time_ns).order_by(schema.commits.c.seq))]
    assert times == sorted(set(times))


async def test_the_number_of_statements_does_not_grow_with_the_batch(drive: Drive, laptop: Device) -> None:
    assert await laptop.say(laptop.create(b"first")) == "ok"
    counts = []
    for size in (2, 200):
        files = [laptop.create(b"%d-%d" % (size, number)) for number in range(size)]
        blocks = await drive.upload(laptop, *[b"%d of %d" % (number, size) for number in range(size)])
        stores = [laptop.store(file.inode, [block], after=[file]) for file, block in zip(files, blocks, strict=True)]
        moves = [laptop.rename(file.inode, file.name, b"moved " + file.name) for file in files]
        with watching(drive) as statements:
            assert {say(each) for each in await laptop.send(*files, *stores, *moves)} == {"ok"}
        counts.append(len(statements))
    assert counts[0] == counts[1]


async def test_who_may_only_read_changes_nothing(drive: Drive, laptop: Device) -> None:
    await drive.execute(update(schema.members).values(role="viewer"))
    before = await laptop.head()
    assert await laptop.say(laptop.create(b"new")) == "rejected role"
    assert await laptop.head() == before
