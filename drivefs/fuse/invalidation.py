"""Tells the kernel what it has to forget, from threads of its own.

Owns a few workers, each with its queue; what concerns one directory or inode goes through one worker, in order. A
notification may wait in the kernel for requests under way, and those are answered by the event loop: so it is never
made there. Satisfies `drivefs.sync.contents.Invalidator`.

Content that changed is told by its attributes (`attr_only`): the kernel then sees another size or mtime and drops its
pages. That takes no page lock; dropping pages outright would wait for reads under way, in a thread that nothing can
stop.
"""

import errno
import logging
import math
from collections.abc import Callable

import pyfuse3
import trio

from drivefs.fuse.attributes import Translation
from drivefs.protocol.ground import Offload
from drivefs.protocol.ids import InodeId

log = logging.getLogger(__name__)

WORKERS = 4
BATCH = 256

Notification = Callable[[], None]


class Invalidation:
    """Queues of notifications; `inode` and `entry` return at once."""

    def __init__(self, translation: Translation, offload: Offload) -> None:
        self._translation = translation
        self._offload = offload
        self._queues = [trio.open_memory_channel[Notification](math.inf) for _ in range(WORKERS)]

    def inode(self, inode: InodeId, *, content: bool) -> None:
        """The attributes of an inode have changed, and perhaps its content: its size or mtime says so."""
        number = self._translation.number(inode)
        self._queue(inode, lambda: pyfuse3.invalidate_inode(pyfuse3.InodeT(number), attr_only=True))

    def entry(self, parent: InodeId, name: bytes) -> None:
        """What a name leads to has changed."""
        number = self._translation.number(parent)
        self._queue(parent, lambda: pyfuse3.invalidate_entry(pyfuse3.InodeT(number), name))

    def _queue(self, inode: InodeId, notification: Notification) -> None:
        self._queues[inode % WORKERS][0].send_nowait(notification)

    async def run(self) -> None:
        """Work off the queues until cancelled; what is queued then is never told."""
        async with trio.open_nursery() as nursery:
            for _, queue in self._queues:
                nursery.start_soon(self._work, queue)

    async def _work(self, queue: trio.MemoryReceiveChannel[Notification]) -> None:
        async for notification in queue:
            batch = [notification]
            while len(batch) < BATCH:
                try:
                    batch.append(queue.receive_nowait())
                except trio.WouldBlock:
                    break
            await self._offload(notify, batch)


def notify(batch: list[Notification]) -> None:
    """Make notifications, in a thread; that the kernel knows nothing of what it should forget is fine."""
    for notification in batch:
        try:
            notification()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY):
                log.warning("the kernel did not take a notification: %s", error)
