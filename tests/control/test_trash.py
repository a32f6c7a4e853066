"""What a mount tells of the trash: of all that is in it, however much."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import trio

from drivefs.control import frames
from drivefs.control.trash import TrashCan
from drivefs.fs.filesystem import FileSystem
from drivefs.protocol.history import TrashEntry, TrashPlace
from drivefs.protocol.ids import InodeId, Seq
from drivefs.protocol.model import InodeKind, InodeState

PAGE, PAGES = 500, 10


async def removed(_parent: InodeId) -> AsyncIterator[list[TrashEntry]]:
    place = TrashPlace(seq=Seq(1), parent=InodeId(1), name=b"x" * 255)
    state = InodeState(inode=InodeId(2), kind=InodeKind.FILE, mode=0o644, nlink=0)
    for _ in range(PAGES):
        yield [TrashEntry(inode=state, place=place, time_ns=1, path=b"y" * 3500)] * PAGE


def test_no_answer_is_longer_than_what_a_command_takes() -> None:
    lengths, entries = list[int](), list[Any]()

    async def report(progress: Any, seconds: float = 0.0, /) -> None:
        lengths.append(len(frames.encode({"progress": progress})))
        entries.extend(progress)

    async def main() -> None:
        filesystem = SimpleNamespace(history=SimpleNamespace(past=SimpleNamespace(removed=removed)))
        here: Any = SimpleNamespace(journal=SimpleNamespace(pending_count=0), reach=SimpleNamespace(online=True))
        can = TrashCan(cast(FileSystem, filesystem), here, local=here, connection=here)
        await report(await can.show({}, report))

    trio.run(main)
    assert len(entries) == PAGE * PAGES
    assert sum(lengths) > frames.MAX_FRAME_BYTES
    assert max(lengths) <= frames.MAX_FRAME_BYTES
