"""Taking a folder back to what it was, between devices and the real server: every kind of change, and back again."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from drivefs.fs.attributes import Wanted
from drivefs.fs.rewinding import Progress, Rewound
from drivefs.protocol.ids import MAX_ID, Seq
from drivefs.protocol.model import InodeKind
from tests.sync.fleet import Device, Fleet, sailing

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with sailing(tmp_path, "first", "second") as (fleet, _):
        yield fleet


async def now(device: Device) -> Seq:
    await device.sync()
    return (await device.fs.history.past.at(MAX_ID)).seq


async def nothing(done: Rewound) -> None:
    pass


async def rewind(device: Device, path: str, seq: Seq, progress: Progress = nothing) -> Rewound:
    """As the command does, of what is there now or was there then."""
    parent, _, name = path.rpartition("/")
    directory = (await device.known(parent)).inode
    then = await device.fs.history.past.inode(device.root, seq)
    for each in filter(None, path.encode().split(b"/")):
        then = await device.fs.history.past.entry(then.inode, each, seq)
    return await device.fs.rewinding.rewind((directory, name.encode()), then, seq, device.kernel, progress)


async def attributes(device: Device) -> dict[str, object]:
    """What everything looks like beside its content."""
    return {
        path: (state.mode, state.mtime_ns, dict(state.xattrs))
        for path in await device.tree()
        for state in [await device.known(path)]
    }


async def furnish(device: Device) -> None:
    for path in ("top", "top/sub", "top/sub/deep", "top/empty", "beside"):
        await device.mkdir(path)
    for path in ("top/same", "top/edited", "top/saved", "top/removed", "top/moved", "top/sub/deep/inner", "beside/x"):
        await device.write(path, path.encode())
    await device.symlink(b"same", "top/link")
    await device.link("top/same", "top/sub/also")
    state = await device.known("top/same")
    device.fs.set_attributes(state.inode, Wanted(mode=0o640, mtime_ns=12345))
    device.fs.set_xattr(state.inode, b"user.colour", b"red")


async def spoil(device: Device) -> None:
    await device.edit("top/edited", b"EDITED")
    await device.save("top/saved", b"saved anew")
    await device.unlink("top/removed")
    await device.mkdir("top/new")
    await device.rename("top/moved", "top/new/moved on")
    await device.rename("top/sub/deep", "top/deep elsewhere")
    await device.edit("top/deep elsewhere/inner", b"!")
    await device.unlink("top/link")
    await device.symlink(b"other", "top/link")
    await device.rmdir("top/empty")
    await device.write("top/empty", b"a file where a directory was")
    await device.unlink("top/sub/also")
    await device.write("top/new/young", b"young")
    await device.write("beside/x", b"not concerned")
    state = await device.known("top/same")
    device.fs.set_attributes(state.inode, Wanted(mode=0o600))
    device.fs.set_xattr(state.inode, b"user.colour", b"blue")


async def test_a_folder_is_what_it_was_and_that_can_be_taken_back(fleet: Fleet) -> None:
    first, second = fleet.devices
    await furnish(first)
    before = await fleet.settle()
    looks, seq, inodes = await attributes(first), await now(first), {p: (await first.known(p)).inode for p in before}
    await spoil(second)
    spoiled = await fleet.settle()
    spoiled_looks, spoiled_seq = await attributes(second), await now(second)
    done = await rewind(first, "top", seq)
    assert (done.lost, done.busy) == ([], [])
    expected = {**before, "beside/x": b"not concerned"}
    assert await first.tree() == expected
    assert await fleet.settle() == expected
    shown = await attributes(second)
    assert {p: shown[p] for p in shown if p.startswith("top")} == {p: looks[p] for p in looks if p.startswith("top")}
    # What was moved, changed in place or removed is the inode that it was, with its history.
    for path in ("top/moved", "top/sub/deep", "top/edited", "top/removed", "top/empty", "top/sub/deep/inner"):
        assert (await second.known(path)).inode == inodes[path], path
    assert (await second.known("top/sub/also")).inode == inodes["top/same"]
    saved = await second.known("top/saved")
    assert [each.size for each in await second.fs.history.of(saved.inode)] == [9, 10, 9]
    assert (await rewind(first, "top", seq)).total == 0
    await rewind(second, "top", spoiled_seq)
    assert await fleet.settle() == spoiled
    shown = await attributes(first)
    assert {p: shown[p] for p in shown if p.startswith("top")} == {
        p: spoiled_looks[p] for p in spoiled_looks if p.startswith("top")
    }


async def test_a_file_with_several_names_goes_back_and_forth_under_all_of_them(fleet: Fleet) -> None:
    first, _ = fleet.devices
    await furnish(first)
    await first.link("top/edited", "top/sub/linked")
    before, seq = await fleet.settle(), await now(first)
    await first.edit("top/edited", b"EDITED")
    changed, changed_seq = await fleet.settle(), await now(first)
    await first.rename("top/sub", "sub elsewhere")
    moved, moved_seq = await fleet.settle(), await now(first)
    for folder, when, expected in (
        ("top", seq, before | {path: moved[path] for path in moved if path.startswith("sub elsewhere")}),
        ("top", moved_seq, moved),
        ("", changed_seq, changed),
        ("top", seq, before),
        ("", moved_seq, moved),
    ):
        done = await rewind(first, folder, when)
        assert (done.lost, done.busy) == ([], [])
        found = await fleet.settle()
        assert {path: found[path] for path in found if path.startswith(folder)} == {
            path: expected[path] for path in expected if path.startswith(folder)
        }


async def test_a_single_file_and_what_is_gone(fleet: Fleet) -> None:
    first, second = fleet.devices
    await furnish(first)
    before, seq = await fleet.settle(), await now(first)
    await second.save("top/saved", b"x")
    await second.remove_tree("top/sub")
    await fleet.settle()
    assert (await rewind(first, "top/saved", seq)).changed == 1
    assert (await rewind(first, "top/sub", seq)).restored == 2
    assert await fleet.settle() == before


async def test_what_others_save_meanwhile_stays_and_is_told(fleet: Fleet) -> None:
    """Whoever takes a folder back has not seen it."""
    first, second = fleet.devices
    await furnish(first)
    await fleet.settle()
    seq = await now(first)
    await second.unlink("top/link")
    await second.rename("top/moved", "top/elsewhere")
    await second.write("top/young", b"young")
    await second.write("top/other", b"other")
    for name in ("top/edited", "top/elsewhere"):
        await second.edit(name, b"EDITED")
    await fleet.settle()
    names = ["top/edited", "top/elsewhere", "top/young"]

    async def progress(done: Rewound) -> None:
        while names:
            await second.edit(names.pop(), b"LATER")
        await second.sync()
        await first.pull()

    done = await rewind(first, "top", seq, progress)
    assert sorted(done.busy) == [b"edited", b"moved", b"young"]
    tree = await fleet.settle()
    assert [tree[f"top/{name}"] for name in ("link", "edited", "moved", "young")] == [
        b"same",
        b"LATERDited",
        b"LATERDved",
        b"LATER",
    ]
    assert "top/other" not in tree


async def test_what_a_program_saves_by_rename_meanwhile_stays_and_is_told(fleet: Fleet) -> None:
    """The file that was compared has no name then: a content of its own would never be sent."""
    first, _ = fleet.devices
    await furnish(first)
    seq = await now(first)
    await first.unlink("top/link")
    await first.edit("top/edited", b"EDITED")
    await fleet.settle()
    saved = [b"saved"]

    async def progress(done: Rewound) -> None:
        while saved:
            await first.save("top/edited", saved.pop())

    assert (await rewind(first, "top", seq, progress)).busy == [b"edited"]
    assert (await fleet.settle())["top/edited"] == b"saved"
    assert first.local.journal.drafts.count() == 0


async def test_directories_that_changed_places(fleet: Fleet) -> None:
    first, _ = fleet.devices
    for path in ("top", "top/a", "top/a/b", "top/a/b/c"):
        await first.mkdir(path)
    await first.write("top/a/b/c/doc", b"1")
    before, seq = await fleet.settle(), await now(first)
    await first.rename("top/a/b/c", "top/c")
    await first.rename("top/a/b", "top/c/b")
    await first.rename("top/a", "top/c/b/a")
    await fleet.settle()
    await rewind(first, "top", seq)
    assert await fleet.settle() == before


async def test_what_is_not_kept_any_more_is_told_and_nothing_else_is_lost(fleet: Fleet) -> None:
    first, second = fleet.devices
    await furnish(first)
    before, seq = await fleet.settle(), await now(first)
    await second.unlink("top/removed")
    await second.edit("top/edited", b"EDITED")
    await fleet.settle()
    async for _ in first.fs.history.past.empty_trash(Seq(2**62)):
        pass
    done = await rewind(first, "top", seq)
    assert done.lost == [b"removed"]
    del before["top/removed"]
    assert await fleet.settle() == before


async def test_a_crash_in_the_middle_leaves_what_another_rewinding_ends(fleet: Fleet) -> None:
    first, _ = fleet.devices
    await furnish(first)
    before, seq = await fleet.settle(), await now(first)
    await spoil(first)
    await fleet.settle()

    class Stopped(Exception):
        pass

    async def progress(done: Rewound) -> None:
        if done.total == 4:
            raise Stopped

    top = await first.known("top")
    then = await first.fs.history.past.inode(top.inode, seq)
    with pytest.raises(Stopped):
        await first.fs.rewinding.rewind((first.root, b"top"), then, seq, first.kernel, progress)
    await first.restart(keeps_cache=True)
    await first.sync()
    await rewind(first, "top", seq)
    assert await fleet.settle() == {**before, "beside/x": b"not concerned"}


async def test_what_is_ignored_stays_with_the_folders_that_it_is_in(fleet: Fleet) -> None:
    """[rewind] It is in no trash, whatever it is: a link and a file without content are on this device only, too."""
    first, second = fleet.devices
    await first.mkdir("top")
    await first.write("top/x.tmp", b"of the drive")
    seq = await now(first)
    await first.write(".drivefsignore", b"build/\n*.tmp\n")
    await first.unlink("top/x.tmp")
    await fleet.settle()
    await first.write("top/x.tmp", b"of this device")
    for path in ("top/build", "top/build/bare", "top/new", "top/new/deep", "top/other"):
        await first.mkdir(path)
    await first.symlink(b"bare", "top/build/link")
    await first.write("top/new/deep/a.tmp", b"")
    await first.write("top/new/b", b"b")
    here = {path: what for path, what in (await first.tree()).items() if path not in ("top/new/b", "top/other")}
    await first.sync()
    done = await rewind(first, "top", seq)
    assert (done.removed, done.busy) == (1, [])
    assert await first.tree() == {**here, "top/x (restored).tmp": b"of the drive"}
    await first.sync()
    await second.sync()
    ours = [".drivefsignore", "top", "top/new", "top/new/deep", "top/x (restored).tmp"]
    assert sorted(await second.tree()) == ours


@pytest.mark.parametrize("seed", [8, 20, 23, 40])
async def test_any_history_can_be_taken_back(fleet: Fleet, seed: int) -> None:
    """Random changes; then each of the states that there were, in any order."""
    device, draw = fleet.devices[0], random.Random(seed)
    await device.mkdir("top")
    states: list[tuple[Seq, dict[str, object]]] = []
    for step in range(30):
        tree = [path for path in await device.tree() if path.startswith("top")]
        directories = [p for p in tree if (await device.known(p)).kind is InodeKind.DIRECTORY]
        files = [p for p in tree if p not in directories]
        new = f"{draw.choice(directories)}/{draw.choice('abc')}"
        old = draw.choice(files or ["top"])
        try:
            match draw.randrange(7):
                case 0:
                    await device.mkdir(new)
                case 1 | 2:
                    await device.write(new, b"%d" % step)
                case 3 if files:
                    await device.save(old, b"saved %d" % step)
                case 4 if files:
                    await device.unlink(old)
                case 5 if files:
                    await device.link(old, new)
                case 6 if len(tree) > 1:
                    moved = draw.choice(tree[1:])
                    if not new.startswith(moved):
                        await device.rename(moved, new)
        except Exception as error:
            if type(error).__module__ != "drivefs.fs.errors":
                raise
        if step % 6 == 5:
            states.append((await now(device), await device.tree()))
    for seq, tree in draw.sample(states, len(states)):
        await rewind(device, "top", seq)
        assert await device.tree() == tree
        await device.sync()
        assert await device.tree() == tree
    assert await fleet.settle() == tree
