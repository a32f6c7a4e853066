"""Reading a workspace: directories, inodes and block lists, as of a seq that the device names.

Owns the three requests; how a past is read is `history`. Invariant: a device that lists as of its cursor gets nothing
that contradicts what it has applied.
"""

from sqlalchemy import Connection, select

from backend.metadata import schema
from backend.metadata.queries import select_in
from backend.service import history, workspaces
from backend.service.caller import Caller
from backend.service.commit.contents import split_runs
from backend.service.ground import Ground
from backend.service.rows import Place
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import WorkspaceId
from drivefs.protocol.messages import (
    ContentReply,
    ContentRequest,
    Entry,
    InodesReply,
    InodesRequest,
    ListReply,
    ListRequest,
)
from drivefs.protocol.model import InodeKind


class Listing:
    """Answers what a tree holds."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    async def list_directory(self, caller: Caller, workspace: WorkspaceId, request: ListRequest) -> ListReply:
        """One page of a directory, in byte order of the names, as of a seq.

        Raises:
            ProtocolError: `not_found`: no such directory then; `conflict`: the seq is ahead of the workspace.
        """
        return await self._ground.database.read(_list_directory, caller, workspace, request)

    async def inodes(self, caller: Caller, workspace: WorkspaceId, request: InodesRequest) -> InodesReply:
        """The states of single inodes as of a seq; unknown ones are left out.

        Raises:
            ProtocolError: `not_found`, `conflict`.
        """
        return await self._ground.database.read(_inodes, caller, workspace, request)

    async def content(self, caller: Caller, workspace: WorkspaceId, request: ContentRequest) -> ContentReply:
        """The block list of a revision.

        Raises:
            ProtocolError: `not_found`.
        """
        return await self._ground.database.read(_content, caller, workspace, request)


def _list_directory(connection: Connection, caller: Caller, workspace: WorkspaceId, request: ListRequest) -> ListReply:
    access = workspaces.require(connection, caller.user, workspace)
    seq = history.readable_seq(access, request.as_of)
    after = Place(request.directory, request.after)
    children = history.children_at(connection, access, after, request.limit + 1, seq)
    page = children[: request.limit]
    states = history.inodes_at(connection, access, {request.directory, *(inode for _, inode in page)}, seq)
    directory = states.get(request.directory)
    if directory is None or directory.kind is not InodeKind.DIRECTORY or not directory.nlink:
        raise ProtocolError(Code.NOT_FOUND, "There is no such directory in this drive.")
    entries = [Entry(name=name, inode=states[inode]) for name, inode in page]
    return ListReply(directory=directory, entries=entries, seq=seq, more=len(children) > len(page))


def _inodes(connection: Connection, caller: Caller, workspace: WorkspaceId, request: InodesRequest) -> InodesReply:
    access = workspaces.require(connection, caller.user, workspace)
    seq = history.readable_seq(access, request.as_of)
    states = history.inodes_at(connection, access, set(request.inodes), seq)
    return InodesReply(inodes=list(states.values()))


def _content(connection: Connection, caller: Caller, workspace: WorkspaceId, request: ContentRequest) -> ContentReply:
    access = workspaces.require(connection, caller.user, workspace)
    r, n = schema.revisions, schema.runs
    # A revision that a fork copied stands in two lineages, with the same runs.
    statement = select(r.c.size, r.c.runs).where(
        r.c.account == access.account,
        r.c.inode == request.inode,
        r.c.number == request.revision,
        r.c.workspace == workspace,
    )
    found = connection.execute(statement.limit(1)).one_or_none()
    if found is None:
        raise ProtocolError(Code.NOT_FOUND, "This revision of the file is not kept any more, or never was.")
    runs = split_runs(found.runs)
    columns = select(n.c.run, n.c.packed).where(n.c.account == access.account)
    packed = dict(select_in(connection, columns, n.c.run, set(runs)))
    return ContentReply(size=found.size, blocks=b"".join(packed[run] for run in runs))
