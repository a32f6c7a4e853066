"""Reading a workspace: directories, inodes and block lists, as of a seq that the device names.

Owns the requests; how a past is read is `history`. Invariant: a device that lists as of its cursor gets nothing
that contradicts what it has applied.
"""

from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, bindparam, func, select

from backend.metadata import schema
from backend.metadata.queries import is_asked, select_in
from backend.service import history, revisions, sight, snapshots, workspaces
from backend.service.caller import Caller
from backend.service.commit.contents import split_runs
from backend.service.ground import Ground
from backend.service.rows import Place
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.history import MomentReply, MomentRequest
from drivefs.protocol.ids import InodeId, WorkspaceId
from drivefs.protocol.messages import (
    ContentReply,
    ContentRequest,
    CountReply,
    Entry,
    InodesReply,
    InodesRequest,
    ListManyReply,
    ListManyRequest,
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

    async def list_many(self, caller: Caller, workspace: WorkspaceId, request: ListManyRequest) -> ListManyReply:
        """The beginnings of several directories, as of a seq.

        Raises:
            ProtocolError: `not_found`, `conflict`.
        """
        return await self._ground.database.read(_list_many, caller, workspace, request)

    async def inodes(self, caller: Caller, workspace: WorkspaceId, request: InodesRequest) -> InodesReply:
        """The states of single inodes as of a seq; unknown ones are left out.

        Raises:
            ProtocolError: `not_found`, `conflict`.
        """
        return await self._ground.database.read(_inodes, caller, workspace, request)

    async def count(self, caller: Caller, workspace: WorkspaceId) -> CountReply:
        """How many inodes there are now, but directories and what has no name.

        Raises:
            ProtocolError: `not_found`.
        """
        return await self._ground.database.read(_count, caller, workspace)

    async def moment(self, caller: Caller, workspace: WorkspaceId, request: MomentRequest) -> MomentReply:
        """Which commit was the newest at a time, or is meant by the name of a snapshot.

        Raises:
            ProtocolError: `not_found`: no such drive or snapshot, or what it was then is not kept any more.
        """
        return await self._ground.database.read(_moment, caller, workspace, request)

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
    seen = sight.look(connection, access, seq)
    children = seen.children(after, request.limit + 1)
    directory = seen.inodes({request.directory}).get(request.directory)
    if directory is None or directory.kind is not InodeKind.DIRECTORY or not directory.nlink:
        raise ProtocolError(Code.NOT_FOUND, "There is no such directory in this drive.")
    states, fitting = seen.first_inodes([inode for _, inode in children[: request.limit]])
    page = children[:fitting]
    entries = [Entry(name=name, inode=states[inode]) for name, inode in page if inode in states]
    return ListReply(directory=directory, entries=entries, seq=seq, more=len(children) > len(page))


def _list_many(
    connection: Connection, caller: Caller, workspace: WorkspaceId, request: ListManyRequest
) -> ListManyReply:
    access = workspaces.require(connection, caller.user, workspace)
    seq = history.readable_seq(access, request.as_of)
    seen = sight.look(connection, access, seq)
    states = seen.inodes(set(request.directories))
    directories = [each for each in sorted(states) if states[each].kind is InodeKind.DIRECTORY and states[each].nlink]
    children = seen.children_of_many(directories, request.limit + 1)
    found, fitting = seen.first_inodes([child.inode for child in children[: request.limit]])
    is_cut = len(children) > fitting
    children = children[: fitting + 1]
    # What lies before the last child is whole; the directory of the last child may go on.
    answered = [each for each in directories if not is_cut or each <= children[-1].parent]
    if is_cut:
        last = children.pop().parent
        if last != children[0].parent:
            answered.pop()
            children = [child for child in children if child.parent != last]
    entries: dict[InodeId, list[Entry]] = {each: [] for each in answered}
    for child in (each for each in children if each.inode in found):
        entries[child.parent].append(Entry(name=child.name, inode=found[child.inode]))
    listings = [ListReply(directory=states[each], entries=named, seq=seq) for each, named in entries.items()]
    if is_cut and last == listings[-1].directory.inode:
        listings[-1].more = True
    return ListManyReply(listings=listings, unanswered=directories[len(answered) :])


def _inodes(connection: Connection, caller: Caller, workspace: WorkspaceId, request: InodesRequest) -> InodesReply:
    access = workspaces.require(connection, caller.user, workspace)
    seq = history.readable_seq(access, request.as_of)
    states = sight.look(connection, access, seq).inodes(set(request.inodes))
    return InodesReply(inodes=list(states.values()))


def _count(connection: Connection, caller: Caller, workspace: WorkspaceId) -> CountReply:
    access = workspaces.require(connection, caller.user, workspace)
    bound = {"account": access.account, "workspace": access.workspace}
    return CountReply(file_count=connection.execute(_COUNT, bound).scalar_one())


def _moment(connection: Connection, caller: Caller, workspace: WorkspaceId, request: MomentRequest) -> MomentReply:
    access = workspaces.require(connection, caller.user, workspace)
    if request.snapshot:
        seq, time_ns = snapshots.moment(connection, access, request.snapshot)
        return MomentReply(seq=history.readable_seq(access, seq), time_ns=time_ns)
    found = workspaces.newest_at(connection, access, request.time_ns)
    if found is None:
        return MomentReply()
    return MomentReply(seq=history.readable_seq(access, found.seq), time_ns=found.time_ns)


def _content(connection: Connection, caller: Caller, workspace: WorkspaceId, request: ContentRequest) -> ContentReply:
    access = sight.home_of(connection, caller, workspace, request.inode)
    found = _revision(connection, access, request)
    if found is None:
        raise ProtocolError(Code.NOT_FOUND, "This revision of the file is not kept any more, or never was.")
    runs = split_runs(found.runs)
    packed = dict(select_in(connection, _RUNS, set(runs), account=access.account))
    return ContentReply(size=found.size, blocks=b"".join(packed[run] for run in runs))


def _revision(connection: Connection, access: workspaces.Access, request: ContentRequest) -> Any:
    """The revision of that number: one that the inode made, or, if asked for, one of the history it goes on with.

    In a history that it has left, a number that it had there means the same as ever.
    """
    bound = {**revisions.seen_by(connection, access, request.inode), "inode": request.inode}
    if request.history:
        found = revisions.find(connection, access, request.inode, request.revision)
        if found is not None:
            return found
    for statement in [_LEFT, _OWN] if request.history else [_OWN]:
        found = connection.execute(statement, {**bound, "number": request.revision}).one_or_none()
        if found is not None:
            return found
    return None


def _revisions(inode: ColumnElement[bool]) -> Select[Any]:
    # A revision that a fork copied stands in two lineages, with the same runs.
    r = schema.revisions.c
    here = (r.account == bindparam("account"), r.number == bindparam("number"), revisions.are_seen())
    return select(r.size, r.runs).where(*here, inode).limit(1)


def _left_lineages() -> Select[Any]:
    c = schema.inode_versions.c
    return select(c.lineage).where(c.account == bindparam("account"), c.inode == bindparam("inode"))


_OWN = _revisions(schema.revisions.c.inode == bindparam("inode"))
_LEFT = _revisions(schema.revisions.c.lineage.in_(_left_lineages()))
_RUNS = select(schema.runs.c.run, schema.runs.c.packed).where(
    schema.runs.c.account == bindparam("account"), is_asked(schema.runs.c.run)
)
_c = schema.inodes.c
_COUNT = select(func.count()).where(
    _c.account == bindparam("account"),
    _c.workspace == bindparam("workspace"),
    _c.nlink > 0,
    _c.kind != InodeKind.DIRECTORY,
)
