"""Devices whose server was put back to an older state: what they know that it has lost comes back, once.

Time stands still, and each device sends and hears when the test says so: every order of the two is tried on purpose.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import trio
from sqlalchemy import delete

from backend.metadata import schema
from drivefs.protocol.model import InodeState
from drivefs.remote.errors import Offline
from drivefs.sync.salvage import Standing
from drivefs.sync.sides import RemoteSide, Unknown
from tests.sync.fleet import Device, Fleet, sailing

pytestmark = pytest.mark.fault(40)


async def furnished(fleet: Fleet, device: Device) -> Path:
    """A drive that all know, and its server as it was then."""
    await device.mkdir("kept")
    await device.write("kept/file", b"first")
    await device.write("changed", b"before")
    await fleet.settle()
    return fleet.save()


async def send(device: Device) -> None:
    """Commit all that waits, and hear nothing of it by the feed."""
    while await device.push():
        pass
    assert not device.local.journal.pending_count


@pytest.mark.parametrize("hears", [False, True])
@pytest.mark.parametrize("sends_first", [False, True])
def test_acknowledged_contents_that_were_lost_come_back(tmp_path: Path, hears: bool, sends_first: bool) -> None:
    """Whether or not the feed had brought them, and whether a commit or a poll comes first afterwards."""

    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, bert)):
            saved = await furnished(fleet, anna)
            await anna.write("changed", b"acknowledged, and then lost")
            await anna.write("kept/file", b"x" * 200_000)
            await send(anna)
            await anna.write("changed", b"acknowledged twice, and then lost")
            await send(anna)
            if hears:
                await anna.pull()
            await anna.write("new", b"written meanwhile")
            await fleet.put_back(saved)
            if sends_first:
                assert not await anna.push()
                assert anna.refused_count == 1
            tree = await fleet.settle()
            assert tree == {
                "kept": None,
                "kept/file": b"x" * 200_000,
                "changed": b"acknowledged twice, and then lost",
                "new": b"written meanwhile",
            }
            assert anna.begun_again
            assert not bert.begun_again

    trio.run(main)


@pytest.mark.parametrize("is_known", [True, False])
def test_all_that_was_made_since_comes_back_once(tmp_path: Path, is_known: bool) -> None:
    """Whoever made it, and however many devices know of it; whether or not the server knows what is common."""

    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, bert)):
            saved = await furnished(fleet, anna)
            await anna.mkdir("made")
            await anna.mkdir("made/deep")
            await anna.write("made/deep/file", b"1" * 100_000)
            await anna.write("made/empty", b"")
            await anna.symlink(b"deep/file", "made/link")
            await anna.link("made/deep/file", "kept/second")
            await bert.write("of bert", b"bert's")
            await bert.edit("kept/file", b"FIRST")
            expected = await fleet.settle()
            for device in (anna, bert):
                await device.tree()  # reads all contents, so that each device has them
            await fleet.put_back(saved, is_noticed=is_known)
            assert await fleet.settle() == expected
            assert (await anna.known("made/deep/file")).inode == (await anna.known("kept/second")).inode
            assert len({device.begun_again[0].shared > 0 for device in (anna, bert)} | {is_known}) == 1

    trio.run(main)


def test_what_was_saved_by_rename_comes_back_under_its_name(tmp_path: Path) -> None:
    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, _bert)):
            saved = await furnished(fleet, anna)
            await anna.save("changed", b"saved")
            await anna.save("changed", b"saved again")
            expected = await fleet.settle()
            await fleet.put_back(saved, is_noticed=True)
            assert await fleet.settle() == expected

    trio.run(main)


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("back_to", ["before it", "it", "behind it"])
def test_a_change_keeps_what_it_was_made_on_when_what_came_after_is_lost(
    tmp_path: Path, is_known: bool, back_to: str
) -> None:
    """Its device knows a lost content by the feed, and has changed a part of an earlier one."""

    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, bert)):
            saved = await furnished(fleet, anna)
            await anna.write("changed", b"0123456789" * 1000)
            await fleet.settle()
            if back_to == "it":
                saved = fleet.save()
            await anna.edit("changed", b"anna's")
            await bert.write("changed", b"bert's first")
            await send(bert)
            if back_to == "behind it":
                saved = fleet.save()
            await bert.write("changed", b"bert's")
            await send(bert)
            await anna.pull()
            await fleet.put_back(saved, is_noticed=is_known)
            tree: dict[str, Any] = await fleet.settle()
            assert b"anna's" + (b"0123456789" * 1000)[6:] in tree.values()
            assert b"bert's" in tree.values()
            if back_to == "behind it":
                assert b"bert's" in tree["changed"], "nothing goes over what the server has unseen"

    trio.run(main)


@pytest.mark.parametrize("is_known", [True, False])
def test_a_removal_of_a_lost_content_removes_no_other_one(tmp_path: Path, is_known: bool) -> None:
    """The number that the lost one had is that of what another device has written since."""

    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, bert)):
            saved = await furnished(fleet, anna)
            await bert.write("changed", b"bert's, and lost")
            await send(bert)
            await bert.pull()
            await bert.unlink("changed")
            await fleet.put_back(saved, is_noticed=is_known)
            await anna.write("changed", b"anna's")
            await send(anna)
            assert (await fleet.settle())["changed"] == b"anna's"

    trio.run(main)


def test_what_is_known_of_a_lost_history_is_no_answer_of_what_the_server_has(tmp_path: Path) -> None:
    """Programs are shown it until all is listed again; a change that meets another one asks."""

    async def main() -> None:
        async with sailing(tmp_path, "anna") as (fleet, (anna,)):
            await furnished(fleet, anna)
            changed = (await anna.known("changed")).inode
            anna.local.replica.set_aside()
            assert anna.local.replica.inode(changed) is not None
            theirs = RemoteSide(anna.local)
            assert not theirs.revision(changed)
            with pytest.raises(Unknown):
                theirs.inode(changed)
            theirs.told(changed, None)
            assert theirs.inode(changed) is None
            anna.local.replica.drop_earlier()

    trio.run(main)


def test_what_was_moved_away_before_its_name_was_given_anew_is_not_saved_over(tmp_path: Path) -> None:
    """The server has it under that name again, and nowhere else."""

    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, _bert)):
            saved = await furnished(fleet, anna)
            await anna.rename("changed", "elsewhere")
            await anna.save("changed", b"saved")
            await fleet.settle()
            await fleet.put_back(saved, is_noticed=True)
            tree = await fleet.settle()
            assert {content for path, content in tree.items() if path.startswith("changed")} == {b"before", b"saved"}

    trio.run(main)


@pytest.mark.parametrize("is_known", [True, False])
def test_what_was_done_with_a_lost_inode_to_another_one_stands(tmp_path: Path, is_known: bool) -> None:
    """It was moved over a new file, exchanged with one that the server has, and lost a name to one."""

    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, _bert)):
            await anna.write("other", b"exchanged")
            await anna.write("mover", b"moved")
            saved = await furnished(fleet, anna)
            await anna.symlink(b"to", "lost")
            await anna.symlink(b"fro", "swapped")
            await anna.write("twice", b"with two names")
            await anna.link("twice", "again")
            await anna.sync()
            await anna.write("short", b"never sent")
            await anna.rename("lost", "short")
            await anna.exchange("swapped", "other")
            await anna.rename("mover", "again")
            expected = await anna.tree()
            await fleet.put_back(saved, is_noticed=is_known)
            assert await fleet.settle() == expected

    trio.run(main)


@pytest.mark.parametrize("is_known", [True, False])
def test_what_others_have_made_since_is_met_like_any_change_of_theirs(tmp_path: Path, is_known: bool) -> None:
    """One device is away while the server is put back, and another goes on there."""

    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert", "carl") as (fleet, (anna, _bert, carl)):
            saved = await furnished(fleet, anna)
            await anna.write("changed", b"of the lost history")
            await anna.write("made", b"of the lost history")
            await anna.sync()
            await fleet.put_back(saved, is_noticed=is_known)
            for number in range(3):
                await carl.write("changed", b"of the new one, %d" % number)
                await carl.sync()
            await carl.write("made", b"of the new one")
            await carl.sync()
            tree = await fleet.settle()
            assert tree["changed"] == b"of the new one, 2"
            assert tree["made"] == b"of the new one"
            copies = sorted(content for name, content in tree.items() if "conflicted copy, anna" in name)
            assert copies == [b"of the lost history"] * 2
            assert len(tree) == 6

    trio.run(main)


def test_what_was_removed_since_stays_removed_only_if_the_server_knows(tmp_path: Path) -> None:
    """A removal that the server has lost is not made again; a removal since is not undone."""

    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, bert)):
            saved = await furnished(fleet, anna)
            await anna.unlink("changed")
            await anna.sync()
            await fleet.put_back(saved)
            await bert.pull()
            await bert.unlink("kept/file")
            await bert.sync()
            assert await fleet.settle() == {"kept": None, "changed": b"before"}

    trio.run(main)


def test_contents_that_no_device_has_are_told_and_not_made_up(tmp_path: Path) -> None:
    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, bert)):
            saved = await furnished(fleet, anna)
            await anna.write("made", b"x" * 100_000)
            await anna.sync()
            await bert.pull()
            await anna.local.blocks.clear()
            await fleet.put_back(saved)
            assert await fleet.settle() == {"kept": None, "kept/file": b"first", "changed": b"before"}
            assert ["has lost 1 files" in note for note in anna.relisting.notes] == [True]

    trio.run(main)


def test_a_connection_that_breaks_in_the_middle_makes_nothing_twice(tmp_path: Path) -> None:
    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, _bert)):
            saved = await furnished(fleet, anna)
            for number in range(5):
                await anna.mkdir(f"made {number}")
                await anna.write(f"made {number}/file", b"%d" % number)
            expected = await fleet.settle()
            await fleet.put_back(saved)
            anna.line.cut_after = 6
            with pytest.raises(Offline):
                await anna.pull()
            anna.line.cut_after = None
            await anna.restart(keeps_cache=True)
            assert await fleet.settle() == expected

    trio.run(main)


def test_a_commit_on_the_way_when_the_server_is_put_back_is_made_once(tmp_path: Path) -> None:
    """Its answer is lost, and so is what it did."""

    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, _bert)):
            saved = await furnished(fleet, anna)
            await anna.write("changed", b"acknowledged")
            await send(anna)
            await anna.write("changed", b"sent")
            await anna.write("new", b"sent too")
            await anna.publish()
            anna.line.drops_replies = 100
            with pytest.raises(Offline):
                await anna.push()
            anna.line.drops_replies = 0
            await fleet.put_back(saved)
            tree = await fleet.settle()
            assert tree == {"kept": None, "kept/file": b"first", "changed": b"sent", "new": b"sent too"}

    trio.run(main)


@pytest.mark.parametrize("is_known", [True, False])
def test_what_is_written_to_a_removed_file_goes_over_no_other_content(tmp_path: Path, is_known: bool) -> None:
    """The number of the lost content that it was written over is another one's, and the removal comes to nothing."""

    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, bert)):
            saved = await furnished(fleet, anna)
            await anna.write("changed", b"lost")
            await fleet.settle()
            held = await bert.open_file("changed", os.O_WRONLY)
            bert.fs.write(held, 0, b"BERT")
            await bert.unlink("changed")
            await anna.write("changed", b"anna's")
            await send(anna)
            await fleet.put_back(saved, is_noticed=is_known)
            await anna.sync()
            await bert.sync()
            bert.fs.release(held)
            contents = set((await fleet.settle()).values())
            assert {b"anna's", b"BERT"} <= contents

    trio.run(main)


def test_what_is_made_again_is_sent_though_its_sending_began_before_all_was_compared(tmp_path: Path) -> None:
    """What was on its way then came to nothing: it was for another id."""

    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, _)):
            saved = await furnished(fleet, anna)
            await anna.write("new", b"acknowledged, and then lost")
            expected = await fleet.settle()
            make_again = anna.fs.offering.make_again

            async def taken_at_once(lost: InodeState, places: list[Standing]) -> bool:
                is_made = await make_again(lost, places)
                anna.publications.forced([lost.inode])
                assert anna.publications.take_due(9) == [lost.inode]
                return is_made

            anna.fs.offering.make_again = taken_at_once
            await fleet.put_back(saved, is_noticed=True)
            await anna.pull()
            assert anna.publications.is_on_its_way((await anna.known("new")).inode)
            assert await fleet.settle() == expected

    trio.run(main)


def test_ids_that_the_server_does_not_know_of_are_not_tried_one_after_the_other(tmp_path: Path) -> None:
    """It was put back to before it gave them, and nothing else tells: no commit of the device was lost."""

    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, _)):
            await furnished(fleet, anna)
            await fleet.served.ground.database.write(lambda connection: connection.execute(delete(schema.id_ranges)))
            await anna.mkdir("directory")
            await anna.write("directory/file", b"in it")
            await anna.write("new", b"beside it")
            tree = await fleet.settle()
            assert tree["directory/file"] == b"in it"
            assert tree["new"] == b"beside it"

    trio.run(main)
