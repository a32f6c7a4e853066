"""Public links: files and folders that whoever has the address may download, perhaps with a password and until a time.

Owns the rows, and who may open one; the bytes are `blocks`'. What is downloaded is the content of the file as it is
then: a link follows the file through saves, renames and moves. Invariants: the token is random, shown once, and kept as
a hash only; a link gives nothing that the user who made it does not see any more, or may only read, and nothing at all
once that user was removed; who owns what it leads to is told of it, and may end it; expired, revoked and never made are
answered alike; a wrong password is counted, for the link and for the address, before anything is hashed.
"""

import base64
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from types import NoneType
from typing import Any

import msgspec
from blake3 import blake3
from sqlalchemy import Connection, and_, bindparam, delete, insert, or_, select

from backend.metadata import schema
from backend.metadata.queries import is_asked, select_in
from backend.notify import hub
from backend.service import attempts, history, ids, paths, sight, workspaces
from backend.service.caller import Caller
from backend.service.commit.contents import split_runs
from backend.service.ground import Ground
from backend.service.operations import Asked, once
from backend.service.passwords import Passwords
from backend.service.rows import DIRECTORY, FILE, Place
from backend.service.sight import Sight, Slice
from backend.service.workspaces import Access
from drivefs.protocol import wire
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import AccountId, InodeId, Seq, UserId, WorkspaceId
from drivefs.protocol.links import CreateLinkRequest, LinkInfo, LinkReply, LinksReply, RevokeLinkRequest
from drivefs.protocol.model import BlockRef, InodeState, unpack_blocks

TOKEN_BYTES = 24
PAGE_NAMES = 500
MAX_LINKS = 10_000
"""More links than anybody looks after."""
MOST_WRONG, MOST_FROM_ADDRESS = 20, 100
"""So many wrong passwords are taken in a while for one link, and from one address."""

_l = schema.public_links
_n, _r, _g = schema.runs.c, schema.revisions.c, schema.lineages.c
_i, _m, _u = schema.inodes.c, schema.members.c, schema.users.c
_PACKED = select(_n.run, _n.packed).where(_n.account == bindparam("account"), is_asked(_n.run))
_own = and_(_i.account == bindparam("account"), _i.inode == _l.c.inode)
_members = select(_m.user).where(_m.account == bindparam("account"), _m.user != bindparam("user"))
_BY_OTHERS = (
    select(_l, _u.name.label("user_name"))
    .select_from(_l.join(schema.inodes, _own).join(schema.users, _u.user == _l.c.user))
    .where(_l.c.user.in_(_members))
    .order_by(_l.c.created_ns.desc())
    .limit(MAX_LINKS)
)
"""Links that others made to what is, or was, in an account."""
_REMOVED = select(_u.removed_ns).where(_u.user == bindparam("user"))


@dataclass(frozen=True, slots=True)
class Found:
    """A file, folder or symbolic link that may be downloaded, with the blocks of its content.

    `path` begins with the name of what the link leads to.
    """

    path: bytes
    state: InodeState
    account: AccountId
    blocks: list[BlockRef]


@dataclass(frozen=True, slots=True)
class Opened:
    """What a link leads to, and who made it; a folder is given as it was at a commit of that user's drive."""

    link: int
    top: Found
    user: UserId
    drive: WorkspaceId
    seq: Seq


class Links:
    """Makes links, and opens them for whoever has the address."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._passwords = Passwords(ground.offload, ground.random_bytes)

    async def create(self, caller: Caller, request: CreateLinkRequest) -> LinkReply:
        """Make a link to a file of the caller's drive; the reply alone has its token.

        Raises:
            ProtocolError: `not_found`: no such file; `forbidden`: the caller may only read it; `conflict`: it is no
                file; `too_large`: there are too many links.
        """
        hashed = await self._passwords.hash(request.password) if request.password else None
        token = self._token(caller, request)
        info = await self._ground.database.write(self._create, caller, request, token, hashed)
        return LinkReply(link=info, token=token)

    def _token(self, caller: Caller, request: CreateLinkRequest) -> str:
        """The address, of what was drawn for it here, or by who asks for it: then it is the same when asked again."""
        drawn = (
            b"%d %b" % (caller.device, wire.encode(request)) if request.op else self._ground.random_bytes(TOKEN_BYTES)
        )
        token = blake3(drawn, derive_key_context="drivefs public link address v1").digest(length=TOKEN_BYTES)
        return base64.urlsafe_b64encode(token).decode()

    async def known(self, caller: Caller) -> LinksReply:
        """The links that the caller made, and those that lead to what the caller owns; none that has expired.

        The newest first.
        """
        return LinksReply(links=await self._ground.database.read(self._known, caller))

    async def revoke(self, caller: Caller, request: RevokeLinkRequest) -> None:
        """End a link for good, at once.

        Raises:
            ProtocolError: `not_found`: the caller made no such link, and does not own what it leads to.
        """
        await self._ground.database.write(self._revoke, caller, request)
        self._ground.hub.wake(hub.of_link(request.link))

    async def open(self, token: str, password: str | None, address: str) -> Opened:
        """What a token leads to.

        Raises:
            ProtocolError: `not_found`: to nothing, any more or ever; `wrong_password`: it needs one, or another one;
                `too_many_attempts`.
        """
        database = self._ground.database
        row = await database.read(self._find, token)
        if row.password_hash is not None:
            await self._check(row, password, address)
        return await database.read(self._content, row)

    async def check(self, opened: Opened) -> None:
        """See whether a link that was opened is still there, and leads to something.

        Raises:
            ProtocolError: `not_found`.
        """
        await self._ground.database.read(_stands, opened)

    async def _check(self, row: Any, password: str | None, address: str) -> None:
        refused = ProtocolError(Code.WRONG_PASSWORD, "This link needs a password, or another one than this.")
        if password is None:
            raise refused
        subjects = {f"link:{row.link}": MOST_WRONG, f"link address:{address}": MOST_FROM_ADDRESS}
        now_ns = self._ground.now_ns()
        await self._ground.database.write(attempts.begin, subjects, now_ns)
        if not await self._passwords.matches(password, row.password_hash):
            raise refused
        await self._ground.database.write(attempts.take_back, subjects, now_ns)

    async def walk(self, opened: Opened) -> AsyncGenerator[Found, None]:
        """All that is in a folder, folders before what is in them; nothing for a file.

        Raises:
            ProtocolError: `not_found`: it may not be seen any more.
        """
        waiting = [opened.top] if opened.top.state.kind == DIRECTORY else []
        while waiting:
            directory, after = waiting.pop(), b""
            while page := await self._ground.database.read(_inside, opened, directory, after):
                after = page[-1].path.rpartition(b"/")[2]
                for each in page:
                    yield each
                    if each.state.kind == DIRECTORY:
                        waiting.append(each)

    def _create(
        self, connection: Connection, caller: Caller, request: CreateLinkRequest, token: str, hashed: str | None
    ) -> LinkInfo:
        asked = Asked(caller, request, self._ground.now_ns())
        return once(connection, asked, LinkInfo, lambda: self._make(connection, caller, request, token, hashed))

    def _make(
        self, connection: Connection, caller: Caller, request: CreateLinkRequest, token: str, hashed: str | None
    ) -> LinkInfo:
        part, state = _file(connection, caller.user, request.inode)
        if part.access.role not in workspaces.WRITERS:
            raise ProtocolError(Code.FORBIDDEN, "This is shared with you to be read: its owner can make a link to it.")
        if len(self._made_by(connection, caller)) >= MAX_LINKS:
            raise ProtocolError(Code.TOO_LARGE, f"There are {MAX_LINKS} links already. Revoke some.")
        row = {
            "link": ids.random_id(self._ground.random_bytes),
            "token_hash": _hash_token(token),
            "user": caller.user,
            "inode": request.inode,
            "lineage": state.lineage,
            "created_ns": self._ground.now_ns(),
            "expires_ns": request.expires_ns or None,
            "password_hash": hashed,
        }
        connection.execute(insert(_l), row)
        found = connection.execute(select(_l).where(_l.c.link == row["link"])).one()
        return self._info(connection, caller, found)

    def _revoke(self, connection: Connection, caller: Caller, request: RevokeLinkRequest) -> None:
        asked = Asked(caller, request, self._ground.now_ns())
        once(connection, asked, NoneType, lambda: _revoke(connection, caller, request))

    def _known(self, connection: Connection, caller: Caller) -> list[LinkInfo]:
        own = [self._info(connection, caller, row) for row in self._made_by(connection, caller)]
        return sorted([*own, *self._by_others(connection, caller)], key=lambda each: each.created_ns, reverse=True)

    def _made_by(self, connection: Connection, caller: Caller) -> list[Any]:
        return [row for row in connection.execute(select(_l).where(_l.c.user == caller.user)) if self._is_valid(row)]

    def _by_others(self, connection: Connection, caller: Caller) -> Iterator[LinkInfo]:
        """Those that give what the caller owns: who may not change it any more has links that give nothing."""
        for row in connection.execute(_BY_OTHERS, {"account": caller.account, "user": caller.user}).all():
            info = self._info(connection, caller, row)
            if self._is_valid(row) and info.path is not None:
                yield msgspec.structs.replace(info, user=row.user_name)

    def _info(self, connection: Connection, caller: Caller, row: Any) -> LinkInfo:
        try:
            part, state = _current(connection, row)
            path = paths.of_inode(connection, workspaces.own_drive(connection, caller.user), part.access, state.inode)
        except ProtocolError:
            path = None
        return LinkInfo(
            link=row.link,
            path=path,
            created_ns=row.created_ns,
            expires_ns=row.expires_ns or 0,
            has_password=row.password_hash is not None,
        )

    def _is_valid(self, row: Any) -> bool:
        return row.expires_ns is None or row.expires_ns > self._ground.now_ns()

    def _find(self, connection: Connection, token: str) -> Any:
        row = connection.execute(select(_l).where(_l.c.token_hash == _hash_token(token))).one_or_none()
        if row is None or not self._is_valid(row):
            raise _nothing()
        return row

    def _content(self, connection: Connection, row: Any) -> Opened:
        part, state = _current(connection, row)
        home = workspaces.own_drive(connection, row.user)
        path = paths.of_inode(connection, home, part.access, state.inode) or b"file"
        top = _found(connection, part.access, path.rpartition(b"/")[2], state)
        return Opened(row.link, top, row.user, home.workspace, home.head_seq)


def _nothing() -> ProtocolError:
    return ProtocolError(Code.NOT_FOUND, "There is nothing at this address, or not any more.")


def _hash_token(token: str) -> bytes:
    """What the database keeps of a token; tokens are random, so a plain hash does."""
    return blake3(token.encode(), derive_key_context="drivefs public link v1").digest()


def _file(connection: Connection, user: UserId, inode: InodeId) -> tuple[Slice, InodeState]:
    """A file with a name, as a user sees it."""
    home = workspaces.own_drive(connection, user)
    seen = sight.look(connection, home, home.head_seq)
    state = seen.inodes([inode]).get(inode)
    if state is None or not state.nlink:
        raise _nothing()
    if state.kind not in (FILE, DIRECTORY) or inode == home.root:
        raise ProtocolError(Code.CONFLICT, "Only a file or a folder can have a link. Nothing was changed.")
    return seen.slice_of(inode), state


def _look(connection: Connection, home: Access, seq: Seq) -> Sight:
    """What a user may give links to: not what others share with that user to be read, in whatever folder it hangs."""
    seen = sight.look(connection, home, seq)
    return Sight(connection, [part for part in seen.slices if part.access.role in workspaces.WRITERS])


def _current(connection: Connection, row: Any) -> tuple[Slice, InodeState]:
    """The file that a link leads to now: what goes on with the history of the one that it was made for.

    Once another file does, the one that it was made for is an older copy of it, which nobody has published.
    """
    if connection.execute(_REMOVED, {"user": row.user}).scalar_one() is not None:
        raise _nothing()
    home = workspaces.own_drive(connection, row.user)
    for part in _look(connection, home, home.head_seq).slices:
        own = (_g.account == part.access.account, _g.lineage == row.lineage)
        heir = connection.execute(select(_g.inode).where(*own)).scalar_one_or_none()
        inode = row.inode if heir is None else heir
        state = history.inodes_at(connection, part.access, [inode], part.access.head_seq).get(inode)
        if state is not None and state.nlink:
            return part, state
    raise _nothing()


def _stands(connection: Connection, opened: Opened) -> None:
    row = connection.execute(select(_l).where(_l.c.link == opened.link)).one_or_none()
    if row is None:
        raise _nothing()
    _current(connection, row)


def _found(connection: Connection, access: Access, path: bytes, state: InodeState) -> Found:
    packed = state.blocks if state.blocks is not None else _long_list(connection, access.account, state)
    return Found(path, state, access.account, unpack_blocks(packed))


def _inside(connection: Connection, opened: Opened, directory: Found, after: bytes) -> list[Found]:
    """A page of what is in a folder, in byte order of the names."""
    home = workspaces.own_drive(connection, opened.user)
    seen = _look(connection, home, opened.seq)
    # What somebody else's share has, hangs in this folder unknown to its owner: that has links of its own.
    seen = Sight(connection, [part for part in seen.slices if part.access.account == opened.top.account])
    inode = directory.state.inode
    if inode not in seen.inodes([inode]):
        raise _nothing()
    named = seen.children(Place(inode, after), PAGE_NAMES)
    states = seen.inodes({child for _, child in named})
    return [
        _found(connection, seen.slice_of(child).access, directory.path + b"/" + name, states[child])
        for name, child in named
        if child in states
    ]


def _long_list(connection: Connection, account: AccountId, state: InodeState) -> bytes:
    key = (_r.account == account, _r.lineage == state.lineage, _r.number == state.revision)
    named = split_runs(connection.execute(select(_r.runs).where(*key)).scalar_one())
    packed = dict(select_in(connection, _PACKED, set(named), account=account))
    return b"".join(packed[run] for run in named)


def _revoke(connection: Connection, caller: Caller, request: RevokeLinkRequest) -> None:
    is_own = select(_i.inode).where(_i.account == caller.account, _i.inode == _l.c.inode).exists()
    same = (_l.c.link == request.link, or_(_l.c.user == caller.user, is_own))
    if not connection.execute(delete(_l).where(*same)).rowcount:
        raise ProtocolError(Code.NOT_FOUND, "You have no such link. Nothing was changed.")
