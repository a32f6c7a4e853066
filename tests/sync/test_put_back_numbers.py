"""Devices whose server was put back to an older state: ids and numbers of the lost history mean nothing in the other.

What has them there anew is another thing: it is not removed, written over, or taken for what had them before.
"""

import os
from pathlib import Path

import pytest
import trio

from cache.journal import RowState
from drivefs.protocol.messages import FeedPage
from drivefs.remote.errors import Offline
from tests.sync.fleet import sailing
from tests.sync.test_put_back import furnished, send

pytestmark = pytest.mark.fault(40)


@pytest.mark.parametrize("is_known", [True, False])
def test_a_directory_that_was_taken_for_another_one_and_is_there_again_is_itself(
    tmp_path: Path, is_known: bool
) -> None:
    """It was removed elsewhere, and what was made in it went to the one of its name; the server has the first again."""

    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, bert)):
            saved = await furnished(fleet, anna)
            await anna.unlink("kept/file")
            await anna.rmdir("kept")
            await anna.mkdir("kept")
            await anna.sync()
            await bert.write("kept/new", b"in the first one")
            await fleet.settle()
            await bert.write("kept/second", b"in the one that stands for it")
            await fleet.put_back(saved, is_noticed=is_known)
            tree = await fleet.settle()
            assert {"in the first one", "in the one that stands for it"} <= {
                content.decode() for content in tree.values() if isinstance(content, bytes)
            }
            await bert.write("kept/third", b"in what it shows")
            tree = await fleet.settle()
            assert tree["kept/third"] == b"in what it shows"

    trio.run(main)


@pytest.mark.parametrize("is_known", [True, False])
def test_a_lost_directory_is_made_beside_a_file_that_has_its_name_again(tmp_path: Path, is_known: bool) -> None:
    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, _bert)):
            saved = await furnished(fleet, anna)
            await anna.unlink("changed")
            await anna.mkdir("changed")
            await anna.write("changed/in it", b"in it")
            await fleet.settle()
            await fleet.put_back(saved, is_noticed=is_known)
            tree = await fleet.settle()
            assert tree["changed"] == b"before"
            assert b"in it" in tree.values()
            assert not [path for path in tree if path.startswith(".drivefs")]

    trio.run(main)


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("writes", [False, True])
def test_what_is_open_shows_the_content_that_has_the_number_of_a_lost_one(
    tmp_path: Path, is_known: bool, writes: bool
) -> None:
    """As long as it was, too. What is written through a descriptor that has seen the lost one goes over no other."""

    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, bert)):
            saved = await furnished(fleet, anna)
            await anna.write("changed", b"lost!!")
            await fleet.settle()
            held = await bert.open_file("changed", os.O_RDWR if writes else os.O_RDONLY)
            assert await bert.fs.read(held, 0, 100) == b"lost!!"
            for device in (anna, bert):
                await device.local.blocks.clear()
            await fleet.put_back(saved, is_noticed=is_known)
            await anna.pull()
            await anna.write("changed", b"found!")
            await anna.sync()
            await bert.pull()
            if writes:
                bert.fs.write(held, 0, b"bert's")
            else:
                assert await bert.fs.read(held, 0, 100) == b"found!"
            bert.fs.release(held)
            tree = await fleet.settle()
            assert tree["changed"] == b"found!"
            assert (b"bert's" in tree.values()) is writes

    trio.run(main)


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("is_refused", [True, False])
def test_a_removal_of_a_lost_file_removes_nothing_that_has_its_id_again(
    tmp_path: Path, is_known: bool, is_refused: bool
) -> None:
    """It was removed as it was first; the ids that were given out since are given out once more."""

    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert") as (fleet, (anna, bert)):
            saved = await furnished(fleet, anna)
            await anna.write("new", b"first")
            await fleet.settle()
            await bert.unlink("new")
            await anna.write("new", b"first and second")
            await send(anna)
            if is_refused:
                await bert.push()
                assert bert.refusals.are_waiting

            async def with_the_same_ids(page: FeedPage) -> None:
                await anna.relisting.begin(page)
                anna.committer.begin_again()
                await anna.session.open()
                await anna.relisting.run()

            anna.begin_again = with_the_same_ids  # type: ignore[method-assign]
            await anna.pull()
            await fleet.put_back(saved, is_noticed=is_known)
            lost = (await anna.known("new")).inode
            await anna.sync()
            assert (await anna.known("new")).inode == lost
            assert (await fleet.settle())["new"] == b"first and second"

    trio.run(main)


def test_nothing_is_sent_before_it_is_known_where_the_other_history_stands(tmp_path: Path) -> None:
    """It would go out with ids of before, and past what the server has lost once more."""

    async def main() -> None:
        async with sailing(tmp_path, "anna") as (fleet, (anna,)):
            saved = await furnished(fleet, anna)
            await anna.write("new", b"lost")
            expected = await fleet.settle()
            await fleet.put_back(saved)
            page = (await anna.follower.poll(0.0)).lost
            assert page is not None
            await anna.relisting.begin(page)
            with pytest.raises(Offline):
                await anna.push()
            assert not [row for row in anna.local.journal.unsettled(9) if row.state is RowState.SENT]
            anna.session.has_void_ids = True
            await anna.session.open()
            await anna.relisting.run()
            assert await fleet.settle() == expected

    trio.run(main)


def test_a_refused_removal_of_a_lost_content_removes_no_other_one(tmp_path: Path) -> None:
    async def main() -> None:
        async with sailing(tmp_path, "anna", "bert", "carl") as (fleet, (anna, bert, carl)):
            saved = await furnished(fleet, anna)
            await carl.write("changed", b"carl's, and lost")
            await carl.sync()
            await bert.pull()
            await carl.write("changed", b"carl's once more, and lost")
            await carl.sync()
            await bert.unlink("changed")
            await bert.push()
            assert bert.refusals.are_waiting
            await fleet.put_back(saved, is_noticed=True)
            await anna.write("changed", b"anna's")
            await anna.sync()
            assert (await fleet.settle())["changed"] == b"anna's"

    trio.run(main)
