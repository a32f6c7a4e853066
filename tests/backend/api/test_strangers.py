"""What every route gives to those who may not have it: nothing of a share, nothing of its owner's drive.

One table has for each route what an attacker asks, who knows all ids; a route without an entry fails. Whatever is
asked, no reply has a secret in it, and no row of the owner's is another afterwards.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from sqlalchemy import Connection, select
from starlette.routing import Mount, Route

from backend import app
from backend.api import problems
from backend.api.sync import SyncApi
from backend.metadata import schema
from backend.service.ground import Limits
from drivefs.protocol import blocks as codec
from drivefs.protocol import changes, history, links, messages, model, notifications, routes, sharing
from drivefs.protocol.ids import (
    AccountId,
    BlockId,
    DeviceId,
    Epoch,
    InodeId,
    OpNumber,
    RevisionNumber,
    Seq,
    WorkspaceId,
)
from tests.backend.api.served import SESSION, Drive, Request, Served, framed, serving

pytestmark = pytest.mark.anyio
CONTENTS = IN_SHARE, PRIVATE, REMOVED, EARLY, PAST = [codec.block_id(b"%d" % n) for n in range(5)]
NAMES = (b"name-in-share", b"name-in-drive", b"name-in-trash", b"name-before-it-was-shared")
OUTSIDERS = ("stranger", "pending", "ended", "left")
BLOCKS = [codec.block_id(each) for each in CONTENTS]
SNAPSHOT = "name-of-snapshot"
ECHOES = (routes.GET_BLOCKS, routes.MISSING, routes.COMMIT, routes.MOMENT, routes.DELETE_SNAPSHOT)
"""These name the blocks, or the snapshot, that they were asked for."""


OPEN = {routes.HEALTH, "/readyz", routes.DESCRIPTION, links.ADDRESS}
"""What is asked without a token of a device."""
IDS = {AccountId, BlockId, DeviceId, InodeId, WorkspaceId}
OWN_IDS: set[tuple[str, str]] = set()
"""These can only be what the asking device has given itself."""


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@dataclass
class Scene:
    """Anna's drive with a folder that is shared, and all that there is to know of it.

    From the folder, `early` was removed before it was shared, and `changed` had another content.
    """

    anna: Served
    owner: Drive
    share: WorkspaceId
    folder: InodeId
    file: InodeId
    private: InodeId
    removed: InodeId
    early: InodeId
    changed: InodeId
    others: dict[str, Served]
    link: int
    account: AccountId
    device: DeviceId
    since: Seq

    def inodes(self) -> list[InodeId]:
        return [self.folder, self.file, self.changed, *self.of_owner()]

    def of_owner(self) -> list[InodeId]:
        """What no member may see."""
        return [self.private, self.removed, self.early, self.owner.root]

    def secrets(self, who: str) -> set[Any]:
        """What this user may never be told, but what he has asked for himself."""
        private = {*CONTENTS[1:], *NAMES[1:], *BLOCKS[1:], *map(int, self.of_owner())}
        if who not in OUTSIDERS:
            return private
        return private | {IN_SHARE, NAMES[0], int(self.file), int(self.changed), BLOCKS[0]}


@asynccontextmanager
async def a_scene(data: Path) -> AsyncIterator[Scene]:
    async with serving(data, Limits(quota_bytes=2**24)) as anna:
        session = (await anna.post(routes.SESSION, SESSION)).message(messages.SessionReply)
        ranges = await anna.post(routes.ID_RANGES, messages.IdRangesRequest(epoch=Epoch(session.epoch)))
        owner = Drive(anna, session, ranges.message(messages.IdRangesReply).starts[0])
        root = owner.root
        await owner.make_directory(10, b"folder")
        folder, file, private, removed = (InodeId(owner.start + n) for n in (10, 60, 30, 40))
        await owner.store_file(30, NAMES[1], PRIVATE)
        await owner.store_file(40, NAMES[2], REMOVED)
        gone = {"inode": removed, "parent": root, "name": NAMES[2], "base": changes.Base(revision=RevisionNumber(1))}
        await owner._commit(50, [changes.Unlink(n=OpNumber(50), time_ns=1, **gone)])
        owner.root = folder
        await owner.store_file(60, NAMES[0], IN_SHARE)
        early, changed = InodeId(owner.start + 70), InodeId(owner.start + 80)
        await owner.store_file(70, NAMES[3], EARLY)
        gone |= {"inode": early, "parent": folder, "name": NAMES[3]}
        await owner._commit(75, [changes.Unlink(n=OpNumber(75), time_ns=1, **gone)])
        await owner.store_file(80, b"changed", PAST)
        await owner.write_anew(90, 80, IN_SHARE, base=1)
        owner.root = root
        link = (await anna.post(routes.CREATE_LINK, links.CreateLinkRequest(inode=private))).message(links.LinkReply)
        await anna.post(routes.CREATE_SNAPSHOT, history.CreateSnapshotRequest(name=SNAPSHOT))
        others, share = {}, WorkspaceId(0)
        account = session.workspaces[0].account
        for who in (*OUTSIDERS, "viewer", "editor"):
            await anna.services.accounts.add_user(who, "correct horse")
            others[who] = await anna.log_in_as(who)
            if who != "stranger":
                role = sharing.ShareRequest(inode=folder, user=who, role="viewer" if who == "viewer" else "editor")
                share = (await anna.post(routes.SHARE, role)).message(sharing.ShareInfo).share
            if who not in ("stranger", "pending"):
                await others[who].post(routes.ANSWER, sharing.AnswerRequest(share=share, accept=True))
        await anna.post(routes.UNSHARE, sharing.UnshareRequest(share=share, user="ended"))
        await others["left"].post(routes.ANSWER, sharing.AnswerRequest(share=share))
        inodes = (folder, file, private, removed, early, changed)
        since = await anna.ground.database.read(_first_seq, share)
        yield Scene(anna, owner, share, *inodes, others, link.link.link, account, session.device, since)


def _first_seq(connection: Connection, share: WorkspaceId) -> Seq:
    w = schema.workspaces.c
    return Seq(connection.execute(select(w.first_seq).where(w.workspace == share)).scalar_one())


def mutations(scene: Scene, who: str) -> list[changes.Mutation]:
    """Everything that could be done to what the attacker names: to the share as well, or only to the rest."""
    root, new = scene.owner.root, InodeId(scene.owner.start + 900)
    named = {"name": NAMES[1], "parent": root, "inode": scene.private}
    at_one = changes.Base(revision=RevisionNumber(1))
    packed = model.pack_blocks([model.BlockRef(BLOCKS[1], len(PRIVATE))])
    content = {"size": len(PRIVATE), "runs": [model.run_id(packed)], "mtime_ns": 2}
    made: list[tuple[Any, dict[str, Any]]] = [
        (changes.Create, {**named, "inode": new, "name": b"new", "kind": model.InodeKind.FILE, "mode": 0o644}),
        (changes.Create, {**named, "name": b"new", "kind": model.InodeKind.FILE, "mode": 0o644}),
        (changes.Link, {**named, "name": b"linked"}),
        (changes.Link, {**named, "name": b"linked", "parent": scene.folder}),
        (changes.Rename, {**named, "new_parent": scene.folder, "new_name": b"moved"}),
        (changes.Rename, {**named, "new_parent": root, "new_name": b"moved"}),
        (changes.Rename, {**named, "inode": scene.folder, "name": b"folder", "new_parent": root, "new_name": b"away"}),
        (changes.Rename, {**named, "new_parent": root, "new_name": b"folder", "replaced": scene.folder}),
        (changes.Exchange, {**named, "other_parent": scene.folder, "other_name": NAMES[0], "other": scene.file}),
        (changes.SetAttributes, {"inode": scene.private, "mode": 0o777}),
        (changes.SetXattr, {"inode": scene.private, "name": b"user.x", "value": b"y"}),
        (changes.Store, {"inode": scene.private, "base": at_one, "new_runs": [packed], **content}),
        (changes.Store, {"inode": scene.private, "base": at_one, **content}),
        (changes.Restore, {"inode": scene.removed, "parent": root, "name": b"back"}),
        (changes.Restore, {"inode": scene.removed, "parent": scene.folder, "name": b"back"}),
        (changes.Unlink, {**named, "base": at_one}),
        (changes.Restore, {"inode": scene.early, "parent": root, "name": b"back"}),
        (changes.Restore, {"inode": scene.early, "parent": scene.folder, "name": b"back"}),
        (changes.Unlink, {"inode": scene.early, "parent": scene.folder, "name": NAMES[3], "base": at_one}),
        (changes.SetAttributes, {"inode": scene.early, "mode": 0o777}),
        (changes.Create, {**named, "parent": scene.early, "inode": new, "kind": model.InodeKind.FILE, "mode": 0o644}),
    ]
    if who != "editor":
        inside = {"name": NAMES[0], "parent": scene.folder, "inode": scene.file}
        made += [
            (changes.Create, {**inside, "inode": new, "name": b"new", "kind": model.InodeKind.FILE, "mode": 0o644}),
            (changes.SetAttributes, {"inode": scene.file, "mode": 0o777}),
            (changes.SetAttributes, {"inode": scene.folder, "mode": 0o777}),
            (changes.Rename, {**inside, "new_parent": scene.folder, "new_name": b"moved"}),
            (changes.Store, {"inode": scene.file, "base": at_one, "new_runs": [packed], **content}),
            (changes.Unlink, {**inside, "base": at_one}),
        ]
    return [kind(n=OpNumber(100 + n), time_ns=1, **given) for n, (kind, given) in enumerate(made)]


def asked(scene: Scene, who: str, epoch: Epoch) -> dict[str, list[Any]]:
    """What is sent to each route; those about a workspace get it for the own drive, the share and Anna's drive."""
    inodes, workspaces = scene.inodes(), [scene.share, scene.anna.workspace]
    own = inodes if who in OUTSIDERS else scene.of_owner()
    seqs = [Seq(0), Seq(2), Seq(scene.owner.head.seq + 5), scene.since]
    started = msgspec.structs.replace(scene.owner.head, seq=Seq(1))
    batch = messages.CommitRequest(epoch=epoch, watermark=OpNumber(1), mutations=mutations(scene, who))
    upload = messages.Upload(inode=scene.file, parent=scene.folder, name=b"x", size_bytes=2, sent_bytes=1)
    one = RevisionNumber(1)
    return {
        **{route: [None] for route in (routes.USAGE, routes.QUOTA, routes.DEVICES, routes.COUNT, routes.SNAPSHOTS)},
        **{route: [None] for route in (routes.LINKS, routes.MUTED, routes.INVITATIONS, routes.SHARES)},
        routes.LOGIN: [messages.LoginRequest(user="ann", password="correct hors", device="d")],
        routes.PASS: [None],
        routes.LOGOUT: [],  # it ends who asks
        routes.SESSION: [SESSION],
        routes.ID_RANGES: [messages.IdRangesRequest(epoch=scene.owner.epoch)],
        routes.CHANGES: [
            messages.ChangesRequest(cursors=[messages.WorkspaceCursor(workspace=each, cursor=started)])
            for each in workspaces
        ],
        routes.PRESENCE: [
            messages.PresenceRequest(workspace=each, pending=messages.Pending(), uploads=[upload])
            for each in workspaces[who == "editor" :]
        ],
        routes.REVOKE: [messages.RevokeRequest(device=scene.device)],
        routes.SHARE: to_share(scene),
        routes.UNSHARE: [
            sharing.UnshareRequest(share=each, user=user) for each in workspaces for user in (None, "viewer", "pending")
        ],
        routes.ANSWER: [sharing.AnswerRequest(share=each, accept=True) for each in workspaces[who == "pending" :]],
        routes.CREATE_LINK: [links.CreateLinkRequest(inode=each) for each in own],
        routes.REVOKE_LINK: [links.RevokeLinkRequest(link=scene.link)],
        routes.NOTIFICATIONS: [notifications.NotificationsRequest(own=True)],
        routes.MUTE: [notifications.MuteRequest(inode=each, is_muted=True) for each in own],
        routes.ACTIVITY: [notifications.ActivityRequest(inode=each) for each in inodes],
        routes.LIST: [messages.ListRequest(directory=each, as_of=seq) for each in inodes for seq in seqs],
        routes.LIST_MANY: [messages.ListManyRequest(directories=inodes, as_of=seq) for seq in seqs],
        routes.INODES: [messages.InodesRequest(inodes=inodes, as_of=seq) for seq in seqs],
        routes.CONTENT: [
            messages.ContentRequest(inode=each, revision=one, history=whole)
            for each in inodes
            for whole in (False, True)
        ],
        routes.REVISIONS: [history.RevisionsRequest(inode=each) for each in inodes],
        routes.KEEP: [history.KeepRequest(inode=each, revision=one) for each in own],
        routes.EMPTY_TRASH: [history.EmptyTrashRequest(until=Seq(2**40))],
        routes.TRASH: in_trash(scene),
        routes.CREATE_SNAPSHOT: [history.CreateSnapshotRequest(name="mine")],
        routes.DELETE_SNAPSHOT: [history.DeleteSnapshotRequest(name=SNAPSHOT)],
        routes.MOMENT: [history.MomentRequest(time_ns=2**62), history.MomentRequest(snapshot=SNAPSHOT)],
        routes.COMMIT: [batch],
        routes.MISSING: [messages.MissingRequest(blocks=BLOCKS)],
        routes.LOST: [messages.LostRequest()],
        routes.PUT_BLOCKS: [framed(b"of an attacker")],
        routes.GET_BLOCKS: [messages.BlocksRequest(blocks=BLOCKS)],
    }


def to_share(scene: Scene) -> list[Any]:
    """Whatever there is, by its place too."""
    named = {"name": NAMES[1], "user": "stranger", "role": "editor"}
    parents = (InodeId(0), scene.owner.root)
    return [sharing.ShareRequest(inode=each, parent=p, **named) for each in scene.inodes() for p in parents]  # type: ignore[arg-type]


def in_trash(scene: Scene) -> list[Any]:
    """All of it, and what comes behind a place in it."""
    behind = history.TrashPlace(seq=Seq(2**40), parent=scene.owner.root, name=NAMES[2])
    parents = (InodeId(0), scene.folder, scene.owner.root)
    return [history.TrashRequest(parent=each, after=after) for each in parents for after in (None, behind)]


def leaves(value: Any) -> Iterator[Any]:
    """All numbers, texts and bytes of a decoded reply."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        for each in value:
            yield from leaves(each)
    else:
        yield value


def known_of(reply: Request, secrets: set[Any]) -> set[Any]:
    """The secrets that a reply has in it."""
    found = {each for each in secrets if isinstance(each, bytes) and each in reply.reply}
    if reply.reply and reply.reply_headers["content-type"] == routes.MSGPACK:
        found |= secrets & {each for each in leaves(msgspec.msgpack.decode(reply.reply)) if isinstance(each, int)}
    return found


def owned(connection: Connection, account: int) -> dict[str, list[Any]]:
    """All rows of an account, but which blocks a device may still name."""
    tables = [each for each in schema.metadata.sorted_tables if "account" in each.c and each.name != "pins"]
    rows = {each.name: connection.execute(select(each).where(each.c.account == account)).all() for each in tables}
    return {name: sorted(map(repr, found)) for name, found in rows.items()}


async def attack(scene: Scene, who: str, attacker: Served) -> dict[str, set[Any]]:
    """Ask all routes for everything; gives what was told where."""
    session = (await attacker.post(routes.SESSION, SESSION)).message(messages.SessionReply)
    told: dict[str, set[Any]] = {}
    for route, requests in asked(scene, who, Epoch(session.epoch)).items():
        secrets = scene.secrets(who) - {*BLOCKS, SNAPSHOT.encode()} if route in ECHOES else scene.secrets(who)
        for workspace in (attacker.workspace, scene.share, scene.anna.workspace) if "{workspace}" in route else (0,):
            if route == routes.PUT_BLOCKS and who == "editor" and workspace == scene.share:
                continue
            for request in requests:
                asking = replace(attacker, workspace=WorkspaceId(workspace))
                reply = await asking.post(route, request)
                assert reply.status < 500, (route, request, reply.reply)
                told.setdefault(route, set()).update(known_of(reply, secrets))
    return told


async def test_every_route_has_an_entry_and_wants_a_token(tmp_path: Path) -> None:
    """[57] A new route without a line in the table fails here."""
    async with a_scene(tmp_path) as scene:
        table = asked(scene, "stranger", scene.owner.epoch)
        assert {each.path for each in SyncApi(scene.anna.services).routes()} == table.keys()
        for route in table.keys() - {routes.LOGIN}:
            for token in ("", "x" * 43):
                assert (await scene.anna.post(route, next(iter(table[route]), None), token=token)).status == 401, route


def fields_of_ids(kind: Any) -> set[tuple[str, str]]:
    """The fields, of a message and of all that can be in it, that name something of an account."""
    found: set[tuple[str, str]] = set()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        for name, hint in get_type_hints(kind).items():
            found |= {(kind.__name__, name)} if any(each in IDS for each in parts(hint)) else set()
            found |= {field for each in parts(hint) if each is not kind for field in fields_of_ids(each)}
    return found


def parts(hint: Any) -> Iterator[Any]:
    """A type, and those of which it is made."""
    yield hint
    for each in get_args(hint):
        yield from parts(each)


def named_ids(value: Any) -> Iterator[tuple[str, str, Any]]:
    """What a request says in each field, also of what is in it."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from named_ids(each)
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            given = getattr(value, name)
            for each in given if isinstance(given, list | tuple) else [given]:
                yield type(value).__name__, name, each if isinstance(each, int | bytes) else None
            yield from named_ids(given)


async def test_every_id_that_a_request_can_have_is_tried_with_one_of_anothers(tmp_path: Path) -> None:
    """[57] A new field of a message that names something fails here until the table has it."""
    async with a_scene(tmp_path) as scene:
        table, known = asked(scene, "stranger", scene.owner.epoch), {*BLOCKS, *map(int, scene.inodes())}
        known |= {int(scene.share), int(scene.anna.workspace), int(scene.device), scene.link}
        missing = set()
        for route in SyncApi(scene.anna.services).routes():
            wanted = fields_of_ids(route.app.shape.asks)
            tried = {(kind, name) for kind, name, value in named_ids(table[route.path]) if value in known}
            missing |= {(route.path, *each) for each in wanted - tried}
        assert missing == OWN_IDS


async def test_what_can_be_asked_without_a_token_tells_nothing(tmp_path: Path) -> None:
    """[57] All that the application serves is here or in the table; an id is no address of a link."""
    async with a_scene(tmp_path) as scene:
        router: Any = app.make_app(scene.anna.services)
        public = next(
            each for each in router.routes if isinstance(each, Mount) and each.app is not problems.nothing_here
        )
        served = {each.path for each in [*router.routes, *public.app.routes] if isinstance(each, Route)}
        table = asked(scene, "stranger", scene.owner.epoch)
        assert served == table.keys() | OPEN
        secrets = scene.secrets("stranger") - {0}
        names = [scene.link, scene.share, *scene.inodes(), *(each.hex() for each in BLOCKS), SNAPSHOT]
        for path in OPEN:
            for name in names if "{token}" in path else names[:1]:
                for method in ("GET", "HEAD", "POST"):
                    reply = await scene.anna.run(Request(path.format(token=name), method=method))
                    assert reply.status < 500, (method, path)
                    assert not any(isinstance(each, bytes) and each in reply.reply for each in secrets), (method, path)
                    assert ("{token}" in path) == (reply.status == 404) or reply.status == 405, (method, path)


async def test_no_route_tells_or_changes_what_is_not_for_the_caller(tmp_path: Path) -> None:
    """[57] Strangers, invited, unshared and gone members; viewers; and editors as far as the owner's own drive goes."""
    async with a_scene(tmp_path) as scene:
        database, account = scene.anna.ground.database, scene.account
        before = await database.read(owned, account)
        for who, attacker in scene.others.items():
            told = await attack(scene, who, attacker)
            assert {route: found for route, found in told.items() if found} == {}, who
            after = await database.read(owned, account)
            assert {name: rows for name, rows in after.items() if rows != before[name]} == {}, who
        assert (await scene.anna.post(routes.USAGE)).status == 200
        everything = await attack(replace(scene, device=DeviceId(1)), "stranger", scene.anna)
        assert set().union(*everything.values()) == scene.secrets("stranger"), "it would be seen"
