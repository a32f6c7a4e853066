"""What a mount answers to the commands about shares and links: what a path means, and what the server says.

Owns the shape of the answers, and the wait for what was changed before: only what the server has can be shared.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from drivefs.control import waiting
from drivefs.control.errors import Refused
from drivefs.control.paths import inode_at, sent_inode_at, shown
from drivefs.control.server import Handler, Report
from drivefs.fs.filesystem import FileSystem
from drivefs.protocol.ids import WorkspaceId
from drivefs.protocol.links import ADDRESS, CreateLinkRequest
from drivefs.protocol.sharing import AnswerRequest, ShareRequest, UnshareRequest
from drivefs.remote import errors
from drivefs.sync.ends import Ends
from drivefs.sync.engine import Engine

SENT_SECONDS = 60.0


class Sharing:
    """The handlers of one mount."""

    def __init__(self, filesystem: FileSystem, ends: Ends, engine: Engine) -> None:
        self._fs = filesystem
        self._local = ends.local
        self._remote = ends.remote
        self._operation = ends.operation
        self._engine = engine

    def table(self) -> dict[str, Handler]:
        """The commands."""
        return {"share": self.share, "unshare": self.unshare, "leave": self.leave, "link_create": self.create_link}

    async def share(self, arguments: dict[str, Any], report: Report) -> dict[str, Any]:
        """Invite `user` to the folder at `path` as `role`; or give another role to who is there."""
        path: bytes = arguments["path"]
        inode = await sent_inode_at(self._fs, path)
        above, _, name = path.rstrip(b"/").rpartition(b"/")
        parent = await inode_at(self._fs, above)
        await self._send()
        with _refusing():
            request = ShareRequest(
                inode=inode, parent=parent, name=name, user=arguments["user"], role=arguments["role"]
            )
            info = await self._remote.share(request)
        invited = next((each.is_invited for each in info.members if each.user == arguments["user"]), False)
        return {"id": info.share, "path": path, "is_invited": invited}

    async def unshare(self, arguments: dict[str, Any], report: Report) -> None:
        """End the membership of `user` in the share at `path`, or of all (None)."""
        share = await self._share_at(arguments["path"])
        with _refusing():
            await self._remote.unshare(UnshareRequest(op=self._operation(), share=share, user=arguments["user"]))

    async def leave(self, arguments: dict[str, Any], report: Report) -> None:
        """Leave the share at `path`, when what was changed in it has been sent."""
        share = await self._share_at(arguments["path"])
        await self._send()
        with _refusing():
            await self._remote.answer(AnswerRequest(op=self._operation(), share=share))

    async def create_link(self, arguments: dict[str, Any], report: Report) -> dict[str, Any]:
        """Make a public link to the file at `path`, until `expires_ns` (0: for ever), with `password` (empty: without).

        `url` is told once: the server keeps a hash of it only.
        """
        path: bytes = arguments["path"]
        inode = await sent_inode_at(self._fs, path)
        await self._send()
        with _refusing():
            until_ns, password = arguments["expires_ns"], arguments["password"]
            request = CreateLinkRequest(op=self._operation(), inode=inode, expires_ns=until_ns, password=password)
            made = await self._remote.create_link(request)
        return {"id": made.link.link, "url": self._remote.url.rstrip("/") + ADDRESS.format(token=made.token)}

    async def _send(self) -> None:
        """Have what was changed before with the server: what it does not know it takes for nothing."""
        is_sent = await waiting.all_sent(self._engine, self._local, SENT_SECONDS)
        reach = self._engine.connection.reach
        if not is_sent and not reach.online:
            raise _unavailable(reach.reason)

    async def _share_at(self, path: bytes) -> WorkspaceId:
        inode = await inode_at(self._fs, path)
        share = self._local.shares.roots.get(inode)
        if share is None:
            raise Refused("not_found", f"{shown(path)} is not a share: drivefs shares lists those that there are")
        return share.workspace


@contextmanager
def _refusing() -> Iterator[None]:
    """Say what the server says."""
    try:
        yield
    except errors.Refused as error:
        raise Refused("failed", str(error).rstrip(".")) from error
    except errors.RemoteError as error:
        raise _unavailable(str(error)) from error


def _unavailable(why: str) -> Refused:
    return Refused("unavailable", f"only the server can do this, and it cannot be asked now: {why}")
