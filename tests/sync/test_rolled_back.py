"""A device whose disk is put back to an earlier moment of the same mount: the nonce in it is still the last one."""

import shutil
from pathlib import Path

import pytest
import trio

from drivefs.protocol.errors import Code
from drivefs.remote.errors import Refused
from tests.sync.fleet import Device, Fleet, sailing


async def put_back(device: Device, earlier: Path) -> None:
    """The process ends, and the next one finds the disk as it was."""
    device.close()
    shutil.rmtree(device.place)
    shutil.move(earlier, device.place)
    await device.open()
    await device.begin()


async def mounted_copy(fleet: Fleet, device: Device, place: Path) -> Device:
    """A copy of a device whose state was copied to a place, mounted beside it."""
    copy = Device("copy", place, device.token, fleet.served.asgi)
    copy._info = device._info
    await copy.open()
    await copy.begin()
    fleet.devices.append(copy)
    return copy


@pytest.mark.fault(19)
@pytest.mark.parametrize("is_heard", [True, False])
def test_ids_that_were_given_out_since_are_not_given_out_again(tmp_path: Path, is_heard: bool) -> None:
    """Whether or not the device had heard that what it made was taken."""

    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, _bert)):
            earlier = tmp_path / "earlier"
            shutil.copytree(anna.place, earlier)
            epoch = anna.session.epoch
            await anna.mkdir("made since")
            await anna.write("made since/file", b"sent")
            await anna.push()
            made = {(await anna.known(path)).inode for path in ("made since", "made since/file")}
            if is_heard:
                await fleet.settle()
            await put_back(anna, earlier)
            assert anna.session.epoch != epoch
            await anna.write("new", b"of the second life")
            await anna.mkdir("new directory")
            assert made.isdisjoint({(await anna.known(path)).inode for path in ("new", "new directory")})
            assert await fleet.settle() == {
                "made since": None,
                "made since/file": b"sent",
                "new": b"of the second life",
                "new directory": None,
            }

    trio.run(main)


@pytest.mark.fault(19)
def test_a_copy_that_is_mounted_while_the_original_runs_makes_that_another(tmp_path: Path) -> None:
    """The copy knows the last nonce, and of all that was sent: it goes on, and the original begins a new epoch."""

    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, _bert)):
            await anna.write("before", b"of both")
            await fleet.settle()
            epoch = anna.session.epoch
            shutil.copytree(anna.place, tmp_path / "copy")
            copy = await mounted_copy(fleet, anna, tmp_path / "copy")
            assert copy.session.epoch == epoch
            await copy.write("by the copy", b"one")
            await copy.mkdir("directory")
            await copy.push()
            await anna.mkdir("another directory")
            await anna.write("by the original", b"other")
            with pytest.raises(Refused) as caught:
                await anna.push()
            assert caught.value.code is Code.STALE_EPOCH
            await anna.begin()
            assert anna.session.epoch != epoch
            found = await fleet.settle()
            assert found == {
                "before": b"of both",
                "by the copy": b"one",
                "directory": None,
                "another directory": None,
                "by the original": b"other",
            }
            assert copy.session.epoch == epoch

    trio.run(main)


@pytest.mark.fault(18)
def test_two_copies_that_both_write_come_to_rest(tmp_path: Path) -> None:
    """One of them begins a new epoch, once; from then on neither takes anything from the other."""

    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, _bert)):
            shutil.copytree(anna.place, tmp_path / "copy")
            copy = await mounted_copy(fleet, anna, tmp_path / "copy")
            await anna.mkdir("directory")
            with pytest.raises(Refused):
                await anna.push()
            await anna.begin()
            epochs = copy.session.epoch, anna.session.epoch
            for number in range(3):
                for device in (anna, copy):
                    await device.write(f"{device.name} {number}", b"%d" % number)
                    await device.write(f"of {device.name}", b"%d" % number)
                    await device.push()
            await copy.restart(keeps_cache=True)
            await anna.restart(keeps_cache=True)
            assert (copy.session.epoch, anna.session.epoch) == epochs
            assert epochs[0] != epochs[1]
            each = {f"{name} {number}": b"%d" % number for name in ("anna", "copy") for number in range(3)}
            assert await fleet.settle() == {"directory": None, "of anna": b"2", "of copy": b"2", **each}

    trio.run(main)


def test_a_mount_that_is_not_an_older_one_goes_on_in_its_epoch(tmp_path: Path) -> None:
    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, _bert)):
            epoch = anna.session.epoch
            for content in (b"first", b"second"):
                await anna.write("file", content)
                await fleet.settle()
            await anna.restart(keeps_cache=True)
            assert anna.session.epoch == epoch

    trio.run(main)
