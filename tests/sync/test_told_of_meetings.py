"""Whoever knows a drive by what is told of it alone also knows it after changes of several devices have met."""

from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import pytest

from drivefs.sync.events import OVERFLOW, Event, Kind
from tests.sync.fleet import Device, sailing

pytestmark = pytest.mark.anyio

Change = Callable[[Device], Awaitable[object]]
LOOK = "what has been looked at since"


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


async def directory(device: Device, path: str, **files: bytes) -> None:
    await device.mkdir(path)
    for name, content in files.items():
        await device.write(f"{path}/{name}", content)


async def remove(device: Device, path: str, name: str) -> None:
    await device.unlink(f"{path}/{name}")
    await device.rmdir(path)


def a_file(device: Device) -> Awaitable[object]:
    return device.write("f.txt", b"0")


def a_directory(device: Device) -> Awaitable[object]:
    return directory(device, "d", a=b"0")


MEETINGS: dict[str, tuple[Change, Change, Change]] = {
    "edits": (a_file, lambda one: one.edit("f.txt", b"first"), lambda two: two.edit("f.txt", b"second")),
    "saves": (a_file, lambda one: one.save("f.txt", b"first"), lambda two: two.save("f.txt", b"second")),
    "edit and save": (a_file, lambda one: one.edit("f.txt", b"first"), lambda two: two.save("f.txt", b"second")),
    "creations": (a_directory, lambda one: one.write("n", b"first"), lambda two: two.write("n", b"second")),
    "renames": (a_file, lambda one: one.rename("f.txt", "one"), lambda two: two.rename("f.txt", "two")),
    "removal of what was edited": (a_file, lambda one: one.edit("f.txt", b"first"), lambda two: two.unlink("f.txt")),
    "directories": (
        a_file,
        lambda one: directory(one, "n", a=b"first", b=b"one"),
        lambda two: directory(two, "n", a=b"second", c=b"two"),
    ),
    "removal of what was filled": (
        a_directory,
        lambda one: one.write("d/b", b"first"),
        lambda two: remove(two, "d", "a"),
    ),
}


def follow(known: dict[str, object], told: Iterable[Event]) -> dict[str, object]:
    """What is known of a tree after events; of what they name it is known that one has to look."""
    for event in told:
        path, source = event.path.decode(), event.source.decode() if event.source is not None else None
        if event.kind is Kind.RENAMED and source is not None:
            moved = {p: c for p, c in known.items() if p == source or p.startswith(f"{source}/")}
            known = {p: c for p, c in known.items() if p not in moved}
            known |= {path + p.removeprefix(source): c for p, c in moved.items()}
        elif event.kind is Kind.REMOVED:
            known = {p: c for p, c in known.items() if p != path and not p.startswith(f"{path}/")}
        elif event.kind in (Kind.CREATED, Kind.CHANGED):
            known[path] = LOOK
    return known


@pytest.mark.parametrize(("before", "first", "second"), MEETINGS.values(), ids=MEETINGS)
async def test_events_tell_what_became_of_changes_that_met(
    tmp_path: Path, before: Change, first: Change, second: Change
) -> None:
    async with sailing(tmp_path, "first", "second") as (fleet, (one, two)):
        await before(one)
        await fleet.settle()
        await first(one)
        await second(two)
        known = await two.tree()
        await one.sync()
        with two.events.subscribed() as listener:
            tree = await fleet.settle()
            two.events.publish(OVERFLOW)  # the last
            known = follow(known, await listener.take())
        looked = [path for path, content in known.items() if content is LOOK]
        # Who is told that a directory is there looks at what is in it.
        seen = {path: content for path, content in tree.items() if any(f"{path}/".startswith(f"{p}/") for p in looked)}
        assert {path: content for path, content in known.items() if content is not LOOK} | seen == tree
