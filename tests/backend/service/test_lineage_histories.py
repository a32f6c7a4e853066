"""Random saves of all kinds on a few names: no order of them breaks a lineage, and every content stays readable.

In the end, what nobody can come back to is let go, and nothing else.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.service.thinning import Thinning
from drivefs.protocol.changes import Base, Mutation, Status
from drivefs.protocol.history import EmptyTrashRequest, TrashRequest
from drivefs.protocol.ids import InodeId, Seq
from tests.backend.service import invariants
from tests.backend.service.drive import SECOND, Device, Drive, open_drive
from tests.backend.service.model import Model
from tests.support.examples import examples

NAMES = [b"doc", b"doc~", b"tmp"]
OPS = ["save", "save", "write", "move", "move", "move", "link", "unlink", "unlink", "restore", "wait"]


def draw_batch(data: st.DataObject, device: Device, model: Model, blocks: list[Any]) -> list[Mutation]:
    """One or more mutations of root's names, applied to the model as they are drawn; all of them can be done."""
    batch: list[Mutation] = []
    for _ in range(data.draw(st.integers(1, 3))):
        for mutation in draw_step(data, device, model, blocks):
            if model.copy().apply(mutation):
                model.apply(mutation)
                batch.append(mutation)
    return batch


def draw_step(data: st.DataObject, device: Device, model: Model, blocks: list[Any]) -> list[Mutation]:
    here = model.children(model.root)
    name, other = data.draw(st.permutations(NAMES))[:2]
    inode, replaced = InodeId(here.get(name, 0)), InodeId(here.get(other, 0))
    some = data.draw(st.lists(st.sampled_from(blocks), max_size=2))
    match data.draw(st.sampled_from(OPS)):
        case "save" if not inode:
            create = device.create(name)
            return [create, device.store(create.inode, some, Base(), after=[create])]
        case "write" if inode:
            return [device.store(inode, some, model.inodes[inode].bases[-1])]
        case "move" if inode and inode != replaced:
            base = model.inodes[replaced].bases[-1] if replaced else Base()
            return [device.rename(inode, name, other, replaced, base)]
        case "link" if inode and not replaced:
            return [device.link(inode, other)]
        case "unlink" if inode:
            return [device.unlink(inode, name, base=model.inodes[inode].bases[-1])]
        case "restore" if not inode:
            gone = [each for each in model.inodes if not model.lives(each)]
            return [device.restore(InodeId(data.draw(st.sampled_from(gone))), name)] if gone else []
        case "wait":
            device.drive.clock.ns += 40 * SECOND
    return []


async def check_contents(device: Device, model: Model) -> None:
    """Every content that an inode ever had is read by each number that it was given."""
    for inode, known in model.inodes.items():
        for base, content in zip(known.bases[1:], known.contents, strict=True):
            assert (await device.content(InodeId(inode), base.revision)).blocks == content
        if known.contents:
            state = await device.known(InodeId(inode))
            assert (await device.content(InodeId(inode), state.revision)).blocks == known.contents[-1] == state.blocks


async def check_what_is_let_go(device: Device, model: Model) -> None:
    """What has a name or lies in the trash stays whole; once all is removed for good, nothing takes room."""
    drive = device.drive
    await Thinning(drive.ground).thin()
    trash = (await drive.trash.list(device.caller, drive.workspace, TrashRequest())).entries
    for inode in {*map(int, model.children(model.root).values()), *(each.inode.inode for each in trash)}:
        if contents := model.inodes[inode].contents:
            state = await device.known(InodeId(inode))
            assert (await device.content(InodeId(inode), state.revision)).blocks == contents[-1]
    for name, inode in model.children(model.root).items():
        base = (await device.known(InodeId(inode))).revision
        assert await device.say(device.unlink(InodeId(inode), name, base=base)) == "ok"
    await drive.trash.empty(device.caller, drive.workspace, EmptyTrashRequest(until=Seq(2**62)))
    await Thinning(drive.ground).thin()
    assert (await drive.account()).stored_bytes == 0


@settings(max_examples=examples(40))
@given(st.data())
def test_random_saves(data: st.DataObject) -> None:
    async def run(drive: Drive) -> None:
        devices = [await drive.device(), await drive.device()]
        for device in devices:
            blocks = await drive.upload(device, b"one", b"two", b"three")
        model = Model(drive.root)
        for _ in range(data.draw(st.integers(1, 10))):
            device = data.draw(st.sampled_from(devices))
            batch = draw_batch(data, device, model, blocks)
            if batch:
                results = await device.send(*batch)
                assert {result.status for result in results} == {Status.OK}, (batch, results)
                model.settle(results)
        await check_contents(devices[0], model)
        await check_what_is_let_go(devices[0], model)
        await drive.database.read(invariants.check)

    async def opened(directory: Path) -> None:
        drive = await open_drive(directory)
        try:
            await run(drive)
        finally:
            drive.database.close()

    with TemporaryDirectory() as directory:
        anyio.run(opened, Path(directory), backend="trio")
