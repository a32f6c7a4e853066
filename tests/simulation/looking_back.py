"""What people do with the past while their devices work: they name moments, keep revisions, and bring things back.

Owns the choice of what is done, and what of it is a promise from then on (`promises`). What is answered with an error
promises nothing: it may have been done or not.
"""

import random
from collections.abc import Callable
from contextlib import aclosing

import trio

from drivefs.control import waiting
from drivefs.control.errors import Refused
from drivefs.control.rewinding import SENT_SECONDS
from drivefs.control.trash import TrashCan
from drivefs.fs.errors import Exists
from drivefs.protocol.history import TrashEntry
from drivefs.protocol.ids import NO_INODE, InodeId, Seq
from drivefs.protocol.model import BlockRef, InodeKind, pack_blocks
from tests.simulation.device import Device
from tests.simulation.ledger import Ledger
from tests.simulation.lives import Dead
from tests.simulation.promises import Promises
from tests.simulation.turns import REFUSALS


class LookingBack:
    """The user of one device."""

    def __init__(self, device: Device, ledger: Ledger, promises: Promises, note: Callable[..., None]) -> None:
        self._device = device
        self._ledger = ledger
        self._promises = promises
        self._note = note
        self._named = 0

    async def act(self, chance: random.Random) -> None:
        """Do one thing, if the drive is mounted."""
        device = self._device
        if not device.is_mounted or device.has_failed:
            return
        often = [self._name, self._name, self._keep, self._keep, self._restore, self._undelete]
        act = chance.choice([*often, self._unname, self._empty, self._empty, self._rewind])
        with trio.CancelScope() as scope:
            device.life.nursery.start_soon(device.life.cancel_at_end, scope)
            try:
                await act(chance)
            except (*REFUSALS, Refused, Exists, Dead) as error:
                self._note(device.name, act.__name__, "failed:", type(error).__name__)

    async def _name(self, chance: random.Random) -> None:
        self._named += 1
        name = f"{self._device.name}-{self._named}"
        made = await self._device.calls.fs.history.past.create_snapshot(name, 0)
        self._promises.snapshots[name] = made.seq
        self._note(self._device.name, "calls commit", made.seq, name)

    async def _unname(self, chance: random.Random) -> None:
        if self._promises.snapshots:
            name = chance.choice(sorted(self._promises.snapshots))
            # From now on it may be gone, whatever is answered.
            del self._promises.snapshots[name]
            self._note(self._device.name, "takes away the name", name)
            await self._device.calls.fs.history.past.delete_snapshot(name)

    async def _revision(self, chance: random.Random) -> tuple[InodeId, int, list[BlockRef]] | None:
        """One of those of some file, with its blocks."""
        tree = await self._device.calls.tree()
        files = sorted(path for path, state in tree.items() if state.kind is InodeKind.FILE)
        if not files:
            return None
        inode = tree[chance.choice(files)].inode
        history = self._device.calls.fs.history
        found = await history.of(inode)
        if not found:
            return None
        number = chance.choice(found).number
        return inode, number, await history.blocks(inode, number)

    async def _keep(self, chance: random.Random) -> None:
        chosen = await self._revision(chance)
        if chosen is None:
            return
        inode, number, refs = chosen
        history = self._device.calls.fs.history
        await history.keep(inode, number, is_kept=True)  # type: ignore[arg-type]
        # Meanwhile the name may have gone on with another history, which has the same numbers.
        if await history.blocks(inode, number) == refs and refs:  # type: ignore[arg-type]
            self._promises.kept[inode, number] = pack_blocks(refs)
            self._note(self._device.name, "keeps revision", number, "of", inode)

    async def _restore(self, chance: random.Random) -> None:
        chosen = await self._revision(chance)
        if chosen is None:
            return
        inode, number, refs = chosen
        fs = self._device.calls.fs
        before = await self._device.calls.read(inode)
        if fs.history.is_changed(inode):
            return
        fs.history.bring_back(inode, refs)
        self._note(self._device.name, "takes", inode, "back to revision", number)
        self._ledger.gave_up(before)
        self._promises.has_taken_back = True

    async def _rewind(self, chance: random.Random) -> None:
        """Take a directory, or all, back to a moment that has a name; what is there meanwhile may go."""
        device, drive, fs = self._device, self._device.drive, self._device.calls.fs
        tree = await device.calls.tree()
        path = chance.choice(["", *sorted(path for path, state in tree.items() if state.kind is InodeKind.DIRECTORY)])
        if not self._promises.snapshots or not await waiting.all_sent(drive.engine, device.local, SENT_SECONDS):
            return
        name = chance.choice(sorted(self._promises.snapshots))
        seq, inode = Seq(self._promises.snapshots[name]), tree[path].inode
        then = await fs.history.past.inode(inode, seq)
        if then.nlink:
            self._note(device.name, "takes", path, "back to", name)
            self._promises.has_taken_back = True
            await self._give_up(path)
            parent, _, last = path.rpartition("/")
            place = (device.calls.meant(tree[parent].inode), last.encode())
            first = self._seen()
            try:
                done = await fs.rewinding.rewind(place, then, seq, drive.kernel, _unheard)
            finally:
                self._promises.rewound.append((first, self._seen()))
            self._note(device.name, "took", path, "back:", done)

    def _seen(self) -> int:
        """The last commit that this device has heard of."""
        cursor = self._device.local.replica.cursor(self._device.login.workspace)
        return cursor.seq if cursor is not None else 0

    async def _give_up(self, path: str) -> None:
        """What is below a path has been seen, and is to go."""
        for below, state in (await self._device.calls.tree()).items():
            if state.kind is InodeKind.FILE and below.startswith(f"{path}/" if path else ""):
                self._ledger.gave_up(await self._device.calls.read(state.inode))

    async def _in_trash(self) -> list[TrashEntry]:
        async with aclosing(self._device.calls.fs.history.past.removed(NO_INODE)) as pages:
            return [each async for page in pages for each in page]

    def _can(self) -> TrashCan:
        drive = self._device.drive
        return TrashCan(self._device.calls.fs, drive.kernel, local=self._device.local, connection=drive.connection)

    async def _undelete(self, chance: random.Random) -> None:
        if entries := await self._in_trash():
            entry = chance.choice(entries)
            told = await self._can().restore({"path": entry.path or b"", "id": entry.inode.inode}, _unheard)
            self._note(self._device.name, "brings back", told["path"])

    async def _empty(self, chance: random.Random) -> None:
        """Let go what was removed first: from now on it may be gone, whatever is answered, and nothing else."""
        if entries := await self._in_trash():
            until = min(each.place.seq for each in entries)
            self._promises.emptied_until = max(self._promises.emptied_until, until)
            done = await self._can().empty({"until": until}, _unheard)
            self._note(self._device.name, "empties the trash up to", until, done)


async def _unheard(_: object, seconds: float = 0.0) -> None:
    """Nobody waits for the progress of a command."""
