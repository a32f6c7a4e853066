"""A mount without a backend, in one process: everything stays in the journal. For tests and for profiling the mount.

Run as `python -m tests.support.local_mount STATE CACHE MOUNTPOINT`; it ends when unmounted, or on SIGTERM. The
directory `elsewhere` is known by name only: whoever looks into it waits `WAIT_SECONDS`.
"""

import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import trio

from cache.workspace import LocalState
from drivefs.fs.drive import Drive, Services
from drivefs.fs.filesystem import FileSystem
from drivefs.fs.interfaces import Past
from drivefs.fs.ownership import Owner
from drivefs.fuse.session import Session
from drivefs.protocol.ids import BlockId, CommitId, Incarnation, InodeId, RevisionNumber, Seq, WorkspaceId
from drivefs.protocol.messages import Cursor, Entry, Limits, Usage
from drivefs.protocol.model import BlockRef, InodeKind, InodeState
from drivefs.remote.errors import Offline

ROOT = InodeId(2**20)
WORKSPACE = WorkspaceId(1)
FIRST_ID = InodeId(2**21)
ELSEWHERE = InodeId(2**20 + 1)
WAIT_SECONDS = 2.0
LIMITS = Limits(file_bytes=10 * 10**9, quota_bytes=10 * 10**9)


async def in_thread(work: Callable[..., Any], /, *args: Any) -> Any:
    return await trio.to_thread.run_sync(work, *args)


class Nobody:
    """A backend that is never there; satisfies all that the file system asks of others, and counts what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, InodeId]] = []

    def expect(self, workspace: WorkspaceId, refs: Sequence[BlockRef]) -> None:
        pass

    async def fetch(self, workspace: WorkspaceId, blocks: Sequence[BlockId]) -> None:
        raise Offline("there is no backend here")

    async def read(self, workspace: WorkspaceId, inode: InodeId, block: BlockId) -> bytes:
        raise Offline("there is no backend here")

    async def list_directory(self, directory: InodeId) -> None:
        await trio.sleep(WAIT_SECONDS)
        raise Offline("there is no backend here")

    async def content(self, inode: InodeId, revision: RevisionNumber) -> bytes:
        raise Offline("there is no backend here")

    def acting(self, process: int) -> None:
        pass

    def changed(self) -> None:
        pass

    def opened(self, inode: InodeId) -> None:
        pass

    def closed(self, inode: InodeId) -> None:
        self.heard.append(("closed", inode))

    def synced(self, inode: InodeId) -> None:
        self.heard.append(("synced", inode))

    def dropped(self, inode: InodeId) -> None:
        self.heard.append(("dropped", inode))


@contextmanager
def opened(state: Path, cache: Path, offload: Callable[..., Awaitable[Any]] = in_thread) -> Iterator[LocalState]:
    """The local state, with an empty drive in the replica and inode ids to give out."""
    with LocalState(state, cache, offload=offload, cache_limit_bytes=2 * 2**30) as local:
        if local.replica.inode(ROOT) is None:
            root = InodeState(inode=ROOT, kind=InodeKind.DIRECTORY, mode=0o755, nlink=2, seq=Seq(1))
            elsewhere = InodeState(inode=ELSEWHERE, kind=InodeKind.DIRECTORY, mode=0o755, nlink=2, seq=Seq(1))
            local.replica.apply_listing(root, [Entry(name=b"elsewhere", inode=elsewhere)], Seq(1), complete=True)
            local.replica.set_cursor(WORKSPACE, Cursor(incarnation=Incarnation(1), seq=Seq(1), commit=CommitId(b"c")))
        if local.journal.ids_left() < 1000:
            local.journal.add_id_range(FIRST_ID)
        yield local


def compose(local: LocalState, nobody: Nobody, **changes: Any) -> FileSystem:
    """A file system over the local state."""
    drive = Drive(
        **{
            "workspace": WORKSPACE,
            "root": ROOT,
            "owner": Owner(os.getuid(), os.getgid()),
            "limits": LIMITS,
            "usage": Usage(),
            "files": {b"status": lambda: {"online": False}},
            **changes,
        }
    )
    return FileSystem(
        local, Services(fetcher=nobody, lister=nobody, publisher=nobody, past=cast(Past, nobody)), drive, time.time_ns
    )


async def serve(local: LocalState, mountpoint: str, options: set[str]) -> None:
    """Mount and answer until unmounted."""
    session = Session(compose(local, Nobody()), mountpoint, options, "drivefs:local")
    session.mount()

    async def stop_on_signal() -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                session.stop()

    async def sync_now_and_then() -> None:
        while True:
            await trio.sleep(1.0)
            await local.journal.log_barrier()
            await local.checkpoint()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_on_signal)
            nursery.start_soon(sync_now_and_then)
            await session.run()
            nursery.cancel_scope.cancel()
    finally:
        session.close()


def main(state: str, cache: str, mountpoint: str) -> None:
    with opened(Path(state), Path(cache)) as local:
        sys.setswitchinterval(0.0005)
        trio.run(serve, local, mountpoint, {"allow_other"})


if __name__ == "__main__":
    main(*sys.argv[1:])
