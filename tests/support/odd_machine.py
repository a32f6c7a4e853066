"""The `drivefs` program on a machine that misbehaves: its disk refuses to sync, its clock is wrong, or it is slow.

Run as `python -m tests.support.odd_machine DIRECTORY ARGUMENT…`. While the file `fsync fails` is in the directory,
every fsync of the program is EIO; `clock` there says how many seconds the wall clock is off, and may change; while
`told late` is there, the kernel hears a moment later of what has changed; where `walks never` is, no directory is
listed that nobody asked for.
"""

import errno
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pyfuse3
import trio

NS = 10**9
LATE_SECONDS = 0.3


def spoil(place: Path) -> None:
    """Put the machine's calls in the place of the real ones, before drivefs looks at them."""
    sync, sync_data, now_ns = os.fsync, os.fdatasync, time.time_ns

    def check() -> None:
        if (place / "fsync fails").exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def fsync(descriptor: int) -> None:
        check()
        sync(descriptor)

    def fdatasync(descriptor: int) -> None:
        check()
        sync_data(descriptor)

    def time_ns() -> int:
        try:
            return now_ns() + int((place / "clock").read_text()) * NS
        except (FileNotFoundError, ValueError):
            return now_ns()

    def late(tell: Callable[..., None]) -> Callable[..., None]:
        def told(*what: object, **how: object) -> None:
            if (place / "told late").exists():
                time.sleep(LATE_SECONDS)
            tell(*what, **how)

        return told

    pyfuse3.invalidate_entry, pyfuse3.invalidate_inode = late(pyfuse3.invalidate_entry), late(pyfuse3.invalidate_inode)
    os.fsync, os.fdatasync, time.time_ns = fsync, fdatasync, time_ns
    time.time = lambda: time_ns() / NS
    _keep_from_walking(place)


def _keep_from_walking(place: Path) -> None:
    from drivefs.sync.walker import Walker

    walk = Walker.walk

    async def walk_unless(walker: Walker) -> None:
        if (place / "walks never").exists():
            await trio.sleep_forever()
        await walk(walker)

    Walker.walk = walk_unless


def main(place: str, *arguments: str) -> NoReturn:
    spoil(Path(place))
    from drivefs.cli.main import main as program

    sys.argv = ["drivefs", *arguments]
    sys.exit(program())


if __name__ == "__main__":
    main(*sys.argv[1:])
