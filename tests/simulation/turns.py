"""Devices that take turns: one works, all come to rest, and then every device shows what that one was shown last.

Owns the comparison. Where nothing is done side by side nothing may give way: each name, attribute and content that a
program was shown has to be there in the end, and nothing else, whatever processes and messages were lost on the way. So
this sees what an account of contents cannot: a removed file that stays, a mode or time that is forgotten, a link that
leads to another file. No machine loses power here: then what was not synced might be gone.
"""

from collections.abc import Mapping
from typing import NamedTuple

import trio

from cache.errors import CacheError
from drivefs.fs.errors import FileSystemError
from drivefs.protocol.ids import InodeId
from drivefs.protocol.model import InodeKind, InodeState
from drivefs.remote.errors import RemoteError
from tests.simulation.device import Device

REFUSALS = (FileSystemError, CacheError, RemoteError, FileNotFoundError, trio.TooSlowError)
"""What a call fails with, as programs have to expect."""


class Shown(NamedTuple):
    """What a program is shown under one path; `content` is None if it cannot be had now, or there is none."""

    inode: InodeId
    attributes: tuple[object, ...]
    content: bytes | None


async def shown(device: Device) -> dict[str, Shown]:
    """All that a device shows."""
    found = {}
    for path, state in (await device.calls.tree()).items():
        content = await _content(device, state) if state.kind is InodeKind.FILE else None
        found[path] = Shown(state.inode, _attributes(state), content)
    return found


async def _content(device: Device, state: InodeState) -> bytes | None:
    try:
        return await device.calls.read(state.inode)
    except REFUSALS:
        return None


def _attributes(state: InodeState) -> tuple[object, ...]:
    # What is made in a directory moves its times at each device by itself.
    mtime_ns = 0 if state.kind is InodeKind.DIRECTORY else state.mtime_ns
    xattrs = tuple(sorted(state.xattrs.items()))
    links = (state.nlink, state.uid, state.gid, state.rdev)
    return (state.kind, oct(state.mode), state.size, mtime_ns, state.target, xattrs, *links)


def difference(before: Mapping[str, Shown], now: Mapping[str, Shown]) -> str:
    """What of all that was shown is not there, or not as it was; empty: nothing."""
    for path in sorted(before.keys() | now.keys()):
        if path not in before or path not in now:
            return f"{path!r} {'is gone' if path in before else 'is there again, or new'}"
        was, is_now = before[path], now[path]
        if (was.inode, was.attributes) != (is_now.inode, is_now.attributes):
            return f"{path!r} was {was.inode} {was.attributes}, and is {is_now.inode} {is_now.attributes}"
        if None not in (was.content, is_now.content) and was.content != is_now.content:
            return f"{path!r} had {(was.content or b'')[:60]!r}, and has {(is_now.content or b'')[:60]!r}"
    return ""


class Turn:
    """What one device was shown last, while no other changes anything."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._last: dict[str, Shown] | None = None

    async def look(self) -> str:
        """Between two calls: what has changed since the last look that nobody did; empty: nothing."""
        now = await shown(self._device)
        changed = difference(self._last, now) if self._last is not None else ""
        self._last = now
        return changed

    def forget(self) -> None:
        """Something was done, or was under way when the process died: what is shown next is what holds."""
        self._last = None

    def differs(self, now: Mapping[str, Shown]) -> str:
        """What a device at rest does not show as it was shown last; empty: nothing, or nobody knows."""
        return difference(self._last, now) if self._last is not None else ""
