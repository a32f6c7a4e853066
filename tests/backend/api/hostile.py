"""Requests as somebody makes them who means harm, or whose program is broken: valid ones, mutated in their structure.

Owns the mutations; each is made by a `random.Random` alone, so that a seed makes the same again. Does not know what the
answers should be.
"""

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import zstandard

from drivefs.protocol import blocks as codec
from drivefs.protocol import changes, history, links, messages, notifications, routes, sharing, wire
from drivefs.protocol.ids import BlockId, Epoch, InodeId, OpNumber, RevisionNumber, WorkspaceId
from drivefs.protocol.model import BlockRef, InodeKind, cut_runs, run_id

MOST_BYTES = 8 * 2**20
"""Of one node: longer than any message may be, and not so long that making it is what takes the memory."""
EXTREMES = [0, -1, 1, 2**31, 2**32 - 1, 2**63 - 1, -(2**63), 2**64 - 1]
SCALARS = [
    None,
    True,
    "",
    "text",
    b"",
    b"\xff" * 32,
    float("nan"),
    float("inf"),
    -0.0,
    1e308,
    "\0",
    "\ud7ff",
    b"..",
    b"/",
]
HEADS = [
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\x7f\xff\xff\xff",
    b"\xc9",
    b"\xc1",
]
"""Beginnings of arrays, maps, binaries and strings of four billion members, and what is no MessagePack."""


@dataclass
class Known:
    """What is in the drive that is attacked, and what belongs to somebody else."""

    workspace: WorkspaceId
    root: InodeId
    epoch: Epoch
    first_inode: InodeId
    inodes: list[InodeId]
    blocks: list[BlockId]
    foreign: list[int | bytes]
    """Ids of workspaces, inodes, devices and blocks of another account."""
    foreign_workspace: WorkspaceId
    op: int = 10_000
    files: list[bytes] = field(default_factory=list)


class Hostile:
    """Makes requests: paths with their bodies."""

    def __init__(self, chance: random.Random, known: Known) -> None:
        self._chance = chance
        self._known = known

    def request(self) -> tuple[str, bytes]:
        """One request, most of them mutated."""
        route, make = self._chance.choice(self._routes())
        body = self._framed() if route == routes.PUT_BLOCKS else self._message(make())
        return route.format(workspace=self._workspace()), body

    def _workspace(self) -> object:
        if self._chance.random() < 0.85:
            return self._known.workspace
        return self._chance.choice([self._known.foreign_workspace, *EXTREMES, "x", "%00", "1.5", "٣", ""])

    def _routes(self) -> list[tuple[str, Callable[[], Any]]]:
        chance, known = self._chance, self._known
        cursor = messages.Cursor(incarnation=1, seq=3, commit=b"12345678")  # type: ignore[arg-type]
        followed = messages.WorkspaceCursor(workspace=known.workspace, cursor=cursor)
        inode = chance.choice(known.inodes)
        upload = messages.Upload(inode=inode, parent=known.root, name=b"n", size_bytes=9, sent_bytes=1)
        pending = messages.Pending(mutation_count=1)
        presence = messages.PresenceRequest(workspace=known.workspace, pending=pending, uploads=[upload])
        return [
            (routes.SESSION, lambda: messages.SessionRequest(next_nonce=chance.randbytes(16), epoch=known.epoch)),
            (routes.ID_RANGES, lambda: messages.IdRangesRequest(epoch=known.epoch)),
            (routes.CHANGES, lambda: messages.ChangesRequest(cursors=[followed], wait_seconds=0.0, limit=10)),
            (routes.PRESENCE, lambda: presence),
            (routes.REVOKE, lambda: messages.RevokeRequest(device=12345)),  # type: ignore[arg-type]
            (routes.LIST, lambda: messages.ListRequest(directory=known.root, limit=10)),
            (routes.LIST_MANY, lambda: messages.ListManyRequest(directories=[known.root, inode])),
            (routes.INODES, lambda: messages.InodesRequest(inodes=known.inodes[:10])),
            (routes.COUNT, lambda: None),
            (routes.CONTENT, lambda: messages.ContentRequest(inode=inode, revision=1)),  # type: ignore[arg-type]
            (routes.REVISIONS, lambda: history.RevisionsRequest(inode=inode, limit=10)),
            (routes.KEEP, lambda: history.KeepRequest(inode=inode, revision=1)),  # type: ignore[arg-type]
            (routes.TRASH, lambda: history.TrashRequest(limit=10)),
            (routes.EMPTY_TRASH, lambda: history.EmptyTrashRequest(until=1)),  # type: ignore[arg-type]
            (routes.MOMENT, lambda: history.MomentRequest(time_ns=2**60)),
            *[(routes.COMMIT, self._commit)] * 5,
            (routes.MISSING, lambda: messages.MissingRequest(blocks=known.blocks[:5])),
            (routes.LOST, lambda: messages.LostRequest(after=b"\0" * 32)),
            *[(routes.PUT_BLOCKS, lambda: None)] * 3,
            (routes.GET_BLOCKS, lambda: messages.BlocksRequest(blocks=known.blocks[:5])),
            (routes.SNAPSHOTS, lambda: None),
            (routes.CREATE_SNAPSHOT, lambda: history.CreateSnapshotRequest(name="before")),
            (routes.DELETE_SNAPSHOT, lambda: history.DeleteSnapshotRequest(name="before")),
            (routes.SHARES, lambda: None),
            (routes.NOTIFICATIONS, lambda: notifications.NotificationsRequest(since=chance.randrange(9))),
            (routes.MUTE, lambda: notifications.MuteRequest(inode=known.root, is_muted=True)),
            (routes.MUTED, lambda: None),
            (routes.ACTIVITY, lambda: notifications.ActivityRequest(inode=known.root)),
            (routes.SHARE, lambda: sharing.ShareRequest(inode=inode, user="mallory", role="editor")),
            (routes.UNSHARE, lambda: sharing.UnshareRequest(share=known.workspace, user="mallory")),
            (routes.INVITATIONS, lambda: None),
            (routes.ANSWER, lambda: sharing.AnswerRequest(share=known.workspace, accept=True)),
            (routes.QUOTA, lambda: None),
            (routes.LINKS, lambda: None),
            (routes.CREATE_LINK, lambda: links.CreateLinkRequest(inode=inode, password="x")),
            (routes.REVOKE_LINK, lambda: links.RevokeLinkRequest(link=12345)),
            (routes.LOGIN, lambda: messages.LoginRequest(user="mallory", password="guess", device="d")),
            (routes.USAGE, lambda: None),
            (routes.DEVICES, lambda: None),
            (routes.PASS, lambda: None),
            (routes.LOGOUT, lambda: None),
        ]

    # -- messages ----------------------------------------------------------------------------------------------------

    def _commit(self) -> messages.CommitRequest:
        mutations = [self._mutation() for _ in range(self._chance.randrange(1, 6))]
        return messages.CommitRequest(epoch=self._known.epoch, watermark=OpNumber(0), mutations=mutations)

    def _mutation(self) -> changes.Mutation:
        chance, known = self._chance, self._known
        known.op += 1
        every: dict[str, Any] = {"n": OpNumber(known.op), "time_ns": 1}
        place = {"parent": known.root, "name": chance.choice([b"a", b"b", b"c", b"%d" % known.op])}
        inode = chance.choice(known.inodes)
        kind = chance.randrange(7)
        if kind == 0:
            new = InodeId(known.first_inode + known.op % 2**19)
            known.inodes.append(new)
            what = chance.choice([InodeKind.FILE, InodeKind.DIRECTORY])
            return changes.Create(**every, **place, inode=new, kind=what, mode=0o644)
        if kind == 1:
            return changes.Unlink(**every, **place, inode=inode, base=changes.Base())
        if kind == 2:
            moved = {"new_parent": known.root, "new_name": b"d", "replaced": InodeId(0)}
            return changes.Rename(**every, **place, **moved, inode=inode, base=changes.Base())
        if kind == 3:
            return changes.SetXattr(**every, inode=inode, name=b"user.x", value=b"v")
        if kind == 4:
            return changes.SetAttributes(**every, inode=inode, mode=0o600)
        if kind == 5:
            return changes.Restore(**every, **place, inode=inode)
        block = BlockRef(chance.choice(known.blocks), 4)
        runs = list(cut_runs([block]))
        content: dict[str, Any] = {"size": 4, "runs": [run_id(run) for run in runs], "new_runs": runs, "mtime_ns": 1}
        return changes.Store(**every, **content, inode=inode, base=changes.Base(revision=RevisionNumber(1)))

    def _message(self, message: Any) -> bytes:
        chance = self._chance
        data = wire.encode(message) if message is not None else b""
        if chance.random() < 0.1:
            return data
        if chance.random() < 0.75 and data:
            tree = msgspec.msgpack.decode(data)
            for _ in range(chance.choice([1, 1, 2, 5])):
                tree = self._mutated(tree)
            try:
                return msgspec.msgpack.encode(tree)
            except (OverflowError, UnicodeEncodeError):
                return b""
        return self._bytes(data)

    def _mutated(self, tree: Any) -> Any:
        """The same tree with one node changed, somewhere."""
        chance = self._chance
        if chance.random() < 0.75:
            if isinstance(tree, dict) and tree:
                key = chance.choice(list(tree))
                if chance.random() < 0.1:
                    return {each: value for each, value in tree.items() if each != key}
                return {**tree, key: self._mutated(tree[key])}
            if isinstance(tree, list) and tree:
                place = chance.randrange(len(tree))
                return [*tree[:place], self._mutated(tree[place]), *tree[place + 1 :]]
        return self._instead(tree)

    def _instead(self, node: Any) -> Any:
        chance = self._chance
        if isinstance(node, list | bytes | str) and chance.random() < 0.5:
            count = chance.choice([0, 2, 100, 5000])
            size_bytes = len(msgspec.msgpack.encode(node)) * count
            return node * count if size_bytes < MOST_BYTES else node[:-1]
        nested: Any = []
        for _ in range(chance.choice([10, 500])):
            nested = [nested] if chance.random() < 0.5 else {"a": nested}
        return chance.choice([*EXTREMES, *SCALARS, *self._known.foreign, *self._known.foreign, nested, [], {}])

    def _bytes(self, data: bytes) -> bytes:
        chance = self._chance
        choice = chance.randrange(6)
        place = chance.randrange(len(data) + 1)
        if choice == 0:
            return data[:place]
        if choice == 1:
            return data[:place] + chance.randbytes(chance.randrange(1, 20)) + data[place:]
        if choice == 2:
            return data[:place] + chance.choice(HEADS) + data[place:]
        if choice == 3:
            return chance.choice([b"\x91", b"\x81\xa1a", b"\xdd\x00\x00\x00\x01"]) * chance.choice([100, 100_000])
        if choice == 4:
            flipped = bytearray(data or b"\0")
            flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
            return bytes(flipped)
        return data + data

    # -- blocks ------------------------------------------------------------------------------------------------------

    def _framed(self) -> bytes:
        parts = [part for _ in range(self._chance.randrange(1, 4)) for part in self._frame()]
        return b"".join(parts) if self._chance.random() < 0.5 else self._bytes(b"".join(parts))

    def _frame(self) -> list[bytes]:
        chance = self._chance
        plaintext = chance.choice([b"data", chance.randbytes(3000), b"x" * 300_000])
        block, payload = codec.block_id(plaintext), codec.encode_payload(plaintext)
        kind = chance.randrange(8)
        if kind == 0:
            payload = payload[: chance.randrange(len(payload) + 1)]
        elif kind == 1:
            payload = struct.pack(">BBI", 1, 1, chance.choice([4, 2**22, 0, 2**32 - 1])) + bomb(chance)
        elif kind == 2:
            payload = struct.pack(">BBI", chance.choice([0, 1, 2, 9]), chance.choice([0, 1, 7]), 4) + payload[6:]
        elif kind == 3:
            block = chance.choice([BlockId(each) for each in self._known.foreign if isinstance(each, bytes)])
        elif kind == 4:
            return [block, struct.pack(">I", chance.choice([0, 2**32 - 1, 2**31, len(payload) - 1])), payload]
        elif kind == 5:
            payload = payload + chance.randbytes(5)
        return codec.frame(block, payload)


def bomb(chance: random.Random) -> bytes:
    """A few kilobytes of zstd that are very much more, with the size declared, or not, or wrongly."""
    size = chance.choice([2**22, 2**24, 2**27])
    packed = zstandard.ZstdCompressor(level=1, write_content_size=chance.random() < 0.7).compress(bytes(size))
    return packed if chance.random() < 0.7 else packed[: len(packed) // 2]
