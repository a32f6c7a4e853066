"""The disk of one machine: what survives when its power fails, or its process dies, at any moment.

Owns a directory with real files, and for each file its bytes as of the last sync, for each directory its names as of
the last sync. A cut persists, drops or tears, each for itself, the 4 KiB pages in which a file differs from what was
synced, its size, and each change of names (a rename is one change). Only what a sync covered is sure. Of several
writes to one page between two syncs, a cut leaves the last or none, or the first sectors of the last: in files that
grow by appending, and all of ours do, that is every prefix.

The code under test is not changed for this and cannot go around it: it works on the real files, and `interception`
tells this module of every sync, whoever made it. That includes both SQLite libraries, the one under the client's
databases (through APSW's VFS) and the one under the server's (through a VFS in its own library), so databases crash by
the same model as all other files: their logs are torn in the middle of frames, their main files in the middle of
checkpoints. Only `-shm` is left out: it is memory, and no cut leaves any of it.

Also owned: full disks, syncs that fail, rot, and going back to an older state of the disk. Invariant: all that is
drawn is drawn from `chance`.
"""

import errno
import functools
import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from cache import workspace

PAGE_BYTES = 4096
SECTOR_BYTES = 512
MEMORY_SUFFIX = "-shm"
ROOT_ID = 0
NOTHING = 0
ALONE = nullcontext()
NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

Names = dict[str, int]
Move = list[tuple[int, str, int, int]]
"""Names that change together: directory, name, the file before and after (-1: none)."""


class Change(NamedTuple):
    """Something that was done and not synced: a page of a file, its size, or names that change together."""

    kind: str
    path: str
    page: int = 0


Survival = Callable[[Change], int]
"""How many bytes of a page survive, in whole sectors from its beginning; of sizes and names, whether they do."""


def all_survives(_change: Change) -> int:
    """What the death of a process leaves, or a disk that had just finished."""
    return PAGE_BYTES


def nothing_survives(_change: Change) -> int:
    """What a disk leaves that had not begun."""
    return NOTHING


@dataclass(frozen=True)
class Image:
    """A whole disk, by ids: the names of each directory, and the bytes of each file."""

    names: dict[int, Names]
    files: dict[int, bytes]


@dataclass
class _Known:
    """What this disk knows of the files below its root: which number is which, and what of each is synced."""

    ids: dict[int, int] = field(default_factory=dict)
    names: dict[int, Names] = field(default_factory=dict)
    files: dict[int, bytes] = field(default_factory=dict)
    failed: dict[int, bytes] = field(default_factory=dict)
    """The bytes that a failed sync did not write; the kernel takes them for written."""


@dataclass(frozen=True)
class Look:
    """What is durable at a moment, and what could be: the names that changed, and each file's bytes then and now."""

    names: dict[int, Names]
    moves: list[Move]
    synced: dict[int, bytes]
    files: dict[int, tuple[str, bytes, bytes]]

    @functools.cached_property
    def pages(self) -> dict[int, dict[int, bytes]]:
        """The pages in which files differ from what is durable, with what is written in them."""
        return {number: _changed_pages(old, new) for number, (_, old, new) in self.files.items() if old is not new}

    def changes(self) -> list[Change]:
        """All that a cut could take back."""
        found = [Change("names", move[0][1]) for move in self.moves]
        for number, pages in self.pages.items():
            path, old, new = self.files[number]
            found += [Change("page", path, page) for page in pages]
            if len(old) != len(new):
                found.append(Change("size", path))
        return found

    def logged(self) -> list[tuple[Change, bytes]]:
        """The pages of logs that changed, and what is written in them."""
        logs = [(self.files[number][0], pages) for number, pages in self.pages.items()]
        return [
            (Change("page", path, page), data)
            for path, pages in logs
            if path.endswith("-wal")
            for page, data in pages.items()
        ]

    def image(self, survival: Survival) -> Image:
        """What a cut leaves, if that survives."""
        names = {number: dict(listed) for number, listed in self.names.items()}
        for move in self.moves:
            if survival(Change("names", move[0][1])):
                for directory, name, _, new in move:
                    _set(names[directory], name, new)
        files = dict(self.synced)
        for number, (path, old, new) in self.files.items():
            files[number] = _cut(path, old, new, self.pages.get(number, {}), survival)
        return reachable(Image(names, files))


class SimDisk:
    """See the module; `root` is where the files are now, another directory after each cut."""

    def __init__(self, base: Path, chance: random.Random) -> None:
        self._base = base
        self._chance = chance
        self._generation = 0
        self._last_id = ROOT_ID
        self._known = _Known()
        self.boot = 1
        self.room_bytes: int | None = None
        """How much files may still grow; None: as much as they like."""
        self.failing_syncs = 0
        """So many of the next syncs fail."""
        self.sync_count = 0
        self.on_boundary: Callable[[str], None] | None = None
        """Told before and after each operation that a cut could divide from the next."""
        self.pending: BaseException | None = None
        self.root = base / "0"
        self.root.mkdir(parents=True)
        self._bind(Image({ROOT_ID: {}}, {}), durable=True)

    # -- told by the interception ------------------------------------------------------------------------------------

    def relative(self, path: str) -> str:
        """A path of this disk as it is called in `Change`s."""
        return os.path.relpath(path, self.root)

    @property
    def is_indifferent(self) -> bool:
        """Whether what is written matters only once it is synced: nobody listens, and there is room."""
        return self.on_boundary is None and self.room_bytes is None

    def doing(self, what: str, path: str) -> AbstractContextManager[None]:
        """An operation that a cut may come before or after."""
        return ALONE if self.on_boundary is None else self._told(self.on_boundary, f"{what} {self.relative(path)}")

    @contextmanager
    def _told(self, before: Callable[[str], None], operation: str) -> Iterator[None]:
        before(f"before {operation}")
        yield
        if self.on_boundary is not None:
            self.on_boundary(f"after {operation}")

    def synced(self, path: str) -> None:
        """A file's bytes, or a directory's names, are to be durable.

        Raises:
            OSError: it was a sync that fails.
        """
        self.sync_count += 1
        number = self._id(os.stat(path).st_ino)
        is_failing, self.failing_syncs = self.failing_syncs > 0, max(0, self.failing_syncs - 1)
        if os.path.isdir(path):
            if not is_failing:
                self._known.names[number] = self._listed(path)
        elif is_failing:
            self._known.failed[number] = content(path)
        else:
            self._known.files[number] = self._written(number, content(path))
        if is_failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def has_durable_name(self, path: str) -> bool:
        """Whether a cut leaves a file its name, and the name its file."""
        names = self._known.names.get(self._id(os.stat(os.path.dirname(path)).st_ino), {})
        return names.get(os.path.basename(path)) == self._id(os.stat(path).st_ino)

    def forget(self, inode: int) -> None:
        """The last name of a file is being removed: its number may be used for another one."""
        self._known.ids.pop(inode, None)

    def admit(self, growth_bytes: int) -> int:
        """How much of it a file may grow now; what shrinks gives room."""
        if self.room_bytes is None:
            return growth_bytes
        admitted = min(growth_bytes, self.room_bytes)
        self.room_bytes -= admitted
        return admitted

    # -- what tests do -----------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """All that was written is durable now, as some time later on any machine."""
        names, files = self._now()
        self._known.names = names
        self._known.files = {number: self._written(number, data) for number, (_, data) in files.items()}

    def look(self) -> "Look":
        """The disk at this moment, with all that a cut could take back."""
        names, files = self._now()
        synced = {number: self._known.files.get(number, b"") for number in {*self._known.files, *files}}
        pages = {number: (path, synced[number], self._written(number, data)) for number, (path, data) in files.items()}
        kept = {number: dict(self._known.names.get(number, {})) for number in {*self._known.names, *names}}
        return Look(kept, self._moves(names), synced, pages)

    def changes(self) -> list[Change]:
        """All that a cut could take back now."""
        return self.look().changes()

    def drawn_survival(self) -> Survival:
        """What survives as chance has it; now and then all or nothing."""
        bias = self._chance.choice([0.0, 0.1, 0.5, 0.5, 0.9, 1.0])

        def survives(change: Change) -> int:
            if change.kind == "page" and self._chance.random() < 0.1:
                return self._chance.randrange(PAGE_BYTES // SECTOR_BYTES) * SECTOR_BYTES
            return PAGE_BYTES if self._chance.random() < bias else NOTHING

        return survives

    def crash(self, survival: Survival | None = None) -> Path:
        """The power fails: gives the new root, which has what survived, and in which all of that is durable."""
        self.boot += 1
        return self._move_to(self.look().image(survival or self.drawn_survival()), durable=True)

    def kill(self) -> Path:
        """The process dies: all that it wrote is in the new root, and as durable as it was."""
        return self._move_to(self.snapshot(), durable=False)

    def snapshot(self) -> Image:
        """The disk as programs see it now: to go back to."""
        names, files = self._now()
        return Image(names, {number: data for number, (_, data) in files.items()})

    def go_back(self, snapshot: Image) -> Path:
        """The disk becomes what it was, as after a restored backup: gives the new root."""
        self.boot += 1
        return self._move_to(snapshot, durable=True)

    def rot(self, pattern: str, count: int = 1) -> list[str]:
        """Flip bits in files below the root that match; says where."""
        found = []
        for _ in range(count):
            paths = [path for path in sorted(self.root.glob(pattern)) if path.is_file() and path.stat().st_size]
            if not paths:
                break
            path = self._chance.choice(paths)
            data = bytearray(path.read_bytes())
            place, bit = self._chance.randrange(len(data)), self._chance.randrange(8)
            data[place] ^= 1 << bit
            number = self._id(path.stat().st_ino)
            is_clean = self._known.files.get(number) == path.read_bytes()
            path.write_bytes(data)
            if is_clean:
                self._known.files[number] = bytes(data)
            found.append(f"{self.relative(str(path))} at {place}, bit {bit}")
        return found

    @contextmanager
    def booted(self) -> Iterator[None]:
        """Within it, a local state that is opened belongs to the boot of this machine."""
        with mock.patch.object(workspace, "boot_id", functools.partial(bytes, b"boot %d" % self.boot)):
            yield

    def raise_pending(self) -> None:
        """Raise what `on_boundary` raised within SQLite, which saw an I/O error in its place."""
        pending, self.pending = self.pending, None
        if pending is not None:
            raise pending

    def clear(self) -> None:
        """Remove all roots."""
        shutil.rmtree(self._base)

    # -- within ------------------------------------------------------------------------------------------------------

    def _id(self, inode: int) -> int:
        found = self._known.ids.get(inode)
        if found is None:
            self._last_id += 1
            found = self._known.ids[inode] = self._last_id
        return found

    def _listed(self, directory: str) -> Names:
        with os.scandir(directory) as entries:
            return {e.name: self._id(e.inode()) for e in entries if not e.name.endswith(MEMORY_SUFFIX)}

    def _now(self) -> tuple[dict[int, Names], dict[int, tuple[str, bytes]]]:
        """The names of directories, and the files with a path and their bytes, as they are."""
        names: dict[int, Names] = {}
        files: dict[int, tuple[str, bytes]] = {}
        for place, folders, found in os.walk(self.root):
            folders.sort()
            number = self._id(os.stat(place).st_ino)
            names[number] = self._listed(place)
            for name in sorted(found):
                path = os.path.join(place, name)
                if name in names[number] and stat.S_ISREG(os.lstat(path).st_mode):
                    files.setdefault(names[number][name], (self.relative(path), content(path)))
                else:
                    names[number].pop(name, None)
        return names, files

    def _written(self, number: int, data: bytes) -> bytes:
        """The bytes of a file that can still reach the disk: not those that a failed sync has let go of."""
        failed, synced = self._known.failed.get(number), self._known.files.get(number, b"")
        if failed is None:
            # One object for equal bytes: they need not be compared again.
            return synced if data == synced else data
        return b"".join(
            synced[at : at + PAGE_BYTES].ljust(len(page), b"\0")[: len(page)]
            if failed[at : at + PAGE_BYTES] == page
            else page
            for at, page in _pages(data)
        )

    def _moves(self, now: dict[int, Names]) -> list[Move]:
        """Names that differ from what is durable, those together that one file binds: directory, name, old, new."""
        groups: list[tuple[set[int], Move]] = []
        for directory in sorted({*self._known.names, *now}):
            old = self._known.names.get(directory, {})
            new = now.get(directory, {})
            for name in sorted({*old, *new}):
                before, after = old.get(name, -1), new.get(name, -1)
                if before == after:
                    continue
                bound, entries = {before, after} - {-1}, [(directory, name, before, after)]
                for group in [group for group in groups if group[0] & bound]:
                    groups.remove(group)
                    bound, entries = bound | group[0], group[1] + entries
                groups.append((bound, entries))
        return [entries for _, entries in groups]

    def _move_to(self, image: Image, *, durable: bool) -> Path:
        self._generation += 1
        self.root = self._base / str(self._generation)
        self.root.mkdir()
        self._bind(image, durable=durable)
        shutil.rmtree(self._base / str(self._generation - 2), ignore_errors=True)
        return self.root

    def _bind(self, image: Image, *, durable: bool) -> None:
        """Make the files of an image below the root, and know which is which."""
        self._known.ids = write_image(image, self.root)
        self._last_id = max(self._last_id, *image.names, *image.files)
        if durable:
            self._known.names = {number: dict(names) for number, names in image.names.items()}
            self._known.files = dict(image.files)
            self._known.failed = {}


def content(path: str) -> bytes:
    """The bytes of a file; `Path` and buffers take longer than small files do."""
    with open(path, "rb", 0) as file:
        return file.readall()


def write_image(image: Image, root: Path) -> dict[int, int]:
    """Make the files of an image below an empty directory; gives their ids by inode."""
    made: dict[int, str] = {}
    inodes = {os.stat(root).st_ino: ROOT_ID}
    waiting = [(ROOT_ID, str(root))]
    while waiting:
        number, place = waiting.pop()
        for name, child in image.names[number].items():
            path = os.path.join(place, name)
            if child in image.names:
                os.mkdir(path, 0o700)
                waiting.append((child, path))
            elif child in made:
                os.link(made[child], path)
            else:
                made[child] = path
                with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
                    file.write(image.files[child])
            inodes[os.stat(path).st_ino] = child
    return inodes


def reachable(image: Image) -> Image:
    """Without what no name leads to; a file that was never synced is empty."""
    names: dict[int, Names] = {}
    files: dict[int, bytes] = {}
    waiting = [ROOT_ID]
    while waiting:
        number = waiting.pop()
        if number in names:
            continue
        names[number] = image.names[number]
        for child in names[number].values():
            if child in image.names:
                waiting.append(child)
            else:
                files[child] = image.files.get(child, b"")
    return Image(names, files)


def _set(names: Names, name: str, number: int) -> None:
    if number < 0:
        names.pop(name, None)
    else:
        names[name] = number


def _pages(data: bytes) -> Iterator[tuple[int, bytes]]:
    return ((at, data[at : at + PAGE_BYTES]) for at in range(0, len(data), PAGE_BYTES))


def _changed_pages(old: bytes, new: bytes) -> dict[int, bytes]:
    if old == new:
        return {}
    return {at // PAGE_BYTES: page for at, page in _pages(new) if old[at : at + len(page)] != page}


def _cut(path: str, old: bytes, new: bytes, pages: dict[int, bytes], survival: Survival) -> bytes:
    """The bytes of a file after a cut: old where nothing survived, zeros where there was nothing before."""
    if not pages and len(old) == len(new):
        return new
    size = len(new) if len(old) == len(new) or survival(Change("size", path)) else len(old)
    found = bytearray(old.ljust(max(len(old), len(new)), b"\0"))
    for number, page in pages.items():
        kept = survival(Change("page", path, number))
        at = number * PAGE_BYTES
        found[at : at + min(kept, len(page))] = page[:kept]
    return bytes(found[:size])
