"""A person at one device: random operations on its mount, and a record of every content that they wrote or saw go.

Owns what one device does in a long run, and what it may conclude from it; how several are run together and compared is
in `device_runs`. Every content is unique, so a content found anywhere is known by its digest alone.

Invariant: a content is `gone` only if this device replaced or removed it after having read it through the same
descriptor, or through one that was open meanwhile. Whatever is in `written` of any device and in `gone` of none must be
found in the end.
"""

import errno
import hashlib
import os
import random
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.mount.oracle import RENAME_EXCHANGE, rename2

RACES = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ELOOP}
"""What any operation may meet when others change the same tree at the same time."""
PATIENCE_SECONDS = 60.0
"""For so long after a fault, what is not cached may fail with EIO."""
SLOWEST_SECONDS = 90.0
"""No call may take longer, whatever the network does."""
SIZES = (30, 200, 3_000, 20_000, 90_000, 400_000)
FILE_NAMES = tuple(f"file{number}.txt" for number in range(8))
DIRECTORY_NAMES = ("alpha", "beta", "gamma", "delta")
MOST_OPEN = 3


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Held:
    """A descriptor that is kept open over other operations, and the content it last showed."""

    descriptor: int
    path: Path
    content: bytes


@dataclass
class Actor:
    """One device's random operations below `root`. `trace` has one line for each, for whoever must find out why."""

    name: str
    root: Path
    chance: random.Random
    written: dict[str, str] = field(default_factory=dict)
    """Digest → where and when, of every content that was completely written here."""
    gone: dict[str, str] = field(default_factory=dict)
    nameless: set[str] = field(default_factory=set)
    """What was written to files that had been removed: it may be nowhere."""
    same: set[str] = field(default_factory=set)
    """Contents that several devices write alike: they may be anywhere, or nowhere."""
    trace: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    trouble_at: float = 0.0
    count: int = 0

    # What is there

    def directories(self) -> list[Path]:
        """All directories of the view, the root among them."""
        found = [self.root]
        for directory in found:
            with os.scandir(directory) as entries:
                found.extend(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
        return found

    def files(self) -> list[Path]:
        """All regular files of the view."""
        found = []
        for directory in self.directories():
            with os.scandir(directory) as entries:
                found.extend(Path(entry.path) for entry in entries if entry.is_file(follow_symlinks=False))
        return found

    def a_file(self) -> Path:
        """One that exists, or the place of one."""
        files = self.files()
        return self.chance.choice(files) if files else self.root / self.chance.choice(FILE_NAMES)

    def a_place(self) -> Path:
        """A name that may be taken or not, in a directory that exists."""
        return self.chance.choice(self.directories()) / self.chance.choice(FILE_NAMES)

    def fresh(self) -> bytes:
        """A content that nobody ever wrote."""
        self.count += 1
        size = self.chance.choices(SIZES, weights=(8, 8, 8, 4, 2, 1))[0]
        return f"{self.name} {self.count} ".encode() + self.chance.randbytes(size)

    # Records

    def wrote(self, content: bytes, path: Path) -> None:
        self.written[digest(content)] = f"{self.name} {path.relative_to(self.root)} {len(content)} bytes"
        self.note(f"wrote {digest(content)[:12]} ({len(content)} bytes) to {path.relative_to(self.root)}")

    def ended(self, content: bytes, how: str) -> None:
        self.gone[digest(content)] = f"{self.name}: {how}"
        self.note(f"saw {digest(content)[:12]} go: {how}")

    def note(self, text: str) -> None:
        self.trace.append(f"{time.time():.3f} {self.name} {text}")

    @contextmanager
    def watching(self, path: Path, how: str) -> Iterator[None]:
        """What the file at `path` holds before and after the block is gone by what the block does."""
        with opened(path, os.O_RDONLY | os.O_NOFOLLOW) as descriptor:
            before = read_all(descriptor)
            yield
            self.ended(before, f"{how} {path.relative_to(self.root)}")
            after = read_all(descriptor)
            if after != before:
                self.ended(after, f"{how} {path.relative_to(self.root)}, changed meanwhile")

    # Operations

    def create(self) -> None:
        path, content = self.a_place(), self.fresh()
        with opened(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY) as descriptor:
            self._finish(descriptor, path, content)

    def _finish(self, descriptor: int, path: Path, content: bytes) -> None:
        """Write, perhaps in two steps, and sync now and then."""
        half = len(content) // 2 if self.chance.random() < 0.3 else 0
        os.write(descriptor, content[:half])
        os.write(descriptor, content[half:])
        if self.chance.random() < 0.1:
            os.fsync(descriptor)
        self.wrote(content, path)

    def create_alike(self) -> None:
        content = b"alike %d " % self.chance.randrange(5) * 50
        self.same.add(digest(content))
        path = self.a_place()
        with opened(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY) as descriptor:
            os.write(descriptor, content)
        self.note(f"wrote alike to {path.relative_to(self.root)}")

    def rewrite(self) -> None:
        path, content = self.a_file(), self.fresh()
        with opened(path, os.O_RDWR | os.O_NOFOLLOW) as descriptor:
            before = read_all(descriptor)
            os.ftruncate(descriptor, 0)
            self.ended(before, f"rewrite {path.relative_to(self.root)}")
            self._finish(descriptor, path, content)

    def edit(self) -> None:
        path = self.a_file()
        with opened(path, os.O_RDWR | os.O_NOFOLLOW) as descriptor:
            self._splice(Held(descriptor, path, read_all(descriptor)))

    def _splice(self, held: Held) -> None:
        """Overwrite or append a little in a file whose content was seen."""
        before, path = self._base(held), held.path
        place = self.chance.choice([0, len(before) // 2, len(before)])
        patch = f"<{self.name} {self.count}>".encode() + self.chance.randbytes(20)
        self.count += 1
        after = before[:place] + patch + before[place + len(patch) :]
        is_named = os.fstat(held.descriptor).st_nlink > 0
        os.pwrite(held.descriptor, patch, place)
        if is_named and os.fstat(held.descriptor).st_nlink > 0:
            self.ended(before, f"edit {path.relative_to(self.root)}")
            self.wrote(after, path)
        else:
            self.note(f"wrote {digest(after)[:12]} to a file without a name")
            self.nameless.add(digest(after))

    def _base(self, held: Held) -> bytes:
        """What a write through the descriptor goes onto: what it showed, or what this device wrote there since.

        What another device wrote there since was not seen through it: the write must not lie over that.
        """
        with opened(Path(f"/proc/self/fd/{held.descriptor}"), os.O_RDONLY) as other:
            now = read_all(other)
        return now if digest(now) in self.written else held.content

    def append(self) -> None:
        path = self.a_file()
        with opened(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW) as descriptor:
            before, patch = read_all(descriptor), self.fresh()[:2000]
            self.ended(before, f"append {path.relative_to(self.root)}")
            os.write(descriptor, patch)
            self.wrote(before + patch, path)

    def shorten(self) -> None:
        path = self.a_file()
        with opened(path, os.O_RDWR | os.O_NOFOLLOW) as descriptor:
            before = read_all(descriptor)
            os.ftruncate(descriptor, len(before) * 2 // 3)
            self.ended(before, f"shorten {path.relative_to(self.root)}")
            self.wrote(before[: len(before) * 2 // 3], path)

    def save(self) -> None:
        """Write to a temporary name, which no rule ignores, and rename over."""
        path, content = self.a_place(), self.fresh()
        temporary = path.with_name(f".{path.name}.{self.name}.new")
        if temporary.exists():
            self._remove(temporary)  # left by a save that could not be finished
        with opened(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY) as descriptor:
            self._finish(descriptor, temporary, content)
        self._rename(temporary, path)

    def save_aside(self) -> None:
        """Rename the old one away, write anew, remove the old one."""
        path, content = self.a_file(), self.fresh()
        aside = path.with_name(f"{path.name}.{self.name}~")
        self._rename(path, aside)
        with opened(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY) as descriptor:
            self._finish(descriptor, path, content)
        self._remove(aside)

    def save_often(self) -> None:
        for _ in range(self.chance.randrange(3, 8)):
            self.save()
            time.sleep(self.chance.choice([0.0, 0.02, 0.1]))

    def move(self) -> None:
        self._rename(self.a_file(), self.a_place())

    def _rename(self, old: Path, new: Path) -> None:
        self.note(f"rename {old.relative_to(self.root)} to {new.relative_to(self.root)}")
        try:
            with self.watching(new, f"replaced by {old.name}:"):
                os.rename(old, new)
        except FileNotFoundError:
            rename2(old, new, 1)  # RENAME_NOREPLACE: what has come meanwhile was not seen

    def exchange(self) -> None:
        one, other = self.a_file(), self.a_file()
        self.note(f"exchange {one.relative_to(self.root)} with {other.relative_to(self.root)}")
        rename2(one, other, RENAME_EXCHANGE)

    def remove(self) -> None:
        self._remove(self.a_file())

    def _remove(self, path: Path) -> None:
        with self.watching(path, "removed"):
            os.unlink(path)

    def make_directory(self) -> None:
        path = self.chance.choice(self.directories()) / self.chance.choice(DIRECTORY_NAMES)
        if len(path.relative_to(self.root).parts) <= 4:
            os.mkdir(path)
            self.note(f"mkdir {path.relative_to(self.root)}")

    def a_directory(self) -> Path:
        return self.chance.choice(self.directories()[1:] or [self.root / "none"])

    def remove_directory(self) -> None:
        path = self.a_directory()
        os.rmdir(path)
        self.note(f"rmdir {path.relative_to(self.root)}")

    def remove_tree(self) -> None:
        self._remove_tree(self.a_directory())

    def _remove_tree(self, directory: Path) -> None:
        with os.scandir(directory) as entries:
            found = list(entries)
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                self._remove_tree(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                self._remove(Path(entry.path))
            else:
                os.unlink(entry.path)
        os.rmdir(directory)
        self.note(f"rmdir {directory.relative_to(self.root)}")

    def move_directory(self) -> None:
        old = self.a_directory()
        new = self.chance.choice(self.directories()) / self.chance.choice(DIRECTORY_NAMES)
        if old in new.parents or len(new.relative_to(self.root).parts) > 4:
            return
        self.note(f"rename directory {old.relative_to(self.root)} to {new.relative_to(self.root)}")
        os.rename(old, new)

    def link(self) -> None:
        old, new = self.a_file(), self.a_place()
        os.link(old, new)
        self.note(f"link {old.relative_to(self.root)} to {new.relative_to(self.root)}")

    def symlink(self) -> None:
        path = self.a_place().with_suffix(".link")
        if path.is_symlink():
            os.unlink(path)
        else:
            os.symlink(f"to {self.chance.randrange(1000)}", path)

    def set_attributes(self) -> None:
        path = self.chance.choice([self.a_file(), self.a_directory()])
        os.chmod(path, self.chance.choice([0o600, 0o644, 0o755, 0o700]) | (stat.S_IRWXU if path.is_dir() else 0))
        os.setxattr(path, f"user.note{self.chance.randrange(3)}", self.chance.randbytes(8))
        if self.chance.random() < 0.3:
            os.utime(path, ns=(1, self.chance.randrange(10**18)))

    def hold(self) -> None:
        """Open a file and read it; it is written and closed some operations later."""
        if len(self.held) >= MOST_OPEN:
            held = self.held.pop(0)
            self.note(
                f"now writes {held.path.relative_to(self.root)}, open since it showed {digest(held.content)[:12]}"
            )
            try:
                self._splice(held)
            finally:
                os.close(held.descriptor)
            return
        path = self.a_file()
        with opened(path, os.O_RDWR | os.O_NOFOLLOW) as descriptor:
            content = read_all(descriptor)
            self.held.append(Held(os.dup(descriptor), path, content))
        self.note(f"holds {path.relative_to(self.root)} {digest(self.held[-1].content)[:12]}")

    def look(self) -> None:
        """Read all: also so that it is cached when the network goes."""
        for path in self.files():
            path.read_bytes()

    def let_go(self) -> None:
        """Close what is held, unwritten."""
        for each in self.held:
            os.close(each.descriptor)
        self.held.clear()

    def step(self) -> None:
        """One operation; what goes wrong that must not goes to `complaints`."""
        operation = self.chance.choices(list(WEIGHTS), weights=list(WEIGHTS.values()))[0]
        begin = time.monotonic()
        try:
            operation(self)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "?")
            self.note(f"{operation.__name__}: {name} {error.filename or ''}")
            is_excused = error.errno == errno.EIO and begin - self.trouble_at < PATIENCE_SECONDS
            if error.errno not in RACES and not is_excused:
                self.complaints.append(f"{self.trace[-1]}")
        if (took := time.monotonic() - begin) > SLOWEST_SECONDS:
            self.complaints.append(f"{self.trace[-1]}: {operation.__name__} took {took:.0f} s")


WEIGHTS: dict[Callable[[Actor], None], int] = {
    Actor.create: 14,
    Actor.create_alike: 3,
    Actor.rewrite: 8,
    Actor.edit: 10,
    Actor.append: 5,
    Actor.shorten: 2,
    Actor.save: 10,
    Actor.save_aside: 4,
    Actor.save_often: 1,
    Actor.move: 7,
    Actor.exchange: 2,
    Actor.remove: 6,
    Actor.make_directory: 6,
    Actor.remove_directory: 2,
    Actor.remove_tree: 1,
    Actor.move_directory: 4,
    Actor.link: 3,
    Actor.symlink: 2,
    Actor.set_attributes: 5,
    Actor.hold: 4,
    Actor.look: 2,
}


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_all(descriptor: int) -> bytes:
    pieces, offset = [], 0
    while piece := os.pread(descriptor, 2**20, offset):
        pieces.append(piece)
        offset += len(piece)
    return b"".join(pieces)
