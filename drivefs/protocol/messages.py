"""Requests and replies of the sync API, one struct each; `wire` turns them into bytes and back.

Owns shapes and their bounds. All replies may gain fields: decoders ignore unknown ones.
"""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from drivefs.protocol.changes import Mutation, OpResult
from drivefs.protocol.ids import (
    AccountId,
    BlockId,
    CommitId,
    DeviceId,
    Epoch,
    Incarnation,
    InodeId,
    OpNumber,
    RevisionNumber,
    Seq,
    UserId,
    WorkspaceId,
)
from drivefs.protocol.model import DentryState, InodeState

MAX_BATCH_MUTATIONS = 1000
MAX_BATCH_BLOCKS = 20_000
MAX_BATCH_BYTES = 4 * 2**20
MAX_BLOCKS_PER_REQUEST = 4096
MAX_TRANSFER_BYTES = 64 * 2**20
"""Upper bound of one framed body of blocks; senders aim at 8 MiB."""
MAX_PAGE_ENTRIES = 5000
MAX_LISTED_DIRECTORIES = 500
MAX_WAIT_SECONDS = 300.0
MAX_UPLOADS = 16
OPERATION_BYTES = 16
MAX_OPERATION_BYTES = 64
MAX_ASKED_NONCES = 16
"""Large contents on their way that one device reports; those that it sends are never more."""

BOUND = Meta(ge=0, le=2**63 - 1)
"""What an id or a number in a request may be; those of mutations are judged with these, one by one."""

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
BlockName = Annotated[BlockId, Meta(min_length=32, max_length=32)]
Page = Annotated[int, Meta(ge=1, le=MAX_PAGE_ENTRIES)]


class Message(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Base of all messages: maps with field names on the wire, defaults left out."""


class Doing(Message, kw_only=True):
    """Base of requests that are done once: `op`, random bytes, says that it is the same one when it is sent again.

    Without them it is another one each time.
    """

    op: Annotated[bytes, Meta(min_length=OPERATION_BYTES, max_length=MAX_OPERATION_BYTES)] = b""


class Problem(Message, kw_only=True):
    """The body of every reply that is not 2xx."""

    code: str
    message: str


class Health(Message, kw_only=True):
    """The reply of `/healthz` (JSON): how a client tells a drivefs server from anything else."""

    service: str
    protocol: int
    status: str


class LoginRequest(Message, kw_only=True):
    """Exchange a password for a device's own token."""

    user: Annotated[str, Meta(min_length=1, max_length=256)]
    password: Annotated[str, Meta(max_length=1024)]
    device: Annotated[str, Meta(min_length=1, max_length=128)]


class PassReply(Message, kw_only=True):
    """What a device shows instead of its token until the server calls it expired."""

    token: str


class LoginReply(Message, kw_only=True):
    """The token is shown this once only; the backend keeps its hash."""

    token: str
    user: UserId
    device: DeviceId


class Cursor(Message, kw_only=True):
    """A place in the history of a workspace: the last seq applied and that commit's id."""

    incarnation: Annotated[Incarnation, BOUND]
    seq: Annotated[Seq, BOUND]
    commit: CommitId = CommitId(b"")


class WorkspaceInfo(Message, kw_only=True):
    """A workspace that the device may see. `head` is its newest commit at the time of the reply."""

    workspace: WorkspaceId
    account: AccountId
    kind: str
    root: InodeId
    role: str
    head: Cursor


class Share(Message, kw_only=True):
    """A folder or file of a drive that is a workspace of its own: its root, and what this user may do in it.

    `owner` is the user whose account its contents count against; empty: this user's own.
    """

    workspace: WorkspaceId
    root: InodeId
    role: str
    owner: str = ""


class Room(Message, kw_only=True):
    """How much more may be stored in the shares of another user, all together."""

    owner: str
    room_bytes: int


class Limits(Message, kw_only=True):
    """What the deployment allows this account."""

    file_bytes: int
    quota_bytes: int


class Usage(Message, kw_only=True):
    """How much of the quota is used: unique stored bytes, and bytes uploaded but not yet named by a revision."""

    stored_bytes: int = 0
    pinned_bytes: int = 0


class SessionRequest(Message, kw_only=True):
    """Begin a mount: swap the nonce of the last one for a new one.

    `epoch` 0 asks for a first epoch. A nonce that is not the one last stored means a cloned or rolled-back device: the
    reply then carries a new epoch. `asked` are nonces that earlier processes asked for and heard no answer to: any of
    them may be the one stored. Each process asks for one of its own, so of two copies only one is answered as before.
    `sent` is how many batches the device knows to have sent: if the server has heard of more, the device was rolled
    back to an older state of the same mount.
    """

    epoch: Annotated[Epoch, BOUND] = Epoch(0)
    last_nonce: Annotated[bytes, Meta(max_length=32)] = b""
    next_nonce: Annotated[bytes, Meta(min_length=16, max_length=32)]
    asked: Annotated[list[Annotated[bytes, Meta(min_length=16, max_length=32)]], Meta(max_length=MAX_ASKED_NONCES)] = []
    sent: Count = 0


class SessionReply(Message, kw_only=True):
    """Who the device is and what it may see; `epoch` differs from the one sent if the device has to start a new one."""

    epoch: Epoch
    incarnation: Incarnation
    user: UserId
    user_name: str
    device: DeviceId
    device_name: str
    workspaces: list[WorkspaceInfo]
    shares: list[Share] = []
    limits: Limits
    usage: Usage
    rooms: list[Room] = []


class IdRangesRequest(Message, kw_only=True):
    """Ask for ranges of inode ids, bound to the device's epoch."""

    epoch: Annotated[Epoch, BOUND]
    count: Annotated[int, Meta(ge=1, le=8)] = 1


class IdRangesReply(Message, kw_only=True):
    """The first id of each range; each holds `ids.ID_RANGE_LENGTH` ids."""

    starts: list[InodeId]


class ListRequest(Message, kw_only=True):
    """List a directory as of `as_of` (0: the head), `limit` entries with names after `after` in byte order."""

    directory: Annotated[InodeId, BOUND]
    as_of: Annotated[Seq, BOUND] = Seq(0)
    after: Annotated[bytes, Meta(max_length=255)] = b""
    limit: Page = 2000


class Entry(Message, kw_only=True):
    """A name and the whole state of what it leads to."""

    name: bytes
    inode: InodeState


class ListReply(Message, kw_only=True):
    """`seq` is the state listed; `more` says that names after the last one exist."""

    directory: InodeState
    entries: list[Entry]
    seq: Seq
    more: bool = False


class ListManyRequest(Message, kw_only=True):
    """List several directories as of `as_of` (0: the head), about `limit` entries of all of them together."""

    directories: Annotated[list[Annotated[InodeId, BOUND]], Meta(min_length=1, max_length=MAX_LISTED_DIRECTORIES)]
    as_of: Annotated[Seq, BOUND] = Seq(0)
    limit: Page = 1000


class ListManyReply(Message, kw_only=True):
    """Listings from the beginning of each directory; `more` in one says that its names go on: `list` gives them.

    `unanswered` are the directories that the limit left no room for: ask again. Those that are in neither do not exist.
    """

    listings: list[ListReply]
    unanswered: list[InodeId] = []


class InodesRequest(Message, kw_only=True):
    """States of single inodes as of a seq; unknown ones are left out of the reply."""

    inodes: Annotated[list[Annotated[InodeId, BOUND]], Meta(max_length=1000)]
    as_of: Annotated[Seq, BOUND] = Seq(0)


class InodesReply(Message, kw_only=True):
    """The states asked for."""

    inodes: list[InodeState]


class CountReply(Message, kw_only=True):
    """How many inodes the workspace has, but directories and what has no name: the cost grows with their number."""

    file_count: int


class ContentRequest(Message, kw_only=True):
    """The block list of one revision of an inode.

    Numbers are those that this inode's revisions were given; with `history`, those of the history that it goes on with,
    whichever inode made them: the two differ where a file took over the name of another.
    """

    inode: Annotated[InodeId, BOUND]
    revision: Annotated[RevisionNumber, BOUND]
    history: bool = False


class ContentReply(Message, kw_only=True):
    """The packed block list."""

    size: int
    blocks: bytes


class MissingRequest(Message, kw_only=True):
    """Which of these blocks the backend lacks; those that it has are pinned for this device.

    With `lets_go`, all else that it had pinned before, and no commit names, gives its room back.
    """

    blocks: Annotated[list[BlockName], Meta(max_length=MAX_BLOCKS_PER_REQUEST)]
    lets_go: bool = False


class MissingReply(Message, kw_only=True):
    """The blocks to send."""

    missing: list[BlockId]


class LostRequest(Message, kw_only=True):
    """Which blocks the backend needs and has lost; those behind `after`, in the order of their ids."""

    after: Annotated[bytes, Meta(max_length=32)] = b""


class LostReply(Message, kw_only=True):
    """Blocks that any device which has them is asked to send; `more`: there are others behind the last."""

    blocks: list[BlockId]
    more: bool = False


class PutReply(Message, kw_only=True):
    """All blocks of the body are stored durably and pinned for this device."""

    stored_count: int


class BlocksRequest(Message, kw_only=True):
    """Fetch blocks; the reply's body is framed, in the order asked for (`blocks.frame`)."""

    blocks: Annotated[list[BlockName], Meta(min_length=1, max_length=MAX_BLOCKS_PER_REQUEST)]


class CommitRequest(Message, kw_only=True):
    """A batch of mutations in journal order; `watermark` is the device's lowest unsettled op number.

    `seen` is the newest commit that the device knows of: if it is not part of the history, all is refused (`diverged`).
    `sent` is the number of the batch: it grows with each, and what the device has noted of it lasts before it is sent.
    `nonce` is that of the session; empty: an older device, which does not say. Another copy of the device has begun
    one since if it is not the last.
    """

    epoch: Epoch
    nonce: Annotated[bytes, Meta(max_length=32)] = b""
    watermark: OpNumber
    seen: Cursor | None = None
    sent: Count = 0
    mutations: Annotated[list[Mutation], Meta(min_length=1, max_length=MAX_BATCH_MUTATIONS)]


class CommitReply(Message, kw_only=True):
    """One result for each mutation, in their order; `head` is the workspace's newest commit.

    `rooms` are told where something was stored in a share of another user.
    """

    results: list[OpResult]
    head: Cursor
    usage: Usage
    rooms: list[Room] = []


class Pending(Message, kw_only=True):
    """What a device has still to send: changes, with files that have unpublished content, and that content."""

    mutation_count: Count = 0
    size_bytes: Count = 0


class Upload(Message, kw_only=True):
    """A large content whose blocks travel: where it will be, how long it is, and how much the backend has of it."""

    inode: Annotated[InodeId, BOUND]
    parent: Annotated[InodeId, BOUND]
    name: Annotated[bytes, Meta(min_length=1, max_length=255)]
    size_bytes: Count
    sent_bytes: Count


class PresenceRequest(Message, kw_only=True):
    """What a device has still to send, and all large contents of one workspace that it is sending now.

    The list replaces the one before; an empty one says that all have ended, in whatever way.
    """

    workspace: Annotated[WorkspaceId, BOUND]
    pending: Pending
    uploads: Annotated[list[Upload], Meta(max_length=MAX_UPLOADS)] = []


class PresenceReply(Message, kw_only=True):
    """`retry_seconds` above 0: the list came too soon after the one before and was not taken; send it again then."""

    retry_seconds: float = 0.0


class DeviceUploads(Message, kw_only=True):
    """What another device is sending, as it said `silent_seconds` before the reply."""

    device: DeviceId
    device_name: str
    silent_seconds: float
    uploads: list[Upload]


class WorkspaceUploads(Message, kw_only=True):
    """All that other devices are sending into a workspace; `stamp` names this state of it."""

    workspace: WorkspaceId
    stamp: int
    devices: list[DeviceUploads] = []


class DeviceInfo(Message, kw_only=True):
    """A device of the caller's user. Times are 0, and `pending` is None, where it is not known."""

    device: DeviceId
    name: str
    created_ns: int
    is_online: bool = False
    last_seen_ns: int = 0
    revoked_ns: int = 0
    pending: Pending | None = None


class DevicesReply(Message, kw_only=True):
    """The devices of the caller's user, the living ones before those that were revoked, newest first."""

    devices: list[DeviceInfo]


class RevokeRequest(Message, kw_only=True):
    """End a device of the caller's own user for good; once more does nothing."""

    device: Annotated[DeviceId, BOUND]


class WorkspaceCursor(Message, kw_only=True):
    """Where a device stands in one workspace, and which state of the others' uploads it knows (0: none).

    `seen` is a later commit that it knows of, by an answer to one of its own: that has to be in the history too.
    """

    workspace: Annotated[WorkspaceId, BOUND]
    cursor: Cursor
    seen: Cursor | None = None
    uploads: Count = 0


class ChangesRequest(Message, kw_only=True):
    """The long poll: answered at once when a workspace is ahead of its cursor, else within `wait_seconds`."""

    cursors: Annotated[list[WorkspaceCursor], Meta(max_length=1000)]
    wait_seconds: Annotated[float, Meta(ge=0, le=MAX_WAIT_SECONDS)] = 0.0
    limit: Page = 2000
    pending: Pending | None = None
    notified: Annotated[int, BOUND] | None = None
    """The number of the last notification that this device heard of; None: it wants to hear of none."""


class FeedStatus(enum.StrEnum):
    """What a page holds; `expired` and `diverged` mean that the device bootstraps again."""

    CHANGES = "changes"
    EXPIRED = "expired"
    DIVERGED = "diverged"
    GONE = "gone"


class FeedPage(Message, kw_only=True):
    """Changes of one workspace up to `cursor`: the state, as of `cursor`, of all that changed since a seq.

    Whole commits only, none of those between left out: a device whose cursor is not at `since` does not take the page.
    Inodes without a name left have `nlink` 0. Applying a page twice does no harm.
    """

    workspace: WorkspaceId
    status: FeedStatus
    cursor: Cursor
    since: Seq = Seq(0)
    """The seq of the cursor sent, behind which the changes begin."""
    inodes: list[InodeState] = []
    dentries: list[DentryState] = []
    made: list[InodeId] = []
    """Directories that were made since the cursor sent: the feed brings all their names."""
    more: bool = False
    shares: list[Share] | None = None
    """The shares that hang in the drive now, where that may have changed since the cursor sent."""
    shared: Seq = Seq(0)
    """With `diverged`: the last commit that this history and the device's surely have in common; 0: not known."""


class ChangesReply(Message, kw_only=True):
    """Pages of those workspaces that are ahead of their cursor, and the uploads of those where they have changed.

    Neither when the wait ran out.
    """

    pages: list[FeedPage]
    uploads: list[WorkspaceUploads] = []
    notified: int = 0
    """The number of the newest notification that no page tells of, if the device asked and it is newer."""
    retry_seconds: float = 0.0
    """The server's wish for how long to wait before the next poll."""


class UsageReply(Message, kw_only=True):
    """The account's figures, and the room in those of others into whose shares the user may write."""

    usage: Usage
    limits: Limits
    rooms: list[Room] = []
