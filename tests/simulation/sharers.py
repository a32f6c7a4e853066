"""What people do with shares while their devices work: they share, answer, change roles, leave, and end it.

Owns the choice of what is done. All of it goes the way of the commands: by a mount, or from a device to the server.
What is answered with an error may have been done or not.
"""

import random
from collections.abc import Callable
from typing import Any

import trio

from drivefs.control.errors import Refused
from drivefs.control.sharing import Sharing
from drivefs.protocol.model import InodeKind
from drivefs.protocol.sharing import AnswerRequest
from tests.simulation.device import Device
from tests.simulation.lives import Dead
from tests.simulation.server import USERS
from tests.simulation.turns import REFUSALS

ROLES = ("editor", "editor", "viewer")


class Sharer:
    """The user of one device."""

    def __init__(self, device: Device, note: Callable[..., None]) -> None:
        self._device = device
        self._note = note

    async def act(self, chance: random.Random) -> None:
        """Do one thing, if the drive is mounted."""
        device = self._device
        if not device.is_mounted or device.has_failed:
            return
        often = [self._answer] * 8 + [self._share] * 2
        act = chance.choice([*often, self._change_role, self._change_role, self._unshare, self._leave])
        with trio.CancelScope() as scope:
            device.life.nursery.start_soon(device.life.cancel_at_end, scope)
            try:
                await act(chance)
            except (*REFUSALS, Refused, Dead) as error:
                self._note(device.name, act.__name__, "failed:", type(error).__name__, error)

    @property
    def _commands(self) -> Sharing:
        drive = self._device.drive
        return Sharing(drive.filesystem, drive.ends, drive.engine)

    async def _roots(self, chance: random.Random, *, is_own: bool) -> str:
        """The path of a share, of the user's own or of another's; empty: there is none."""
        tree = await self._device.calls.tree()
        roots = self._device.local.shares.roots
        shares = {inode for inode, share in roots.items() if (share.role == "owner") is is_own}
        paths = sorted(path for path, state in tree.items() if state.inode in shares)
        return chance.choice(paths) if paths else ""

    async def _share(self, chance: random.Random) -> None:
        """Share a folder or a file, mostly a folder, that is not in a share already."""
        tree = await self._device.calls.tree()
        kinds = (InodeKind.DIRECTORY,) if chance.random() < 0.7 else (InodeKind.FILE,)
        shares = self._device.local.shares
        paths = sorted(p for p, each in tree.items() if p and each.kind in kinds and shares.of(each.inode) is None)
        if paths:
            await self._invite(chance.choice(paths), chance.choice(ROLES))

    async def _change_role(self, chance: random.Random) -> None:
        """Give another role to who is there, or ask again who is not any more."""
        if path := await self._roots(chance, is_own=True):
            await self._invite(path, chance.choice(ROLES))

    async def _invite(self, path: str, role: str) -> None:
        (other,) = (each for each in USERS if each != self._device.login.user)
        question = {"path": path.encode(), "user": other, "role": role}
        told = await self._commands.share(question, _unheard)
        self._note(self._device.name, "shares", path, "with", other, "as", role, "by", told["id"])

    async def _answer(self, chance: random.Random) -> None:
        remote = self._device.drive.ends.remote
        invitations = (await remote.invitations()).invitations
        if invitations:
            share, accept = chance.choice(invitations).share, chance.random() < 0.9
            request = AnswerRequest(op=self._device.drive.ends.operation(), share=share, accept=accept)
            await remote.answer(request)
            self._note(self._device.name, "accepts" if accept else "declines", share)

    async def _unshare(self, chance: random.Random) -> None:
        if path := await self._roots(chance, is_own=True):
            user = chance.choice([None, *(each for each in USERS if each != self._device.login.user)])
            await self._commands.unshare({"path": path.encode(), "user": user}, _unheard)
            self._note(self._device.name, "ends sharing", path, "with", user or "all")

    async def _leave(self, chance: random.Random) -> None:
        if path := await self._roots(chance, is_own=False):
            await self._commands.leave({"path": path.encode()}, _unheard)
            self._note(self._device.name, "leaves", path)


async def _unheard(_: Any) -> None:
    """Nobody waits for the progress of a command."""
