"""Random histories of two devices against a model: what is applied, every moment of the past, and the feed."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefs.protocol import messages
from drivefs.protocol.changes import Base, Mutation, Status
from drivefs.protocol.ids import InodeId, Seq
from drivefs.protocol.messages import Cursor
from drivefs.protocol.model import InodeKind, InodeState
from tests.backend.service import invariants
from tests.backend.service.drive import Device, Drive, open_drive
from tests.backend.service.model import Model
from tests.support.examples import examples

NAMES = st.sampled_from([b"a", b"b", b"c"])
KINDS = st.sampled_from([InodeKind.FILE, InodeKind.FILE, InodeKind.DIRECTORY, InodeKind.DIRECTORY, InodeKind.FIFO])
CONTENTS = [b"one", b"two", b"three"]
OPS = ["create", "create", "store", "rename", "rename", "unlink", "link", "exchange", "attributes", "xattr", "restore"]


class Author:
    """Draws mutations that are often right and sometimes not."""

    def __init__(self, data: st.DataObject, model: Model, blocks: list[Any]) -> None:
        self.data, self.model, self.blocks = data, model, blocks

    def inode(self, *, directories: bool = False) -> InodeId:
        known = [inode for inode in self.model.inodes if not directories or self.model.is_directory(inode)]
        return InodeId(self.data.draw(st.sampled_from(known)))

    def place(self) -> tuple[InodeId, bytes, InodeId]:
        """A name that is taken, if there is one, and what it leads to; now and then another inode."""
        if not self.model.names or self.data.draw(st.integers(0, 9)) == 0:
            return self.inode(directories=True), self.data.draw(NAMES), self.inode()
        parent, name = self.data.draw(st.sampled_from(sorted(self.model.names)))
        return InodeId(parent), name, InodeId(self.model.names[parent, name])

    def base(self, inode: int) -> Base:
        """The content that the inode has; now and then one that it had."""
        bases = self.model.inodes[inode].bases if inode else [Base()]
        return bases[-1] if self.data.draw(st.integers(0, 4)) else self.data.draw(st.sampled_from(bases))

    def draw(self, device: Device) -> Mutation | None:
        parent, name = self.inode(directories=True), self.data.draw(NAMES)
        taken_in, taken, inode = self.place()
        match self.data.draw(st.sampled_from(OPS)):
            case "create":
                return device.create(name, parent, self.data.draw(KINDS))
            case "link":
                return device.link(self.inode(), name, parent)
            case "restore":
                return device.restore(self.inode(), name, parent)
            case "unlink":
                return device.unlink(inode, taken, taken_in, self.base(inode))
            case "rename":
                replaced = InodeId(self.model.names.get((parent, name), 0))
                if (parent, name) == (taken_in, taken) or replaced == inode:
                    return None
                base = self.base(replaced)
                return device.rename(inode, taken, name, replaced, base, parent=taken_in, new_parent=parent)
            case "exchange":
                other_in, other_name, other = self.place()
                if (other_in, other_name) == (taken_in, taken) or other == inode:
                    return None
                return device.exchange(inode, taken, other, other_name, parent=taken_in, other_parent=other_in)
            case "attributes":
                return device.set_attributes(self.inode(), mode=self.data.draw(st.sampled_from([0o600, 0o755])))
            case "xattr":
                value = self.data.draw(st.sampled_from([None, b"", b"v"]))
                return device.set_xattr(self.inode(), self.data.draw(NAMES), value)
            case _:
                file = self.inode()
                return device.store(
                    file, self.data.draw(st.lists(st.sampled_from(self.blocks), max_size=4)), self.base(file)
                )


class Replica:
    """What a device makes of the feed."""

    def __init__(self) -> None:
        self.inodes: dict[int, InodeState] = {}
        self.names: dict[tuple[int, bytes], int] = {}

    def apply(self, page: messages.FeedPage) -> None:
        for state in page.inodes:
            known = self.inodes.get(state.inode)
            assert known is None or known.seq <= state.seq
            self.inodes[state.inode] = state
        for dentry in page.dentries:
            self.names.pop((dentry.parent, dentry.name), None)
            if dentry.inode:
                self.names[dentry.parent, dentry.name] = dentry.inode

    def check(self, model: Model) -> None:
        assert self.names == model.names
        assert {inode: model.seen(state) for inode, state in self.inodes.items()} == everything(model)


def everything(model: Model) -> dict[int, tuple[object, ...]]:
    return {inode: model.knows(inode) for inode in model.inodes}


async def commit_randomly(drive: Drive, data: st.DataObject) -> list[Model]:
    """Commit batches and hold each answer against the model; gives the model after each seq, from 1 on."""
    devices = [await drive.device(), await drive.device()]
    for device in devices:
        blocks = await drive.upload(device, *CONTENTS)
    model = Model(drive.root)
    history = [model.copy()]
    for _ in range(data.draw(st.integers(1, 8))):
        device = data.draw(st.sampled_from(devices))
        batch: list[Mutation] = []
        expected: list[bool] = []
        for _ in range(data.draw(st.integers(1, 8))):
            mutation = Author(data, model, blocks).draw(device)
            if mutation is not None:
                batch.append(mutation)
                expected.append(model.apply(mutation))
        if not batch:
            continue
        results = await device.send(*batch)
        assert [result.status is Status.OK for result in results] == expected, (batch, results)
        model.settle(results)
        if any(expected):
            history.append(model.copy())
    return history


async def check_past(drive: Drive, data: st.DataObject, history: list[Model]) -> None:
    device = await drive.device()
    for seq in data.draw(st.lists(st.integers(1, len(history)), max_size=4)):
        model = history[seq - 1]
        for directory in model.inodes:
            if model.holds(directory):
                assert await device.names(InodeId(directory), seq) == model.children(directory)
        request = messages.InodesRequest(inodes=[InodeId(each) for each in history[-1].inodes], as_of=Seq(seq))
        reply = await drive.listing.inodes(device.caller, drive.workspace, request)
        assert {state.inode: model.seen(state) for state in reply.inodes} == everything(model)
        assert all(state.seq <= seq for state in reply.inodes)


async def check_feed(drive: Drive, data: st.DataObject, history: list[Model]) -> None:
    device = await drive.device()
    replica = Replica()
    cursor = Cursor(incarnation=(await device.begin()).incarnation, seq=Seq(0))
    while True:
        followed = messages.WorkspaceCursor(workspace=drive.workspace, cursor=cursor)
        request = messages.ChangesRequest(cursors=[followed], limit=data.draw(st.integers(1, 20)))
        pages = (await drive.changes.read(device.caller, request)).pages
        if not pages:
            break
        replica.apply(pages[0])
        replica.apply(pages[0])
        cursor = pages[0].cursor
        replica.check(history[cursor.seq - 1])
    assert cursor.seq == len(history)


@settings(max_examples=examples(40))
@given(st.data())
def test_random_histories(data: st.DataObject) -> None:
    async def run(directory: Path) -> None:
        drive = await open_drive(directory)
        try:
            history = await commit_randomly(drive, data)
            await check_past(drive, data, history)
            await check_feed(drive, data, history)
            await drive.database.read(invariants.check)
        finally:
            drive.database.close()

    with TemporaryDirectory() as directory:
        anyio.run(run, Path(directory), backend="trio")
