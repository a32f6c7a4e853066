"""I13: who may not change a share changes nothing in it, and who is no member of it is given nothing of it.

Owns the judgement of each commit, by the members that the tables have in its own transaction, and the questions that
are asked when all is at rest: a device of each user, which knows all ids, asks for each inode that is not its user's to
see, for its names, its history and its contents, and for the blocks of all that it ever had. Which those are is taken
from the commits, not from what the server lists.
"""

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, bindparam, select

from backend.metadata import schema
from backend.metadata.schema import MemberState
from backend.service.workspaces import WRITERS
from drivefs.protocol.errors import ProtocolError
from drivefs.protocol.history import RevisionsRequest
from drivefs.protocol.ids import BlockId, InodeId, UserId, WorkspaceId
from drivefs.protocol.messages import ContentRequest, InodesRequest, ListRequest
from drivefs.protocol.model import unpack_blocks
from tests.simulation.orders import Orders
from tests.simulation.server import Login, ServerProcess

_m = schema.members.c
_MEMBER = select(_m.role, _m.state).where(_m.workspace == bindparam("of"), _m.user == bindparam("member"))


def is_barred(connection: Connection, user: UserId, workspace: WorkspaceId) -> bool:
    """Whether a user may not change a workspace at this moment."""
    row = connection.execute(_MEMBER, {"of": workspace, "member": user}).one_or_none()
    return row is None or row.state != MemberState.ACTIVE or row.role not in WRITERS


async def given(server: ServerProcess, login: Login, orders: Orders) -> str:
    """What the server gives a user that it must not; empty: nothing."""
    seen, trees = orders.ever_in(login.workspace), orders.sequence.trees.values()
    known = {inode for tree in trees for inode in tree.inodes}
    asked = _Asked(server, login)
    for inode in sorted(known - seen):
        if told := await asked.about(InodeId(inode)):
            return f"{login.user} may not see inode {inode}, and is told {told}"
    stored = {(inode, packed) for (inode, _), packed in orders.sequence.stored.items()}
    stored |= {(inode, sort.blocks) for tree in trees for inode, sort in tree.inodes.items()}
    blocks = {ref.block for inode, packed in stored if inode not in seen for ref in unpack_blocks(packed)}
    blocks -= {ref.block for inode, packed in stored if inode in seen for ref in unpack_blocks(packed)}
    if served := await asked.blocks(sorted(blocks)):
        return f"{login.user} may not see what has blocks {[block.hex() for block in served]}, and is given them"
    return ""


class _Asked:
    """One user's device asks."""

    def __init__(self, server: ServerProcess, login: Login) -> None:
        self._services = server.services
        self._login = login

    async def about(self, inode: InodeId) -> str:
        """What is told of an inode; empty: as of one that does not exist."""
        listing, revisions = self._services.listing, self._services.revisions
        questions: list[tuple[Any, Any]] = [
            (listing.inodes, InodesRequest(inodes=[inode])),
            (listing.list_directory, ListRequest(directory=inode)),
            (revisions.list, RevisionsRequest(inode=inode)),
            (listing.content, ContentRequest(inode=inode, revision=1)),  # type: ignore[arg-type]
        ]
        for ask, question in questions:
            try:
                told = await ask(self._login.caller, self._login.workspace, question)
            except ProtocolError:
                continue
            if getattr(told, "inodes", True):
                return f"{told}"[:200]
        return ""

    async def blocks(self, wanted: Collection[BlockId]) -> list[BlockId]:
        """Those that are served from the room of somebody else."""
        blocks = self._services.blocks
        located = await blocks.locate(self._login.caller, self._login.workspace, list(wanted))
        return [block for block, account in located.accounts.items() if account != self._login.caller.account]
