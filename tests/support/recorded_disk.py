"""An ext4 file system on a block device that remembers its life; see `flush_log`.

Owns the image, the process that serves it, the loop device and the mount. Everything needs root.
"""

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.flush_log import FLUSH, NAME, Step, replay, steps
from tests.support.mounts import end, wait_until

SIZE_BYTES = 192 * 2**20
ROOT = Path(__file__).resolve().parents[2]


class RecordedDisk:
    """Mounted at `place` from `begin` to `finish`; afterwards `cut` gives its file system as of any moment."""

    def __init__(self, home: Path, place: Path) -> None:
        self.place = place
        self._home = home
        self._image, self._first, self._log = home / "disk.img", home / "first.img", home / "disk.log"
        self._served = home / "served"
        self._served.mkdir(parents=True)
        with self._image.open("wb") as file:
            file.truncate(SIZE_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", self._image], check=True)
        _copy(self._image, self._first)
        self._log.touch()

    def begin(self) -> None:
        """Mount it."""
        command = [sys.executable, "-m", "tests.support.flush_log", self._served, self._image, self._log]
        self._process = subprocess.Popen(command, cwd=ROOT)
        file = self._served / NAME.decode()
        wait_until("the block device is served", file.exists)
        made = subprocess.run(["losetup", "--find", "--show", file], check=True, capture_output=True, text=True)
        self._device = made.stdout.strip()
        subprocess.run(["mount", "-o", "commit=300", self._device, self.place], check=True)
        self.place.chmod(0o700)

    def finish(self) -> None:
        """Unmount it."""
        subprocess.run(["umount", self.place], check=True)
        subprocess.run(["losetup", "-d", self._device], check=True)
        subprocess.run(["umount", self._served], check=True)
        end(self._process)

    @property
    def moment(self) -> int:
        """Now, as a place in the history: what was flushed is before it."""
        return self._log.stat().st_size

    def history(self) -> list[Step]:
        """All that was written and flushed."""
        with self._log.open("rb") as log:
            return steps(log)

    @contextmanager
    def cut(self, history: list[Step], chance: random.Random | None) -> Iterator[Path]:
        """The file system as a cut after this history leaves it, mounted anew."""
        image, place = self._home / "cut.img", self._home / "cut"
        _copy(self._first, image)
        with image.open("r+b") as file:
            replay(history, file, chance)
        place.mkdir(exist_ok=True)
        subprocess.run(["mount", "-o", "loop", image, place], check=True)
        try:
            yield place
        finally:
            subprocess.run(["umount", place], check=True)
            image.unlink()


def flush_ends(history: list[Step]) -> list[int]:
    """How much of the history has happened when each flush has ended."""
    return [number + 1 for number, step in enumerate(history) if step.offset == FLUSH]


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "--sparse=always", source, target], check=True)
