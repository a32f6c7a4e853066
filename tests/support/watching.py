"""Programs that watch a directory, run as people run them: what they print is what they noticed.

Owns those processes. Every wait has a deadline.
"""

import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.support.mounts import READY_SECONDS, bare_environment, end, wait_until

ESTABLISHED = "Watches established."


class Watcher:
    """A program that goes on printing lines, until `close`; standard error counts too."""

    def __init__(self, *command: object, env: dict[str, str] | None = None) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            # Tests that a shell runs in the background were told to ignore SIGINT, and hand that down.
            ["env", "--default-signal=INT", *(str(word) for word in command)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="surrogateescape",
            env=bare_environment() if env is None else env,
            cwd="/",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def wait_for(self, *wanted: str) -> list[str]:
        """Return all lines once these are among them, in this order; others may be between them."""
        self._wait(wanted, lambda: list(self.lines), is_subsequence)
        return list(self.lines)

    def _wait(
        self,
        wanted: Sequence[str],
        seen: Callable[[], list[str]],
        is_there: Callable[[Sequence[str], Sequence[str]], bool],
    ) -> None:
        try:
            wait_until(f"{wanted}", lambda: is_there(wanted, seen()))
        except TimeoutError as error:
            raise TimeoutError(f"{error}, but {seen()}") from None

    def clear(self) -> None:
        self.lines.clear()

    def wait_ended(self) -> int:
        """Return when it has ended by itself; gives its exit code, with all its lines read."""
        code = self.process.wait(READY_SECONDS)
        self._reader.join()
        return code

    def close(self, number: int = signal.SIGTERM) -> int:
        """End it; gives its exit code, with all its lines read."""
        code = end(self.process, number)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


class Inotify(Watcher):
    """`inotifywait -m`, of a directory and all below it; lines are `CREATE,ISDIR name/below` and so on."""

    def __init__(self, root: Path, *options: str) -> None:
        super().__init__("inotifywait", "-m", "-r", *options, "--format", "%e %w%f", root)
        self._prefix = f"{root}/"
        self.wait_for(ESTABLISHED)
        self.clear()

    @property
    def seen(self) -> list[str]:
        """The events so far, without those of reading."""
        events = [line.replace(self._prefix, "") for line in self.lines]
        return [event for event in events if not event.startswith(("OPEN", "ACCESS", "CLOSE_NOWRITE"))]

    def wait_watching(self, count: int) -> None:
        """Return when it watches so many directories: of what is made in a new one before, it hears nothing."""
        wait_until(f"{count} directories are watched", lambda: self._watch_count() >= count)

    def _watch_count(self) -> int:
        found = [path.read_text() for path in Path(f"/proc/{self.process.pid}/fdinfo").iterdir()]
        return sum(line.startswith("inotify wd:") for text in found for line in text.splitlines())

    def expect_all(self, *wanted: str) -> list[str]:
        """Return the events once these are among them, in whatever order, and forget them."""
        self._wait(wanted, lambda: self.seen, lambda wanted, seen: set(wanted) <= set(seen))
        seen = self.seen
        self.clear()
        return seen

    def expect(self, *wanted: str) -> list[str]:
        """Return the events once these are among them, in this order, and forget them."""
        self._wait(wanted, lambda: self.seen, is_subsequence)
        seen = self.seen
        self.clear()
        return seen


def is_subsequence(wanted: Sequence[str], lines: Sequence[str]) -> bool:
    """Whether all wanted lines are there in their order."""
    rest = iter(list(lines))
    return all(each in rest for each in wanted)
