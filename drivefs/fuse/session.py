"""One FUSE mount: begins it, serves it, ends it.

Owns the mount options and the settings of its connection. There is one at a time in a process: that is pyfuse3's rule.
"""

import logging
import os
from collections.abc import Iterable
from pathlib import Path

import pyfuse3

from drivefs.fs.filesystem import FileSystem
from drivefs.fuse import connection
from drivefs.fuse.attributes import Translation
from drivefs.fuse.handshake import Handshake
from drivefs.fuse.polling import Gate, PolledFirst, polled_first
from drivefs.fuse.replay_operations import StagedOperations
from drivefs.fuse.replay_stage import Stage
from drivefs.fuse.unsticking import unsticking

log = logging.getLogger(__name__)

SUBTYPE = "drivefs"
MAX_TASKS = 1000
"""How many requests may wait for the network at once; with fewer, a local one waits behind them."""
MIN_TASKS = 10
MAX_BACKGROUND = 1000
READ_AHEAD_KIBIBYTES = 512
"""Where we may say so, which takes root; the kernel has 128. Cold reads of local blocks take some 0.6 of the time."""
BDI = Path("/sys/class/bdi")


class MountFailed(Exception):
    """The kernel or fusermount3 refused the mount."""


class Session:
    """A mount of one file system at one directory."""

    def __init__(self, filesystem: FileSystem, mountpoint: str, options: Iterable[str], source: str) -> None:
        """Prepare a mount; `options` are FUSE's, as `allow_other` or `ro`; `source` is its name in mount tables."""
        self.translation = Translation(
            filesystem.root, filesystem.owner, filesystem.borders.is_read_only, filesystem.contents.is_open
        )
        self.stage = Stage(filesystem, self.translation)
        self._operations = StagedOperations(filesystem, self.translation, self.stage)
        filesystem.contents.await_forgetting()
        self.mountpoint = os.path.abspath(mountpoint)
        self.device = 0
        """The device number of what is mounted, as `st_dev` has it; 0 before."""
        self._options = {*options, *pyfuse3.default_options, f"fsname={_escaped(source)}", f"subtype={SUBTYPE}"}
        self._polled = PolledFirst(Handshake(self._read_ahead))
        self.holds_up_others = False
        """Whether the kernel lets only a dozen slow requests wait at a time: we may not change that."""

    def call_count(self) -> int:
        """How many requests of the kernel have come, more or less: for whoever looks twice whether any came between."""
        return self._polled.wait_count

    def wait_at(self, gate: Gate) -> None:
        """Have no request read before the gate is open."""
        self._polled.gate = gate

    def mount(self) -> None:
        """Mount; calls wait in the kernel until `run` answers them.

        Raises:
            MountFailed: with what libfuse says.
        """
        try:
            pyfuse3.init(self._operations, self.mountpoint, self._options)
        except RuntimeError as error:
            raise MountFailed(
                f"{self.mountpoint} cannot be mounted: the kernel or fusermount3 refuses it ({error}). This user has "
                "no right to mount there, or this container none to mount at all: start it with --cap-add SYS_ADMIN"
            ) from error
        self._tune()

    def _tune(self) -> None:
        found = connection.topmost(self.mountpoint)
        if found is None:
            return
        self.device = os.makedev(0, found.number)
        self.holds_up_others = not connection.set_max_background(found.number, MAX_BACKGROUND)

    def _read_ahead(self) -> None:
        """Have the kernel read files in larger requests; its first exchange with libfuse sets that back."""
        try:
            (BDI / f"0:{os.minor(self.device)}" / "read_ahead_kb").write_text(str(READ_AHEAD_KIBIBYTES))
        except OSError as error:
            log.debug("read-ahead stays as it is: %s", error)

    async def run(self) -> None:
        """Answer requests until the kernel has let go of the mount or `stop` was called; on the main thread."""
        with polled_first(self._polled), unsticking():
            await pyfuse3.main(min_tasks=MIN_TASKS, max_tasks=MAX_TASKS)

    def stop(self) -> None:
        """Let `run` end; the mount stays until `close`."""
        pyfuse3.terminate()

    def close(self) -> None:
        """Take the mount away if it is still there, and free what it used."""
        pyfuse3.close(unmount=True)


def _escaped(source: str) -> str:
    """A value of a FUSE option: commas and backslashes would end or change it."""
    return source.replace("\\", "\\\\").replace(",", "\\,")
