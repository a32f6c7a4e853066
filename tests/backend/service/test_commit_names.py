"""Creating, linking, removing and moving names: what is expected, what is refused, what becomes of counts and times."""

import pytest

from drivefs.protocol.model import InodeKind
from tests.backend.service.drive import DIRECTORY, Device, Drive, say

pytestmark = pytest.mark.anyio


async def test_create_shows_the_inode_and_touches_its_directory(drive: Drive, laptop: Device) -> None:
    mutation = laptop.create(b"a", mode=0o600, uid=5, gid=None)
    reply = await laptop.commit(mutation)
    assert [result.status for result in reply.results] == ["ok"]
    assert reply.results[0].seq == reply.head.seq == 2
    made = await laptop.known(mutation.inode)
    assert (made.kind, made.mode, made.uid, made.gid, made.nlink, made.seq) == (InodeKind.FILE, 0o600, 5, None, 1, 2)
    assert made.atime_ns == made.mtime_ns == made.ctime_ns == mutation.time_ns
    root = await laptop.known(drive.root)
    assert (root.mtime_ns, root.ctime_ns, root.nlink, root.seq) == (mutation.time_ns, mutation.time_ns, 2, 2)
    assert await laptop.names() == {b"a": mutation.inode}


async def test_directories_count_their_subdirectories(drive: Drive, laptop: Device) -> None:
    outer = await laptop.make(b"outer", kind=DIRECTORY)
    inner = laptop.directory(b"inner", outer)
    assert await laptop.say(inner) == "ok"
    assert (await laptop.known(outer)).nlink == 3
    assert (await laptop.known(drive.root)).nlink == 3
    assert await laptop.say(laptop.rename(inner.inode, b"inner", b"inner", parent=outer)) == "ok"
    assert (await laptop.known(outer)).nlink == 2
    assert (await laptop.known(drive.root)).nlink == 4
    assert await laptop.say(laptop.unlink(outer, b"outer")) == "ok"
    assert (await laptop.known(outer)).nlink == 0
    assert (await laptop.known(drive.root)).nlink == 3


@pytest.mark.fault(36)
async def test_a_clock_that_is_behind_never_turns_times_back(drive: Drive, laptop: Device) -> None:
    late = laptop.create(b"late")
    assert await laptop.say(late) == "ok"
    laptop.time_ns = 10
    assert await laptop.say(laptop.create(b"early")) == "ok"
    root = await laptop.known(drive.root)
    assert (root.mtime_ns, root.ctime_ns) == (late.time_ns, late.time_ns)


async def test_create_is_refused_where_it_cannot_be(drive: Drive, laptop: Device, phone: Device) -> None:
    file = await laptop.make(b"a")
    assert await phone.say(phone.create(b"a")) == "conflict exists"
    assert await phone.say(phone.create(b"b", file)) == "conflict not_directory"
    assert await phone.say(phone.create(b"b", phone.new_inode())) == "conflict no_parent"
    gone = await laptop.make(b"gone", kind=DIRECTORY)
    assert await laptop.say(laptop.unlink(gone, b"gone")) == "ok"
    assert await phone.say(phone.create(b"b", gone)) == "conflict no_parent"
    assert await laptop.names() == {b"a": file}


async def test_inode_ids_come_from_the_devices_own_ranges_and_once(laptop: Device, phone: Device) -> None:
    mutation = laptop.create(b"a")
    assert await laptop.say(mutation) == "ok"
    assert await laptop.say(laptop.create(b"b", inode=mutation.inode)) == "id_taken inode"
    assert await laptop.say(laptop.create(b"c", inode=phone.new_inode())) == "id_taken inode"
    assert await laptop.say(laptop.create(b"d", inode=mutation.inode + 2**20)) == "id_taken inode"


@pytest.mark.fault(56)
@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0", b"x" * 256])
async def test_names_that_no_directory_can_hold_are_rejected(laptop: Device, name: bytes) -> None:
    file = await laptop.make(b"a")
    assert await laptop.say(laptop.create(name)) == "rejected malformed"
    assert await laptop.say(laptop.link(file, name)) == "rejected malformed"
    assert await laptop.say(laptop.rename(file, b"a", name)) == "rejected malformed"
    assert await laptop.say(laptop.unlink(file, name)) == "rejected malformed"


async def test_names_are_bytes_and_compared_as_they_are(laptop: Device) -> None:
    composed, decomposed, latin = "é".encode(), "e\u0301".encode(), b"\xe9"
    made = {
        name: await laptop.make(name) for name in (composed, decomposed, latin, b"x" * 255, b"\xff\xfe", b"A", b"a")
    }
    assert await laptop.names() == made


async def test_special_files_keep_what_they_are(laptop: Device) -> None:
    link = laptop.create(b"link", kind=InodeKind.SYMLINK, target=b"some/where", mode=0o777)
    device = laptop.create(b"null", kind=InodeKind.CHARACTER_DEVICE, rdev=259)
    assert await laptop.say(link) == await laptop.say(device) == "ok"
    assert (await laptop.known(link.inode)).target == b"some/where"
    assert (await laptop.known(link.inode)).size == 10
    assert (await laptop.known(device.inode)).rdev == 259
    assert await laptop.say(laptop.create(b"x", kind=InodeKind.SYMLINK)) == "rejected malformed"
    assert await laptop.say(laptop.create(b"x", target=b"t")) == "rejected malformed"
    assert await laptop.say(laptop.create(b"x", rdev=1)) == "rejected malformed"
    assert await laptop.say(laptop.create(b"x", kind=InodeKind.SYMLINK, target=b"t" * 5000)) == "rejected limit"


async def test_hard_links_count_and_unlink_spares_the_others(laptop: Device) -> None:
    file = await laptop.save(b"a", b"content")
    link = laptop.link(file, b"b")
    assert await laptop.say(link) == "ok"
    assert (await laptop.known(file)).nlink == 2
    assert (await laptop.known(file)).ctime_ns == link.time_ns
    # The base is wrong, but nothing is lost with this name.
    assert await laptop.say(laptop.unlink(file, b"a", base=9)) == "ok"
    assert (await laptop.known(file)).nlink == 1
    assert await laptop.names() == {b"b": file}


async def test_link_is_refused_where_it_cannot_be(laptop: Device) -> None:
    file = await laptop.make(b"a")
    directory = await laptop.make(b"d", kind=DIRECTORY)
    assert await laptop.say(laptop.link(file, b"d")) == "conflict exists"
    assert await laptop.say(laptop.link(directory, b"e")) == "rejected is_directory"
    assert await laptop.say(laptop.link(file, b"b", file)) == "conflict not_directory"
    assert await laptop.say(laptop.link(laptop.new_inode(), b"b")) == "conflict absent"
    assert await laptop.say(laptop.unlink(file, b"a")) == "ok"
    assert await laptop.say(laptop.link(file, b"b")) == "conflict absent"


async def test_unlink_compares_what_the_device_saw(laptop: Device, phone: Device) -> None:
    file = await laptop.save(b"a", b"one")
    await phone.write(file, b"two", base=1)
    assert await laptop.say(laptop.unlink(file, b"b")) == "conflict absent"
    assert await laptop.say(laptop.unlink(laptop.new_inode(), b"a")) == "conflict changed"
    assert await laptop.say(laptop.unlink(file, b"a", base=1)) == "conflict changed"
    assert await laptop.names() == {b"a": file}
    assert await laptop.say(laptop.unlink(file, b"a", base=2)) == "ok"
    assert (await laptop.known(file)).nlink == 0


async def test_a_directory_is_removed_only_when_it_is_empty(laptop: Device, phone: Device) -> None:
    directory = await laptop.make(b"d", kind=DIRECTORY)
    child = phone.create(b"child", directory)
    assert await phone.say(child) == "ok"
    assert await laptop.say(laptop.unlink(directory, b"d")) == "conflict not_empty"
    both = await laptop.send(laptop.unlink(child.inode, b"child", directory), laptop.unlink(directory, b"d"))
    assert [result.status for result in both] == ["ok", "ok"]
    assert await laptop.names() == {}


async def test_rename_moves_a_name_and_touches_both_directories(laptop: Device) -> None:
    source, target = await laptop.make(b"s", kind=DIRECTORY), await laptop.make(b"t", kind=DIRECTORY)
    file = await laptop.make(b"a", source)
    move = laptop.rename(file, b"a", b"b", parent=source, new_parent=target)
    assert await laptop.say(move) == "ok"
    assert (await laptop.names(source), await laptop.names(target)) == ({}, {b"b": file})
    for touched in (source, target, file):
        assert (await laptop.known(touched)).ctime_ns == move.time_ns
    assert (await laptop.known(file)).mtime_ns < move.time_ns


async def test_rename_expects_its_source(laptop: Device, phone: Device) -> None:
    file, other = await laptop.make(b"a"), await laptop.make(b"o")
    assert await laptop.say(laptop.rename(file, b"nothing", b"b")) == "conflict absent"
    assert await laptop.say(laptop.rename(other, b"a", b"b")) == "conflict absent"
    assert await phone.say(phone.unlink(file, b"a")) == "ok"
    assert await laptop.say(laptop.rename(file, b"a", b"b")) == "conflict absent"


async def test_rename_expects_its_target(laptop: Device, phone: Device) -> None:
    file, other = await laptop.make(b"a"), await laptop.save(b"o", b"one")
    assert await laptop.say(laptop.rename(file, b"a", b"o")) == "conflict exists"
    assert await laptop.say(laptop.rename(file, b"a", b"o", replaced=laptop.new_inode())) == "conflict changed"
    assert await laptop.say(laptop.rename(file, b"a", b"free", replaced=other)) == "conflict changed"
    third = await laptop.make(b"t")
    assert await laptop.say(laptop.rename(file, b"a", b"t", replaced=other, base=1)) == "conflict changed"
    assert await laptop.say(laptop.unlink(third, b"t")) == "ok"
    await phone.write(other, b"two", base=1)
    assert await laptop.say(laptop.rename(file, b"a", b"o", replaced=other, base=1)) == "conflict changed"
    assert await laptop.say(laptop.rename(file, b"a", b"b", new_parent=other)) == "conflict not_directory"
    assert await laptop.say(laptop.rename(file, b"a", b"b", new_parent=laptop.new_inode())) == "conflict no_parent"
    assert await laptop.names() == {b"a": file, b"o": other}
    assert await laptop.say(laptop.rename(file, b"a", b"o", replaced=other, base=2)) == "ok"
    assert await laptop.names() == {b"o": file}
    assert (await laptop.known(other)).nlink == 0


async def test_rename_over_a_name_that_is_not_the_last_needs_no_base(laptop: Device) -> None:
    file, other = await laptop.make(b"a"), await laptop.save(b"o", b"one")
    assert await laptop.say(laptop.link(other, b"o2")) == "ok"
    assert await laptop.say(laptop.rename(file, b"a", b"o", replaced=other, base=9)) == "ok"
    assert await laptop.names() == {b"o": file, b"o2": other}


async def test_rename_over_directories(laptop: Device) -> None:
    file = await laptop.make(b"f")
    one, two = await laptop.make(b"1", kind=DIRECTORY), await laptop.make(b"2", kind=DIRECTORY)
    child = await laptop.make(b"child", two)
    assert await laptop.say(laptop.rename(one, b"1", b"2", replaced=two)) == "conflict not_empty"
    assert await laptop.say(laptop.rename(one, b"1", b"f", replaced=file)) == "rejected not_directory"
    assert await laptop.say(laptop.rename(file, b"f", b"1", replaced=one)) == "rejected is_directory"
    assert await laptop.say(laptop.unlink(child, b"child", two)) == "ok"
    assert await laptop.say(laptop.rename(one, b"1", b"2", replaced=two)) == "ok"
    assert await laptop.names() == {b"f": file, b"2": one}


@pytest.mark.fault(60)
async def test_no_directory_is_moved_below_itself(drive: Drive, laptop: Device, phone: Device) -> None:
    a, b = await laptop.make(b"a", kind=DIRECTORY), await laptop.make(b"b", kind=DIRECTORY)
    deep = await laptop.make(b"deep", b, DIRECTORY)
    assert await laptop.say(laptop.rename(a, b"a", b"a", new_parent=a)) == "conflict cycle"
    assert await laptop.say(laptop.rename(a, b"a", b"a", new_parent=deep)) == "ok"
    assert await phone.say(phone.rename(b, b"b", b"b", new_parent=a)) == "conflict cycle"
    assert await phone.say(phone.rename(b, b"b", b"b", new_parent=deep)) == "conflict cycle"
    assert await laptop.names() == {b"b": b}


async def test_a_cycle_made_within_one_batch_is_seen(laptop: Device) -> None:
    a, b = await laptop.make(b"a", kind=DIRECTORY), await laptop.make(b"b", kind=DIRECTORY)
    new = laptop.directory(b"new", b)
    results = await laptop.send(
        new,
        laptop.rename(a, b"a", b"a", new_parent=new.inode),
        laptop.rename(b, b"b", b"b", new_parent=a),
        laptop.rename(new.inode, b"new", b"new", parent=b, new_parent=a),
    )
    assert [f"{r.status} {r.reason}" for r in results] == ["ok ", "ok ", "conflict cycle", "conflict cycle"]


async def test_exchange_swaps_and_counts(drive: Drive, laptop: Device) -> None:
    directory = await laptop.make(b"d", kind=DIRECTORY)
    inner = await laptop.make(b"inner", directory, DIRECTORY)
    file = await laptop.save(b"f", b"content")
    swap = laptop.exchange(file, b"f", inner, b"inner", other_parent=directory)
    assert await laptop.say(swap) == "ok"
    assert await laptop.names() == {b"d": directory, b"f": inner}
    assert await laptop.names(directory) == {b"inner": file}
    assert (await laptop.known(directory)).nlink == 2
    assert (await laptop.known(drive.root)).nlink == 4
    assert (await laptop.known(file)).ctime_ns == (await laptop.known(inner)).ctime_ns == swap.time_ns


async def test_exchange_expects_both_sides(laptop: Device) -> None:
    directory = await laptop.make(b"d", kind=DIRECTORY)
    inner = await laptop.make(b"inner", directory)
    file = await laptop.make(b"f")
    assert await laptop.say(laptop.exchange(file, b"f", inner, b"inner")) == "conflict absent"
    assert await laptop.say(laptop.exchange(inner, b"f", file, b"x")) == "conflict changed"
    other = await laptop.make(b"other")
    named = laptop.set_attributes(other, mode=0o600), laptop.exchange(file, b"f", inner, b"other")
    assert [say(each) for each in await laptop.send(*named)] == ["ok", "conflict changed"]
    cycle = laptop.exchange(directory, b"d", inner, b"inner", other_parent=directory)
    assert await laptop.say(cycle) == "conflict cycle"
    other_way = laptop.exchange(inner, b"inner", directory, b"d", parent=directory)
    assert await laptop.say(other_way) == "conflict cycle"
    assert await laptop.say(laptop.exchange(file, b"f", file, b"g")) == "rejected malformed"
    assert await laptop.say(laptop.rename(file, b"f", b"f")) == "rejected malformed"


async def test_restore_brings_back_what_has_no_name(laptop: Device) -> None:
    file = await laptop.save(b"a", b"content")
    assert await laptop.say(laptop.restore(file, b"b")) == "conflict changed"
    assert await laptop.say(laptop.unlink(file, b"a", base=1)) == "ok"
    other = await laptop.make(b"b")
    assert await laptop.say(laptop.restore(file, b"b")) == "conflict exists"
    assert await laptop.say(laptop.restore(laptop.new_inode(), b"c")) == "conflict absent"
    assert await laptop.say(laptop.restore(file, b"a")) == "ok"
    assert await laptop.names() == {b"a": file, b"b": other}
    state = await laptop.known(file)
    assert (state.nlink, state.revision, state.size) == (1, 1, 7)


async def test_a_name_may_be_taken_and_freed_within_one_batch(laptop: Device) -> None:
    old = await laptop.make(b"a")
    new = laptop.create(b"a")
    temporary = laptop.create(b"t")
    results = await laptop.send(
        *sorted(
            (
                laptop.unlink(old, b"a"),
                laptop.rename(temporary.inode, b"t", b"u"),
                laptop.unlink(temporary.inode, b"u"),
                temporary,
            ),
            key=lambda mutation: mutation.n,
        )
    )
    assert [result.status for result in results] == ["ok"] * 4
    new.n = laptop.create(b"-").n
    assert await laptop.say(new) == "ok"
    assert await laptop.names() == {b"a": new.inode}
