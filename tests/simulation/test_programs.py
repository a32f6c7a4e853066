"""What the programs of a simulation enter in the ledger: only of what really goes."""

import random
from types import SimpleNamespace
from typing import Any

import trio

from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind, InodeState
from tests.simulation.ledger import Ledger
from tests.simulation.programs import Program

ONE, OTHER = InodeId(2**21), InodeId(2**21 + 1)


class Names:
    """The calls of a device on which `z` leads to another file while it is read for the first time."""

    def __init__(self) -> None:
        self._inode = ONE
        self.removed = InodeId(0)

    async def tree(self) -> dict[str, InodeState]:
        return {"z": InodeState(inode=self._inode, kind=InodeKind.FILE, mode=0o644)}

    async def find(self, path: str) -> InodeState:
        return (await self.tree())[path]

    async def read(self, inode: InodeId) -> bytes:
        self._inode = OTHER
        return b"one" if inode == ONE else b"other"

    def shown(self, path: str) -> InodeId:
        return self._inode

    async def unlink(self, path: str) -> None:
        self.removed = self._inode


def test_what_a_removal_gives_up_is_what_the_name_led_to_in_the_end() -> None:
    names, ledger = Names(), Ledger()
    ledger.wrote("anna", b"one")
    ledger.wrote("anna", b"other")
    device: Any = SimpleNamespace(name="anna", calls=names)
    trio.run(Program(device, ledger, random.Random(1), lambda text: None).unlink)
    assert names.removed == OTHER
    assert ledger.owed() == {b"one"}
