"""Tells the kernel what it has to forget, from threads of its own.

Owns a few workers, each with its queue; what concerns one directory or inode goes through one worker, in order. A
notification may wait in the kernel for requests under way, and those are answered by the event loop: so it is never
made there. Satisfies `drivefs.sync.contents.Invalidator`.

Content that changed is told by its attributes (`attr_only`): the kernel then asks, or opens the file, and drops its
pages (`attributes` has how). That takes no page lock here; dropping pages outright would wait for reads under way, in
a thread that nothing can stop.

The kernel knows an inode only once the program that looked it up, or listed it, has run on: until then a notification
finds nothing, and the answer, older by now, is kept for as long as it says. So what the kernel does not know is told
again a little later. (Right behind a lookup, on a machine with more to do than it has processors, that was every second
one. Names have no such gap: who looks one up holds a lock on its directory that a notification waits for.)

Invariant: what waits to be told stands in a queue once, so queues are no longer than what the kernel may know.
"""

import errno
import logging
from collections.abc import Sequence
from typing import NamedTuple

import pyfuse3
import trio

from drivefs.fuse.attributes import Translation
from drivefs.protocol.ground import Offload
from drivefs.protocol.ids import InodeId

log = logging.getLogger(__name__)

WORKERS = 4
BATCH = 256
AGAIN_SECONDS = (0.1, 2.0)
"""After so long an inode that the kernel did not know is told again, and then once more if it still does not."""
HARMLESS = (errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY)
"""That the kernel knows nothing of what it is to forget, or that it is in use and will be asked for again."""


class Notification(NamedTuple):
    """What to forget: a name in the directory `number`, or without one the attributes of the inode `number`."""

    number: int
    name: bytes | None = None


class _Queue:
    """What one worker has to tell, in order, each thing once."""

    def __init__(self) -> None:
        self._waiting: dict[Notification, None] = {}
        self._filled = trio.Event()
        self._put_count = self._told_count = 0
        self._went_on = trio.Event()

    def put(self, notification: Notification) -> None:
        self._put_count += notification not in self._waiting
        self._waiting[notification] = None
        self._filled.set()

    def told(self, count: int) -> None:
        """So many that were taken are told."""
        self._told_count += count
        self._went_on.set()
        self._went_on = trio.Event()

    async def wait_told(self) -> None:
        """Return when all that is in the queue now, or was taken, is told."""
        target = self._put_count
        while self._told_count < target:
            await self._went_on.wait()

    async def take(self) -> list[Notification]:
        """The next ones, as soon as there are any."""
        await self._filled.wait()
        batch = list(self._waiting)[:BATCH]
        for notification in batch:
            del self._waiting[notification]
        if not self._waiting:
            self._filled = trio.Event()
        return batch


class Invalidation:
    """Queues of notifications; `inode` and `entry` return at once."""

    def __init__(self, translation: Translation, offload: Offload) -> None:
        self._translation = translation
        self._offload = offload
        self._queues = [_Queue() for _ in range(WORKERS)]

    def inode(self, inode: InodeId, *, content: bool) -> None:
        """The attributes of an inode have changed, and perhaps its content."""
        if content:
            self._translation.changed(inode)
        for number in self._translation.numbers(inode):
            self._put(inode, Notification(number))

    def entry(self, parent: InodeId, name: bytes) -> None:
        """What a name leads to has changed."""
        for number in self._translation.numbers(parent):
            self._put(parent, Notification(number, name))

    def merged(self, inode: InodeId, into: InodeId, *, is_new: bool) -> None:
        """Whoever has one inode open, or works in it, has the other one from now on.

        `is_new`: the kernel has not heard of that one, which goes on under the number of the first. A directory with
        another number would be another directory to it, and to whoever is on the way through it: where they meet, it
        says that the file handle is stale or that there is no such name.
        """
        if is_new:
            self._translation.take_over(inode, into)
        else:
            self._translation.merge(inode, into)

    def parted(self, inode: InodeId) -> None:
        """An inode that was found to be another one, and merged, is itself again."""
        self._translation.part(inode)

    def _put(self, inode: InodeId, notification: Notification) -> None:
        self._queues[inode % WORKERS].put(notification)

    async def run(self) -> None:
        """Work off the queues until cancelled; what is queued then is never told."""
        async with trio.open_nursery() as nursery:
            for queue in self._queues:
                nursery.start_soon(self._work, queue, nursery)

    async def wait_told(self) -> None:
        """Return when the kernel has been told of all that concerns it now; it may never take it."""
        for queue in self._queues:
            await queue.wait_told()

    async def _work(self, queue: _Queue, nursery: trio.Nursery) -> None:
        while True:
            batch = await queue.take()
            changes = [(each.number, self._translation.change(each.number)) for each in batch if each.name is None]
            unknown = await self._offload(notify, batch)
            for number, change in changes:
                self._translation.told(number, change)
            queue.told(len(batch))
            if unknown:
                nursery.start_soon(self._tell_again, unknown)

    async def _tell_again(self, unknown: Sequence[Notification]) -> None:
        for seconds in AGAIN_SECONDS:
            await trio.sleep(seconds)
            unknown = await self._offload(notify, unknown)


def notify(batch: Sequence[Notification]) -> list[Notification]:
    """Make notifications, in a thread; gives those about inodes that the kernel does not know."""
    unknown = []
    for each in batch:
        number = pyfuse3.InodeT(each.number)
        try:
            if each.name is None:
                pyfuse3.invalidate_inode(number, attr_only=True)
            else:
                pyfuse3.invalidate_entry(number, each.name)
        except OSError as error:
            if error.errno == errno.ENOENT and each.name is None:
                unknown.append(each)
            elif error.errno not in HARMLESS:
                log.warning("the kernel did not take a notification: %s", error)
    return unknown
