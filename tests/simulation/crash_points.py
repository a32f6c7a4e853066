"""Every moment of a run at which a machine could crash, and every disk that each could leave.

Owns what counts as a boundary: each sync, each change of names, each commit of a client's database, each request before
it arrives and after it was answered. Between two boundaries the disks change only by writes that no sync covers, and
all prefixes of these are among the images of the next boundary. Equal disks are tried once: `digest` says which are.
"""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import blake3
import httpx

from cache.database import Database
from tests.simulation.disk import (
    PAGE_BYTES,
    ROOT_ID,
    Image,
    Look,
    SimDisk,
    all_survives,
    content,
    nothing_survives,
)
from tests.sync.fleet import Line

UNFINISHED = "before "
WRITES = ("before write", "after write")


class Moment(NamedTuple):
    """The disks of all machines at a boundary; `machine` is where it lies, and `progress` what the run had noted."""

    what: str
    machine: str
    looks: dict[str, Look]
    progress: object
    before: dict[str, Look]


@dataclass
class Recorder:
    """Records the moments of a run, from `begin` on."""

    disks: dict[str, SimDisk]
    progress: object = None
    moments: list[Moment] = field(default_factory=list)
    is_on: bool = False
    _looks: dict[str, Look] = field(default_factory=dict)
    _before: dict[str, Look] = field(default_factory=dict)
    _stale: set[str] = field(default_factory=set)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Within it, moments are recorded once it has begun."""
        with ExitStack() as patched:
            for machine, disk in self.disks.items():
                disk.on_boundary = self._listener(machine)
            patched.enter_context(mock.patch.object(Database, "commit", self._committing(Database.commit)))
            patched.enter_context(
                mock.patch.object(Line, "handle_async_request", self._requesting(Line.handle_async_request))
            )
            self._stale = set(self.disks)
            yield
            for disk in self.disks.values():
                disk.on_boundary = None

    def begin(self) -> None:
        """Record from here on."""
        self.is_on = True
        self.moments.clear()
        self.note("begin", "")
        self._before = dict(self._looks)

    def note(self, what: str, machine: str) -> None:
        """A boundary at a machine."""
        if not self.is_on:
            return
        for stale in self._stale:
            self._looks[stale] = self.disks[stale].look()
        self._stale.clear()
        self.moments.append(Moment(what, machine, dict(self._looks), self.progress, self._before))

    def _listener(self, machine: str) -> Callable[[str], None]:
        def hear(what: str) -> None:
            if not what.startswith(UNFINISHED):
                self._stale.add(machine)
            if not what.startswith(WRITES):
                self.note(what, machine)

        return hear

    def _committing(self, commit: Callable[[Database], None]) -> Callable[[Database], None]:
        def committed(database: Database) -> None:
            commit(database)
            for machine, disk in self.disks.items():
                if not database.is_in_transaction and database.path.is_relative_to(disk.root):
                    self.note(f"committed {database.path.name}", machine)

        return committed

    def _requesting(self, handle: Callable[..., object]) -> Callable[..., object]:
        async def handled(line: Line, request: httpx.Request) -> object:
            self.note(f"before {request.url.path}", "network")
            reply = await handle(line, request)  # type: ignore[misc]
            self.note(f"answered {request.url.path}", "network")
            return reply

        return handled


def cuts(look: Look, before: Look) -> Iterator[Image]:
    """Disks that a power cut can leave.

    Of what was logged since `before` each prefix, also with its last page torn, and all but one page, while all else is
    there; and with all of the log or none of it: of other files everything, nothing, or only the first pages, and of
    names all or none.
    """
    changes, logged = look.changes(), dict(look.logged())
    log = list(logged)
    names = [change for change in changes if change.kind == "names"]
    others = [change for change in changes if change.kind != "names" and change not in logged]
    outcomes = [
        dict.fromkeys([*some_log, *some_others, *some_names], PAGE_BYTES)
        for some_log in (log, [])
        for some_others in (others, [], [change for change in others if not change.page])
        for some_names in (names, [])
    ]
    everything = dict.fromkeys(changes, PAGE_BYTES)
    known = set(before.logged()) if log else set()
    for count, page in enumerate(log):
        if (page, logged[page]) in known:
            continue
        prefix = {**everything, **dict.fromkeys(log[count:], 0)}
        outcomes += [prefix, {**prefix, page: PAGE_BYTES // 2}, {**everything, page: 0}]
    for kept in outcomes:
        yield look.image(lambda change, kept=kept: kept.get(change, 0))  # type: ignore[misc]


def killed(look: Look) -> Image:
    """The disk when only the process dies."""
    return look.image(all_survives)


def cut_short(look: Look) -> Image:
    """The disk of a power cut when nothing had been written that was not asked for."""
    return look.image(nothing_survives)


def digest(image: Image) -> bytes:
    """Tells images apart by names and bytes."""
    summed = blake3.blake3()
    waiting = [(ROOT_ID, "")]
    while waiting:
        number, path = waiting.pop()
        for name, child in sorted(image.names[number].items()):
            below = f"{path}/{name}"
            summed.update(b"%d %s " % (child, below.encode()))
            if child in image.names:
                waiting.append((child, below))
            else:
                summed.update(_digest_of(image.files[child]))
    return summed.digest()


def digest_below(place: Path) -> bytes:
    """Tells what is below a directory apart, by names, modes and bytes."""
    summed = blake3.blake3()
    waiting = [str(place)]
    while waiting:
        with os.scandir(waiting.pop()) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            mode, name = entry.stat(follow_symlinks=False).st_mode, os.fsencode(entry.path[len(str(place)) :])
            summed.update(b"%o %s " % (mode, name))
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            else:
                data = os.readlink(os.fsencode(entry.path)) if entry.is_symlink() else content(entry.path)
                summed.update(blake3.blake3(data).digest())
    return summed.digest()


@functools.lru_cache(maxsize=64)
def _digest_of(data: bytes) -> bytes:
    """Most files of an image are, as objects, those of the one before."""
    return blake3.blake3(data).digest()
