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


class Descriptors:
    """The calls of a device on which another program writes to `z` while its bytes are waited for."""

    def __init__(self) -> None:
        self.content = b"one"
        self.fs = self
        self._reads = 0

    async def tree(self) -> dict[str, InodeState]:
        return {"z": self.known(ONE)}

    async def open(self, path: str, flags: int) -> tuple[InodeId, int]:
        return ONE, 1

    async def read(self, number: int, offset: int, length: int) -> bytes:
        before, self._reads = self.content, self._reads + 1
        if self._reads == 2:
            self.content = b"other"
        return before

    def write(self, number: int, offset: int, data: bytes) -> None:
        self.content = self.content.ljust(offset, b"\0")[:offset] + data + self.content[offset + len(data) :]

    def known(self, inode: InodeId) -> InodeState:
        return InodeState(inode=inode, kind=InodeKind.FILE, mode=0o644, nlink=1)

    def has_name(self, inode: InodeId) -> bool:
        return True

    def number(self, inode: InodeId) -> int:
        return inode

    def meant(self, number: int) -> InodeId:
        return InodeId(number)

    async def sync(self, number: int) -> None: ...

    def release(self, number: int) -> None: ...


def test_what_a_removal_gives_up_is_what_the_name_led_to_in_the_end() -> None:
    names, ledger = Names(), Ledger()
    ledger.wrote("anna", b"one")
    ledger.wrote("anna", b"other")
    device: Any = SimpleNamespace(name="anna", calls=names)
    trio.run(Program(device, ledger, random.Random(1), lambda text: None).unlink)
    assert names.removed == OTHER
    assert ledger.owed() == {b"one"}


def test_what_is_written_over_is_what_is_there_when_all_of_it_was_read() -> None:
    calls, ledger = Descriptors(), Ledger()
    ledger.wrote("bert", b"one")
    ledger.wrote("bert", b"other")
    device: Any = SimpleNamespace(name="anna", calls=calls)
    trio.run(Program(device, ledger, random.Random(3), lambda text: None).edit)
    assert b"one" in ledger.owed()
    assert b"other" not in ledger.owed()
    assert ledger.led_to(b"other", calls.content)
