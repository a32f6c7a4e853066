"""What programs do while their mount is killed again and again: unpack, commit to git, write to SQLite.

Each kind of work keeps a ledger outside of the drive, of what it was told is done, and can check that this is there
after a crash. Owns what is promised to each; when the mount dies and how it comes back is the test's.
"""

import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import tarfile
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

FILES = 200
COMMAND_SECONDS = 120
DATABASE_MODES = ("delete", "truncate", "persist", "wal")


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program as a person without settings; its exit code is the caller's to judge."""
    environment = {
        **os.environ,
        "LC_ALL": "C",
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "Ada",
        "GIT_AUTHOR_EMAIL": "ada@example.org",
        "GIT_COMMITTER_NAME": "Ada",
        "GIT_COMMITTER_EMAIL": "ada@example.org",
    }
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
    )


def must(*command: object, cwd: Path) -> str:
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Ledger:
    """Lines that were told to be done; one that was cut short does not count."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, line: str) -> None:
        with self._path.open("ab") as file:
            file.write(line.encode() + b"\n")

    def lines(self) -> list[str]:
        if not self._path.exists():
            return []
        return self._path.read_text().split("\n")[:-1]


def in_child(work: Callable[[int], None], number: int) -> int:
    """Do it in a process of its own until the drive fails it; gives the process."""
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            with suppress(OSError, sqlite3.Error, subprocess.SubprocessError):
                work(number)
        finally:
            os._exit(0)
    return child


def ended(child: int) -> None:
    """End a child, and what it had started."""
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)


class Unpacking:
    """Unpacks an archive into one directory a round."""

    def __init__(self, root: Path, home: Path) -> None:
        self._root, self._home = root, home
        self._archive = home / "archive.tar"
        self._contents: dict[str, bytes] = {}
        self._begun: list[str] = []
        chance = random.Random(5)
        with tarfile.open(self._archive, "w") as tar:
            for number in range(FILES):
                name = f"{number % 7}/{number % 31}/file{number:04}"
                size = 1_500_000 if number % 100 == 99 else chance.choice([0, 100, 3_000, 20_000, 90_000])
                self._contents[name] = chance.randbytes(size)
                entry = tarfile.TarInfo(name)
                entry.size = size
                tar.addfile(entry, BytesIO(self._contents[name]))

    def _names(self, number: int) -> Path:
        return self._home / f"unpacked{number}"

    def work(self, number: int) -> None:
        """Unpack; then take the tree of two rounds ago away."""
        place = self._root / f"tree{number}"
        place.mkdir()
        with self._names(number).open("wb") as names:
            command = ["stdbuf", "-oL", "tar", "-xvf", self._archive, "-C", place, "--no-same-owner"]
            subprocess.run(command, stdout=names, stderr=subprocess.DEVNULL, check=True)
        if number >= 2:
            subprocess.run(["rm", "-rf", self._root / f"tree{number - 2}"], check=True, stderr=subprocess.DEVNULL)

    def note(self, number: int) -> None:
        """The crash is about to come: what tar names afterwards has failed, and it goes on all the same."""
        names = self._names(number)
        self._begun = names.read_text().splitlines() if names.exists() else []

    def check(self, number: int) -> None:
        """All that tar went on from is there, and the rest is a beginning of what it should be."""
        place = self._root / f"tree{number}"
        for name in self._begun[:-1]:
            assert (place / name).read_bytes() == self._contents[name], name
        for path in place.rglob("*"):
            if path.is_file():
                assert self._contents[str(path.relative_to(place))].startswith(path.read_bytes()), path


class Committing:
    """Commits one new and one changed file after the other to a git repository."""

    def __init__(self, root: Path, home: Path) -> None:
        self._tree = root / "repository"
        self._ledger = Ledger(home / "commits")
        self._tree.mkdir()
        must("git", "init", "-q", "-b", "main", cwd=self._tree)

    def work(self, number: int) -> None:
        for step in range(10_000):
            (self._tree / f"file{number}-{step}").write_text(f"{number} {step}\n" * 50)
            (self._tree / "changing").write_text(f"{number} {step}\n" * 2000)
            for command in (["add", "-A"], ["commit", "-q", "-m", f"{number} {step}"]):
                if run("git", *command, cwd=self._tree).returncode:
                    return
            self._ledger.add(f"{number} {step}")
            if step % 20 == 19:
                run("git", "gc", "-q", cwd=self._tree)

    def check(self, number: int) -> None:
        """The repository is sound, all commits are in its history, and it goes on when stale locks are gone."""
        for lock in [*self._tree.glob(".git/*.lock"), *self._tree.glob(".git/refs/heads/*.lock")]:
            lock.unlink()
        must("git", "fsck", "--full", "--strict", "--no-dangling", cwd=self._tree)
        done = self._ledger.lines()
        known = must("git", "log", "--format=%s", cwd=self._tree).splitlines() if done else []
        assert set(known) >= set(done), (known[:3], done[-3:])
        for line in done[-5:]:
            assert must("git", "show", f"HEAD:file{line.replace(' ', '-')}", cwd=self._tree) == f"{line}\n" * 50
        must("git", "add", "-A", cwd=self._tree)


class Inserting:
    """Inserts rows into one SQLite database in each journal mode by turns."""

    def __init__(self, root: Path, home: Path) -> None:
        self._root, self._home = root, home

    def _path(self, number: int) -> Path:
        return self._root / f"{DATABASE_MODES[number % len(DATABASE_MODES)]}.db"

    def _ledger(self, path: Path) -> Ledger:
        return Ledger(self._home / f"rows of {path.name}")

    def work(self, number: int) -> None:
        path = self._path(number)
        ledger = self._ledger(path)
        connection = sqlite3.connect(path, timeout=30)
        connection.execute(f"PRAGMA journal_mode={path.stem}")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("CREATE TABLE IF NOT EXISTS t (n TEXT PRIMARY KEY, body BLOB)")
        for step in range(100_000):
            key = f"{number} {step}"
            with connection:
                connection.execute("INSERT INTO t VALUES (?, ?)", (key, body(key)))
                if step % 7 == 6:
                    connection.execute("UPDATE t SET body = body WHERE n IN (SELECT n FROM t ORDER BY n LIMIT 5)")
            ledger.add(key)

    def check(self, number: int) -> None:
        """The database is sound, and has every row whose transaction was done."""
        path = self._path(number)
        if not path.exists():
            return
        connection = sqlite3.connect(path, timeout=30)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        done = self._ledger(path).lines()
        if done:
            found = dict(connection.execute("SELECT n, body FROM t").fetchall())
            assert not set(done) - found.keys()
            assert all(content == body(key) for key, content in found.items())
        connection.close()


def body(key: str) -> bytes:
    """What a row of this key has."""
    return hashlib.sha256(key.encode()).digest() * 40
