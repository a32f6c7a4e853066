"""What a mount answers to `drivefs pin`, `unpin` and `pins`.

Owns the shape of the answers. A pin is durable when it is answered; the bytes come in the background, and no answer
waits for them.
"""

from typing import Any

from cache.workspace import LocalState
from drivefs.control.errors import Refused
from drivefs.control.server import Handler, Report
from drivefs.protocol.ids import InodeId
from drivefs.sync.pins import PinnedTrees, Presence
from drivefs.sync.prefetch import Prefetcher


class Pinning:
    """The handlers of one mount."""

    def __init__(self, local: LocalState, trees: PinnedTrees, prefetcher: Prefetcher) -> None:
        self._local = local
        self._trees = trees
        self._prefetcher = prefetcher

    def table(self) -> dict[str, Handler]:
        """The commands."""
        return {"pin": self.pin, "unpin": self.unpin, "pins": self.pins}

    def lacking(self) -> str:
        """A sentence for `status` if not all that is pinned can be kept, or an empty string."""
        size, limit = self._prefetcher.lacking_bytes, self._local.blocks.protected_limit_bytes
        if not size:
            return ""
        lacking = f"{-(-size // 2**20)} MiB of what is pinned are not kept on this device"
        if self._local.blocks.protected_bytes + size <= limit:
            return (
                f"{lacking}: the disk of the cache has no room for it (drivefs cache show names the place). Make room "
                "there and mount again"
            )
        return (
            f"{lacking}: pins may take {limit // 2**20} MiB of the cache. Unpin something, or set cache_size or "
            "pin_size in config.toml and mount again"
        )

    async def pin(self, arguments: dict[str, Any], report: Report) -> dict[str, Any]:
        """Pin the inodes `inodes`; gives the bounds, for a warning."""
        found = [InodeId(inode) for inode in arguments["inodes"]]
        for inode in found:
            if self._local.journal.overlay.inode(inode) is None and self._local.replica.inode(inode) is None:
                raise Refused("not_found", "nothing is known of this file on this device")
        for inode in found:
            self._trees.pins.put(inode, self._trees.path_of(inode) or b"")
        await self._local.journal.log_barrier()
        self._prefetcher.pins_changed()
        return self._bounds()

    async def unpin(self, arguments: dict[str, Any], report: Report) -> dict[str, Any]:
        """Pin the inodes `inodes` no longer; `unpinned` are those that were, `covered` those still covered by a pin."""
        found = [InodeId(inode) for inode in arguments["inodes"]]
        unpinned = [inode for inode in found if self._trees.pins.remove(inode)]
        await self._local.journal.log_barrier()
        self._prefetcher.pins_changed()
        return {"unpinned": unpinned, "covered": [inode for inode in found if self._trees.covers(inode)]}

    async def pins(self, arguments: dict[str, Any], report: Report) -> dict[str, Any]:
        """All pins, with how much of each is here, and whether anything is being fetched."""
        found = [self._told(await self._trees.presence(root)) for root in list(self._trees.pins.roots)]
        return {"pins": found, **self._bounds()}

    def _bounds(self) -> dict[str, Any]:
        return {
            "busy": self._prefetcher.is_busy,
            "kept_bytes": self._local.blocks.protected_bytes,
            "limit_bytes": self._local.blocks.protected_limit_bytes,
            "lacking_bytes": self._prefetcher.lacking_bytes,
        }

    @staticmethod
    def _told(presence: Presence) -> dict[str, Any]:
        return {
            "path": presence.path,
            "inode": presence.inode,
            "files": presence.file_count,
            "bytes": presence.total_bytes,
            "here_bytes": presence.here_bytes,
            "complete": presence.is_complete,
        }
