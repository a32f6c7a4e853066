"""Two users of one server, each with a drive and a device, and what they say about shares."""

from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import Connection, insert

from backend.metadata import schema
from backend.service import workspaces
from backend.service.shares import Shares
from backend.service.workspaces import Home
from drivefs.protocol import messages, sharing
from drivefs.protocol.ids import InodeId, RevisionNumber, Seq, UserId, WorkspaceId
from drivefs.protocol.model import InodeKind
from tests.backend.service.drive import Device, Drive, open_drive, say

BERT = UserId(8)


@dataclass
class Neighbours:
    """Anna owns what is shared; Bert is invited."""

    anna: Device
    bert: Device
    shares: Shares

    async def share(self, inode: InodeId, role: str = "editor") -> WorkspaceId:
        """Share and accept."""
        request = sharing.ShareRequest(inode=inode, user="bert", role="viewer" if role == "viewer" else "editor")
        info = await self.shares.share(self.anna.caller, request)
        await self.shares.answer(self.bert.caller, sharing.AnswerRequest(share=info.share, accept=True))
        return info.share

    async def end(self, share: WorkspaceId) -> None:
        await self.shares.unshare(self.anna.caller, sharing.UnshareRequest(share=share, user="bert"))

    async def tree(self) -> tuple[InodeId, InodeId]:
        """A folder with a file in it."""
        folder = await self.anna.make(b"folder", kind=InodeKind.DIRECTORY)
        return folder, await self.anna.save(b"file", b"content", parent=folder)

    async def pages(self, device: Device, after: int = 1, limit: int = 5000) -> list[messages.FeedPage]:
        """What a device hears that stands at a commit."""
        cursors = await device.drive.database.read(_cursor, device, Seq(after))
        request = messages.ChangesRequest(cursors=[cursors], limit=limit)
        found = []
        while pages := (await device.drive.changes.read(device.caller, request)).pages:
            found += pages
            request.cursors[0].cursor = pages[0].cursor
        return found

    async def write_in_share(self, device: Device, inode: InodeId, content: bytes, base: int = 0) -> str:
        """Store as an upload to the owner's account leaves it."""
        sender = replace(device, caller=replace(device.caller, account=self.anna.caller.account))
        blocks = await device.drive.upload(sender, content)
        return say((await device.send(device.store(inode, blocks, base)))[0])


def _cursor(connection: Connection, device: Device, seq: Seq) -> messages.WorkspaceCursor:
    access = workspaces.require(connection, device.caller.user, device.drive.workspace)
    incarnation = workspaces.ids.incarnation(connection)
    cursor = workspaces.cursor_at(connection, access, incarnation, seq)
    return messages.WorkspaceCursor(workspace=access.workspace, cursor=cursor)


def _settle(connection: Connection, drive: Drive) -> Home:
    row = {"user": BERT, "name": "bert", "password_hash": "", "created_ns": 0}
    connection.execute(insert(schema.users), row)
    ground = drive.ground
    return workspaces.create_home(connection, BERT, now_ns=ground.now_ns(), random_bytes=ground.random_bytes)


async def neighbours(directory: Path) -> Neighbours:
    drive = await open_drive(directory)
    home = await drive.database.write(_settle, drive)
    anna = await drive.device()
    other = replace(drive, home=home, user=BERT, device_count=50)
    bert = await other.device()
    bert.time_ns += 10**9
    return Neighbours(anna, bert, Shares(drive.ground))


async def content_of(device: Device, inode: InodeId) -> bytes:
    state = await device.known(inode)
    return (await device.content(inode, RevisionNumber(state.revision))).blocks
