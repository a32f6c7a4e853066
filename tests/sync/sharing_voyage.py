"""Two users with two devices each, who share and change at random: names, contents, roles, and who is a member.

Owns what they do, by seed, and what must hold when all have sent and heard everything: the devices of a user show the
same, both users show the same of what they share, nothing that was accepted is lost, and each state passes the local
check. In a storm the network breaks in the middle of what a device sends and hears, answers are lost, and devices die
right then, or while they are cut off. Nobody's file system is mounted. More seeds than the tests run:
`python -m tests.sync.sharing_voyage FIRST LAST [storm]`.
"""

import random
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio
import trio.testing

from drivefs.fs.errors import FileSystemError
from drivefs.protocol import links, messages, routes, wire
from drivefs.protocol.errors import Code
from drivefs.protocol.ids import InodeId
from drivefs.protocol.sharing import AnswerRequest, ShareInfo, ShareRequest, UnshareRequest
from drivefs.remote.errors import Offline, Refused
from drivefs.sync.amends import Amends
from drivefs.sync.contents import Shown
from drivefs.sync.giving_up import GivingUp
from drivefs.sync.renaming import Labels
from tests.backend.api.served import PASSWORD, USER
from tests.sync import fleet
from tests.sync.accepted import Accepted, readable
from tests.sync.fleet import Fleet, sailing
from tests.sync.stand_ins import NotServed

MEMBER = "bert"
FOLDER, FILE = "S", "one"
"""What is shared: a folder, and a file by itself, each at the root of every drive, where nobody moves it for good."""
NAMES = "abcdefg"
ROUNDS = 4


class Device(fleet.Device):
    """A device that gives up what the server will never take, and finds doors closed that were open."""

    token = ""
    has_session = False

    async def open(self) -> None:
        await super().open()
        self.has_session = False
        self._listed: set[InodeId] = set()
        shown = Shown(self.fs, self.kernel)
        labels = Labels(device=self.name, today=lambda: "2026-11-22")
        amends = Amends(self.local, self.root, contents=self.fs.contents, shown=shown, labels=labels)
        self.giving_up = GivingUp(self.ends, amends, shown, contents=self.fs.contents, publications=self.publications)
        self.publisher.refused = self.giving_up.refused

    async def begin(self) -> None:
        await super().begin()
        self.has_session = True

    @asynccontextmanager
    async def _online(self) -> AsyncIterator[None]:
        """With a session, and a new one where the network broke."""
        try:
            if not self.has_session:
                await self.begin()
            yield
        except Offline:
            self.has_session = False
            raise

    async def _list_shares(self) -> None:
        """What came with a share is listed in the background."""
        roots = set(self.local.shares.roots)
        if roots - self._listed:
            await readable(self)
        self._listed = roots

    async def push(self) -> bool:
        async with self._online():
            return await super().push()

    async def publish(self) -> None:
        try:
            await super().publish()
        except Refused as error:
            if error.code not in (Code.FORBIDDEN, Code.NOT_FOUND):
                raise

    async def pull(self) -> bool:
        async with self._online():
            is_new, before = await super().pull(), self.giving_up.count
            await self._list_shares()
            await self.giving_up.work(trio.Lock())
            return is_new or self.giving_up.count > before


class Voyage:
    """One run; the first two devices are the owner's."""

    def __init__(self, sailed: Fleet, seed: int) -> None:
        self.fleet = sailed
        self._accepted = Accepted(sailed)
        self.devices: list[Device] = []
        self._random = random.Random(seed)
        self._seed = seed
        self._step = 0
        self._roots: dict[str, InodeId] = {}
        self._shares: dict[str, Any] = {}
        self._members: dict[str, bool] = {}

    async def add(self, user: str, name: str) -> Device:
        request = messages.LoginRequest(user=user, password=PASSWORD, device=name)
        reply = await self.fleet.served.post(routes.LOGIN, request, token="")
        token = wire.decode(reply.reply, messages.LoginReply).token
        device = Device(name, self.fleet.place / name, token, self.fleet.served.asgi)
        device.token = token
        device.place.mkdir()
        await device.open()
        await device.begin()
        self.devices.append(device)
        self.fleet.devices.append(device)
        return device

    async def _ask(self, device: Device, route: str, request: Any) -> Any:
        reply = await self.fleet.served.post(route, request, token=device.token)
        assert reply.status == 200, reply.reply
        return reply

    # -- who shares --------------------------------------------------------------------------------------------------

    async def invite(self, name: str, role: str = "editor") -> None:
        owner = self.devices[0]
        request = ShareRequest(inode=self._roots[name], user=MEMBER, role="viewer" if role == "viewer" else "editor")
        self._shares[name] = (await self._ask(owner, routes.SHARE, request)).message(ShareInfo).share

    async def answer(self, name: str, *, accept: bool) -> None:
        await self._ask(self.devices[2], routes.ANSWER, AnswerRequest(share=self._shares[name], accept=accept))
        self._members[name] = accept

    async def begin(self) -> None:
        owner = self.devices[0]
        await owner.mkdir(FOLDER)
        await owner.mkdir(f"{FOLDER}/d")
        for path in (FILE, f"{FOLDER}/f", f"{FOLDER}/d/g"):
            await owner.write(path, path.encode())
        await owner.link(f"{FOLDER}/f", "outside")
        await owner.sync()
        for name in (FOLDER, FILE):
            self._roots[name] = (await owner.known(name)).inode
            await self.invite(name)
            await self.answer(name, accept=True)
        await self.sync()

    async def sync(self) -> None:
        for device in self.devices:
            await device.sync()

    async def _member_comes_or_goes(self, device: Device) -> None:
        name, chance = self._random.choice([FOLDER, FILE]), self._random.random()
        if not self._members[name]:
            await self.invite(name)
            if chance < 0.8:
                await self.answer(name, accept=chance < 0.6)
        elif chance < 0.6:
            await self._ask(self.devices[0], routes.UNSHARE, UnshareRequest(share=self._shares[name], user=MEMBER))
            self._members[name] = False
        else:
            await self.answer(name, accept=False)

    async def _role_changes(self, device: Device) -> None:
        name = self._random.choice([FOLDER, FILE])
        if self._members[name]:
            await self.invite(name, self._random.choice(["editor", "viewer"]))

    async def _link(self, device: Device) -> None:
        owner = self.devices[0]
        state = await owner.find(f"{FOLDER}/f")
        if state is not None and state.revision:
            request = links.CreateLinkRequest(inode=state.inode, expires_ns=0, password="")
            await self.fleet.served.post(routes.CREATE_LINK, request, token=owner.token)

    # -- what programs do --------------------------------------------------------------------------------------------

    async def _look(self, device: Device) -> tuple[list[str], list[str], str]:
        """What there is in the folder, the files of it, and a path in it that may be free."""
        tree = await device.tree()
        inside = [path for path in tree if path.startswith(f"{FOLDER}/")]
        directories = [FOLDER] * (FOLDER in tree) + [path for path in inside if tree[path] is None]
        parent = self._random.choice(directories or [""])
        path = f"{parent}/{self._random.choice(NAMES)}".lstrip("/")
        return inside, [path for path in inside if tree[path] is not None], path

    def _content(self) -> bytes:
        return b"%d-%d" % (self._seed, self._step)

    async def _write(self, device: Device) -> None:
        await device.write((await self._look(device))[2], self._content())

    async def _make(self, device: Device) -> None:
        await device.mkdir((await self._look(device))[2])

    async def _move(self, device: Device) -> None:
        inside, _, path = await self._look(device)
        if inside and not _is_below(path, moved := self._random.choice(inside)):
            await device.rename(moved, path)

    async def _exchange(self, device: Device) -> None:
        inside, _, _ = await self._look(device)
        if len(inside) > 1:
            first, second = self._random.sample(inside, 2)
            if not _is_below(first, second) and not _is_below(second, first):
                await device.exchange(first, second)

    async def _remove(self, device: Device) -> None:
        inside, files, _ = await self._look(device)
        directories = [path for path in inside if path not in files]
        if files and self._random.random() < 0.6:
            await device.unlink(self._random.choice(files))
        elif directories:
            await device.remove_tree(self._random.choice(directories))

    async def _save(self, device: Device) -> None:
        _, files, path = await self._look(device)
        if files and self._random.random() < 0.6:
            await device.save(self._random.choice(files), self._content())
        elif files:
            await device.link(self._random.choice(files), path)

    async def _save_the_file(self, device: Device) -> None:
        """A file that is shared by itself: written to, replaced, or moved aside and written anew."""
        way = self._random.random()
        if await device.find(FILE) is None:
            return
        if way < 0.3:
            await device.write(FILE, self._content())
        elif way < 0.6:
            await device.save(FILE, self._content())
        else:
            aside = FILE + self._random.choice(["~", ".old", " as it was"])
            await device.rename(FILE, aside)
            await device.write(FILE, self._content())
            if " " in aside or way < 0.8:
                await device.unlink(aside)

    async def _carry_out(self, device: Device) -> None:
        inside, _, _ = await self._look(device)
        if inside:
            await device.rename(self._random.choice(inside), f"out{self._random.choice(NAMES)}")

    async def _move_the_folder(self, device: Device) -> None:
        if await device.find(FOLDER) is not None:
            await device.rename(FOLDER, "T")
            await device.rename("T", FOLDER)

    async def _restart(self, device: Device) -> None:
        await device.restart(keeps_cache=self._random.random() < 0.7)

    async def _send_or_hear(self, device: Device) -> None:
        await self._random.choice([device.sync, device.push, device.pull])()

    # -- the storm ---------------------------------------------------------------------------------------------------

    async def _break_off(self, device: Device) -> None:
        """The network goes in the middle; it comes back soon, later, or when the device has died of something else."""
        if device.line.is_down:
            await self._reconnect(device)
        device.line.cut(after=self._random.randrange(12), loses_last=self._random.random() < 0.5)
        with suppress(Offline):
            await self._send_or_hear(device)
        then = self._random.random()
        if then < 0.4:
            await self._restart(device)
        elif then < 0.7:
            await self._reconnect(device)

    async def _reconnect(self, device: Device) -> None:
        device.line.mend()
        await device.begin()

    async def _lose_answers(self, device: Device) -> None:
        device.line.drops_replies = self._random.randint(1, 3)

    def is_struck(self) -> bool:
        return self._random.random() < 0.3

    async def storm(self) -> None:
        """What happens to one of them."""
        device = self._random.choice(self.devices)
        kinds = (self._break_off, self._break_off, self._reconnect, self._reconnect, self._lose_answers)
        with suppress(FileSystemError, NotServed, Offline):
            await self._random.choice(kinds)(device)

    async def step(self) -> None:
        """One of them does something, or is told that it may not."""
        self._step += 1
        kinds: list[tuple[int, Callable[[Device], Awaitable[None]]]] = [
            (22, self._write), (7, self._make), (12, self._move), (3, self._exchange), (12, self._remove),
            (10, self._save), (5, self._save_the_file), (2, self._carry_out), (2, self._move_the_folder),
            (3, self._restart), (6, self._member_comes_or_goes), (4, self._role_changes), (1, self._link),
            (16, self._send_or_hear),
        ]  # fmt: skip
        device = self._random.choice(self.devices)
        (chosen,) = self._random.choices([each for _, each in kinds], [weight for weight, _ in kinds])
        with suppress(FileSystemError, NotServed, Offline):
            if chosen in (self._send_or_hear, self._restart, self._member_comes_or_goes, self._role_changes):
                await chosen(device)
            else:
                await self._accepted.during(device, chosen)

    # -- what must hold ----------------------------------------------------------------------------------------------

    async def end(self) -> None:
        for device in self.devices:
            await self._reconnect(device)
        for name, is_member in self._members.items():
            await self.invite(name)
            if not is_member:
                await self.answer(name, accept=True)
        for _ in range(ROUNDS):
            await self.sync()
        one, two, three, four = [await device.tree() for device in self.devices]
        assert one == two, f"the owner's devices differ: {_different(one, two)}"
        assert three == four, f"the member's devices differ: {_different(three, four)}"
        places = [path for path in three if "/" not in path and three[path] is None]
        owners = _below(one, FOLDER)
        assert any(_below(three, place) == owners for place in places), f"they share {owners}, and not {three}"
        lost = await self._accepted.lost()
        assert not lost, f"nowhere any more: {lost}"


def _is_below(path: str, directory: str) -> bool:
    """Whether a move would put a directory below itself, which the kernel passes on to no file system."""
    return f"{path}/".startswith(f"{directory}/")


def _below(tree: dict[str, object], top: str) -> dict[str, object]:
    return {path[len(top) + 1 :]: content for path, content in tree.items() if path.startswith(f"{top}/")}


def _different(one: dict[str, object], two: dict[str, object]) -> dict[str, object]:
    paths = one.keys() | two.keys()
    return {path: (one.get(path, "-"), two.get(path, "-")) for path in paths if one.get(path, 0) != two.get(path, 0)}


async def voyage(place: Path, seed: int, steps: int = 60, is_stormy: bool = False) -> None:
    """One run by one seed."""
    async with sailing(place) as (sailed, _):
        await sailed.served.services.accounts.add_user(MEMBER, PASSWORD)
        made = Voyage(sailed, seed)
        for user, name in ((USER, "a1"), (USER, "a2"), (MEMBER, "b1"), (MEMBER, "b2")):
            await made.add(user, name)
        await made.begin()
        for _ in range(steps):
            await made.step()
            if is_stormy and made.is_struck():
                await made.storm()
        await made.end()


def main(first: int, last: int, is_stormy: bool) -> int:
    """Run many, and name those that fail."""
    failed = []
    for seed in range(first, last):
        with tempfile.TemporaryDirectory() as place:
            try:
                trio.run(voyage, Path(place), seed, 60, is_stormy, clock=trio.testing.MockClock(autojump_threshold=0))
            except Exception as error:
                failed.append(seed)
                print(seed, type(error).__name__, str(error)[:600], flush=True)
    print(f"{last - first - len(failed)} of {last - first} passed; failed: {failed}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] == ["storm"]) > 0)
