"""Whatever a device may send is answered: no mutation that can be decoded makes a commit fail."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivefs.protocol import changes, wire
from drivefs.protocol.changes import FINAL, Base, Mutation
from drivefs.protocol.ids import OpNumber
from drivefs.protocol.model import InodeKind, pack_blocks, run_id
from tests.backend.service import invariants
from tests.backend.service.drive import DIRECTORY, Drive, open_drive
from tests.support.examples import examples

EXTREMES = [-(2**63), -1, 0, 1, 2**20, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]


def mutations(known: list[int], ids: list[int], run: bytes) -> st.SearchStrategy[Any]:
    """Anything of the right types: known ids among unknown ones, sensible values among senseless ones."""
    number = st.sampled_from([*EXTREMES, 7])
    inode = st.sampled_from(known) | st.sampled_from(ids) | number
    name = st.sampled_from([b"f", b"d", b"new", b"", b"..", b"a/b", b"x" * 256])
    base = st.builds(Base, revision=number, revision_op=number)
    owner = st.none() | number
    text = st.binary(max_size=3) | st.just(b"x" * 70_000)
    packed = st.sampled_from([run, b"", b"y" * 36, b"z" * 35])
    every: dict[str, Any] = {"n": st.just(OpNumber(1)), "after": st.lists(number, max_size=2), "time_ns": number}
    place = {"parent": inode, "name": name}
    shapes: list[tuple[Any, dict[str, Any]]] = [
        (
            changes.Create,
            {
                **place,
                "kind": st.sampled_from(InodeKind),
                "mode": number,
                "uid": owner,
                "gid": owner,
                "rdev": number,
                "target": text,
            },
        ),
        (changes.Link, place),
        (changes.Unlink, {**place, "base": base}),
        (changes.Rename, {**place, "new_parent": inode, "new_name": name, "replaced": inode, "base": base}),
        (changes.Exchange, {**place, "other_parent": inode, "other_name": name, "other": inode}),
        (
            changes.SetAttributes,
            {
                "mode": owner,
                "uid": owner,
                "gid": owner,
                "own_uid": st.booleans(),
                "own_gid": st.booleans(),
                "atime_ns": owner,
                "mtime_ns": owner,
            },
        ),
        (changes.SetXattr, {"name": text, "value": st.none() | text}),
        (
            changes.Store,
            {
                "base": base,
                "size": st.just(4) | number,
                "runs": st.lists(st.sampled_from([run_id(run), b"", b"r" * 32]), max_size=3),
                "new_runs": st.lists(packed, max_size=2),
                "mtime_ns": number,
            },
        ),
        (changes.Restore, place),
    ]
    return st.one_of(*(st.builds(kind, **every, inode=inode, **fields) for kind, fields in shapes))


async def send(drive: Drive, data: st.DataObject) -> None:
    device = await drive.device()
    known = [drive.root, await device.save(b"f", b"old"), await device.make(b"d", kind=DIRECTORY)]
    blocks = await drive.upload(device, b"data")
    strategy = mutations(known, [device.new_inode(), device.new_inode()], pack_blocks(blocks))
    batch = data.draw(st.lists(strategy, min_size=1, max_size=6))
    for mutation in batch:
        device.n += 1
        mutation.n = OpNumber(device.n)
    sent: list[Mutation] = [wire.decode_mutation(wire.encode(mutation)) for mutation in batch]
    results = await device.send(*sent)
    assert [result.n for result in results] == [mutation.n for mutation in sent]
    # WIRE.md: final answers are given again, unchanged; what is none is judged anew, and may be one by then.
    for _ in sent:
        again = await device.send(*sent)
        assert [after for before, after in zip(results, again, strict=True) if before.status in FINAL] == [
            before for before in results if before.status in FINAL
        ]
        results = again
    assert await device.send(*sent) == results
    await drive.database.read(invariants.check)


@pytest.mark.fault(56)
@settings(max_examples=examples(60))
@given(st.data())
def test_any_input_is_answered_and_breaks_nothing(data: st.DataObject) -> None:
    async def run(directory: Path) -> None:
        drive = await open_drive(directory)
        try:
            await send(drive, data)
        finally:
            drive.database.close()

    with TemporaryDirectory() as directory:
        anyio.run(run, Path(directory), backend="trio")
