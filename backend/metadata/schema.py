"""The tables of the backend, for SQLite and PostgreSQL alike.

Owns names, types, keys and indexes; queries live beside the rules that need them, and changes of these tables in
`migrations`. Invariants: every key starts with the account (the owner of the workspace), except those of tables about
the deployment and its users. A row that is current carries `from_seq`, the commit that made it so; what it superseded
moves to the `*_versions` table with `to_seq`, and was valid for from_seq <= seq < to_seq. Ids are the 63-bit integers
of `protocol.ids`; times are nanoseconds since 1970; sizes are bytes.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    text,
)

from backend.metadata import columns, sharing, states

BlockState = states.BlockState
CopyState = states.CopyState
KeyState = states.KeyState
Role = states.Role
MemberState = states.MemberState
Trash = states.Trash

metadata = columns.metadata
_key, _id, _bytes_key = columns.key, columns.id_column, columns.bytes_key
followed = sharing.followed
share_blocks = sharing.share_blocks
public_links = sharing.public_links


# -- the deployment and its users: the only keys without an account --

deployment = Table(
    "deployment",
    metadata,
    _key("deployment"),  # always 1: there is one row
    _id("incarnation"),  # 1 to 2^20 - 1, drawn at creation and anew by every restore
    _id("next_range"),  # number of the next id range within this incarnation
    _id("next_inode"),  # the next inode id that the backend itself uses (roots); 0: take a range first
    _id("created_ns"),
    # What the file that marks the data directory has to be, or it is not the one that was used last (`marking`).
    Column("mark", Text),
)

restores = Table(
    "restores",
    metadata,
    _key("account"),
    _key("workspace"),
    _key("number"),  # of all restores of the deployment, in their order
    _id("ended"),  # the incarnation that ended by it
    _id("head_seq"),  # where the workspace stood right after it: so far both incarnations have one history
)

stores = Table(
    "stores",
    metadata,
    _key("store"),
    Column("kind", Text, nullable=False),  # "local", "s3", …
    Column("region", Text, nullable=False),
)

users = Table(
    "users",
    metadata,
    _key("user"),
    Column("name", Text, nullable=False, unique=True),
    Column("password_hash", Text, nullable=False),  # argon2id, with its parameters and salt
    _id("created_ns"),
    Column("removed_ns", BigInteger),  # None: not removed; all that is the user's goes some days after it
)

devices = Table(
    "devices",
    metadata,
    _key("device"),
    _id("user"),
    Column("name", Text, nullable=False),
    Column("token_hash", LargeBinary, nullable=False, unique=True),  # the token itself is never stored
    _id("created_ns"),
    # What follows is flushed in batches, never written per request: a server knows more of the devices that it serves.
    Column("last_seen_ns", BigInteger),
    Column("online_until_ns", BigInteger),  # a lease: past it, the device counts as away unless a server hears of it
    Column("pending_mutations", BigInteger),  # what it said that it has still to send; None: it never said
    Column("pending_bytes", BigInteger),
    # What it has not sent may be based on what it saw then; None: since it was here last it has sent everything.
    Column("based_ns", BigInteger),
    Column("revoked_ns", BigInteger),  # None: it may still come in
    Index("devices_by_user", "user"),
)

# The lives of a device's journal: where its state exists twice, each copy has one.
lives = Table(
    "lives",
    metadata,
    _key("device"),
    _key("epoch"),
    Column("nonce", LargeBinary, nullable=False),  # left by its last mount; who cannot name it is a copy
    _id("begun_ns"),  # when that mount began; of very many lives the oldest are forgotten
)

# What devices were answered that had something done: a request whose answer was lost is made again.
operations = Table(
    "operations",
    metadata,
    _key("device"),
    _bytes_key("request"),  # hash of what was asked, with the name that the device gave it
    _id("done_ns"),  # when; forgotten after a day, or behind many others
    Column("answer", LargeBinary, nullable=False),  # as it was sent, but for the token of a link
    sqlite_with_rowid=False,
)

login_attempts = Table(
    "login_attempts",
    metadata,
    Column("subject", Text, primary_key=True),  # "name:…" or "address:…"
    _key("window"),  # start of the window in which these attempts are counted
    Column("attempts", Integer, nullable=False),
)

id_ranges = Table(
    "id_ranges",
    metadata,
    _key("start"),  # first inode id; (incarnation << 23 | number) << 20
    _id("device"),  # 0: the backend's own
    _id("epoch"),
    Index("id_ranges_by_device", "device", "epoch"),
)

user_workspaces = Table(
    "user_workspaces",
    metadata,
    _key("user"),
    _key("workspace"),
    _id("account"),  # leads to the workspace's rows, which are keyed by its owner's account
)

# -- accounts and workspaces --

accounts = Table(
    "accounts",
    metadata,
    _key("account"),
    _id("owner"),  # the user whose account it is
    Column("quota_bytes", BigInteger),  # None: what the deployment's settings say
    Column("file_bytes", BigInteger),  # likewise: how large one file may be
    _id("stored_bytes"),  # plaintext sizes of all blocks with refs > 0, each once
    _id("pinned_bytes"),  # plaintext sizes of all blocks with refs = 0 that at least one device pins, each once
)

account_keys = Table(
    "account_keys",
    metadata,
    _key("account"),
    _key("key"),
    Column("wrapped", LargeBinary, nullable=False),  # the key, sealed by a master key
    Column("wrapped_by", Text, nullable=False),  # which master key
    Column("state", SmallInteger, nullable=False),  # KeyState
    _id("created_ns"),
)

workspaces = Table(
    "workspaces",
    metadata,
    _key("account"),
    _key("workspace"),
    Column("kind", Text, nullable=False),  # "home" or "share"
    _id("root"),
    _id("first_seq"),  # the commit that made the workspace
    _id("head_seq"),  # the newest commit; the row is locked while the next is made
    _id("feed_floor"),  # cursors below it are expired
    _id("history_floor"),  # nothing can be read as of a seq below it
    Column("id_scheme", Text, nullable=False),  # "plain": block ids are BLAKE3 of the plaintext
    Index("workspaces_by_id", "workspace", unique=True),
)

members = Table(
    "members",
    metadata,
    _key("account"),
    _key("workspace"),
    _key("user"),
    Column("role", Text, nullable=False),  # Role
    Column("state", Text, nullable=False),  # MemberState
)

# -- the tree, now and before --


def _inode_columns() -> list[Column[object]]:
    """What `inodes` and `inode_versions` share."""
    columns: list[Column[object]] = [
        Column("workspace", BigInteger, nullable=False),
        Column("kind", Integer, nullable=False),  # file-type bits of st_mode
        Column("mode", Integer, nullable=False),  # permission bits
        Column("uid", BigInteger),  # None: "mine"
        Column("gid", BigInteger),
        Column("rdev", BigInteger, nullable=False),
        Column("atime_ns", BigInteger, nullable=False),
        Column("mtime_ns", BigInteger, nullable=False),
        Column("ctime_ns", BigInteger, nullable=False),
        Column("nlink", Integer, nullable=False),  # 0: without a name (trash, or open somewhere)
        Column("size", BigInteger, nullable=False),
        Column("revision", BigInteger, nullable=False),  # number of the current content; 0: never had any
        # The number under which the current content was first stored. It is lower than `revision` when the inode took
        # over a lineage since; every base from here to `revision` names the current content.
        Column("content_since", BigInteger, nullable=False),
        # The highest number used in its lineage, as far as this inode continues it; the next store takes one more.
        Column("last_number", BigInteger, nullable=False),
        Column("lineage", BigInteger, nullable=False),  # 0 for what has no content
        Column("blocks", LargeBinary),  # packed block list; None: more than MAX_INLINE_BLOCKS, look at the runs
        Column("target", LargeBinary, nullable=False),  # of a symbolic link
        Column("from_seq", BigInteger, nullable=False),
    ]
    return columns


inodes = Table("inodes", metadata, _key("account"), _key("inode"), *_inode_columns(), sqlite_with_rowid=False)

inode_versions = Table(
    "inode_versions",
    metadata,
    _key("account"),
    _key("inode"),
    _key("to_seq"),
    *_inode_columns(),
    sqlite_with_rowid=False,
)

dentries = Table(
    "dentries",
    metadata,
    _key("account"),
    _key("parent"),
    _bytes_key("name"),
    _id("inode"),
    Column("target_account", BigInteger),  # with target_workspace: this name leads into another workspace
    Column("target_workspace", BigInteger),
    _id("from_seq"),
    Index("dentries_by_inode", "account", "inode"),
    sqlite_with_rowid=False,
)

_HELD = text("trash = 1")
"""Of the index that lists the trash without looking at all else that was removed or moved."""

dentry_versions = Table(
    "dentry_versions",
    metadata,
    _key("account"),
    _key("parent"),
    _key("to_seq"),
    _bytes_key("name"),
    _id("inode"),
    Column("target_account", BigInteger),
    Column("target_workspace", BigInteger),
    _id("from_seq"),
    Column("trash", SmallInteger, nullable=False),  # Trash
    # The history that the name had when a file was removed or moved away from it, and the highest number used there:
    # what the same device puts under the name soon after goes on with it. 0: none.
    _id("lineage"),
    _id("last_number"),
    Index("dentry_versions_by_inode", "account", "inode"),
    Index("dentry_versions_held", "account", "to_seq", sqlite_where=_HELD, postgresql_where=_HELD),
    sqlite_with_rowid=False,
)

xattrs = Table(
    "xattrs",
    metadata,
    _key("account"),
    _key("inode"),
    _bytes_key("name"),
    Column("value", LargeBinary, nullable=False),
    _id("from_seq"),
)

xattr_versions = Table(
    "xattr_versions",
    metadata,
    _key("account"),
    _key("inode"),
    _bytes_key("name"),
    _key("to_seq"),
    Column("value", LargeBinary, nullable=False),
    _id("from_seq"),
)

# -- content --

_FORKED = text("parent_lineage IS NOT NULL")
"""Of the index that finds what forked from a history: most never do."""

lineages = Table(
    "lineages",
    metadata,
    # A lineage starts with the id of its first inode and needs no row until another inode takes it over.
    _key("account"),
    _key("lineage"),
    _id("inode"),  # which inode continues it now
    Column("parent_lineage", BigInteger),  # where it forked off: the history before is there,
    Column("parent_number", BigInteger),  # up to this revision
    Index("lineages_by_parent", "account", "parent_lineage", sqlite_where=_FORKED, postgresql_where=_FORKED),
)

revisions = Table(
    "revisions",
    metadata,
    _key("account"),
    _key("lineage"),
    _key("number"),
    _id("inode"),
    _id("workspace"),
    _id("seq"),  # the commit that gave the content this number: by its store, or by putting it under this name
    _id("size"),
    _id("time_ns"),  # mtime of the content
    _id("user"),
    _id("device"),
    _id("epoch"),  # with device and op: which mutation made this content
    _id("op"),
    Column("runs", LargeBinary, nullable=False),  # run ids, 32 bytes each
    Index("revisions_by_inode", "account", "inode", "number"),
    sqlite_with_rowid=False,
)

kept = Table(  # revisions that somebody wants never to be let go
    "kept",
    metadata,
    _key("account"),
    _key("lineage"),
    _key("number"),
    _id("user"),
    _id("kept_ns"),
    sqlite_with_rowid=False,
)

snapshots = Table(  # moments of a workspace that have a name; what they show is not let go
    "snapshots",
    metadata,
    _key("account"),
    _key("workspace"),
    Column("name", Text, primary_key=True),
    _id("seq"),
    _id("time_ns"),  # of that commit
    _id("user"),
    _id("device"),
    _id("created_ns"),
)

runs = Table(
    "runs",
    metadata,
    _key("account"),
    _bytes_key("run"),
    Column("packed", LargeBinary, nullable=False),  # `model.pack_blocks`, at most 1,024 blocks
    _id("refs"),  # how often revisions name it
)

blocks = Table(
    "blocks",
    metadata,
    _key("account"),
    _bytes_key("block"),
    Column("state", SmallInteger, nullable=False),  # BlockState
    _id("generation"),  # grows when a block comes back while its old object is being deleted
    _id("size_bytes"),  # of the plaintext: what counts against the quota
    _id("payload_bytes"),  # as it travels: header and compressed plaintext
    _id("refs"),  # how often runs with refs > 0 name it
    Column("unreferenced_ns", BigInteger),  # since when refs is 0, or the block is condemned
    Column("verified", Boolean, nullable=False),  # whether the backend has hashed the plaintext itself
    Column("last_read_ns", BigInteger),
    sqlite_with_rowid=False,
)

_OWED = text("state = 1")
"""Of the index that finds copies which cannot be read: they are few."""

block_copies = Table(
    "block_copies",
    metadata,
    _key("account"),
    _bytes_key("block"),
    _key("generation"),
    _key("store"),
    _id("key"),  # which account key sealed it
    Column("object", Text, nullable=False),  # its name in the store; small blocks share one
    Column("offset", BigInteger, nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("state", SmallInteger, nullable=False),  # CopyState
    Index("block_copies_by_object", "account", "object"),
    Index("block_copies_owed", "account", "block", sqlite_where=_OWED, postgresql_where=_OWED),
    sqlite_with_rowid=False,
)

pins = Table(
    "pins",
    metadata,
    _key("account"),
    _bytes_key("block"),
    _key("device"),
    _id("expires_ns"),
    Column("proven", Boolean, nullable=False),  # whether the device showed that it has the bytes, by sending them
    Index("pins_by_expiry", "account", "expires_ns"),
    sqlite_with_rowid=False,
)

device_uploads = Table(
    "device_uploads",
    metadata,
    _key("account"),
    _key("workspace"),
    _key("device"),
    _id("stamp"),  # grows with each change in the workspace; who knows another one asks for what is here
    _id("reported_ns"),  # when the device last said so; much later the row is worth nothing
    Column("uploads", LargeBinary, nullable=False),  # wire form of a list of `messages.Upload`; empty: they have ended
    sqlite_with_rowid=False,
)

# -- commits --

commits = Table(
    "commits",
    metadata,
    _key("account"),
    _key("workspace"),
    _key("seq"),
    Column("commit_id", LargeBinary, nullable=False),  # random: tells apart two histories that share a seq
    _id("time_ns"),  # strictly increasing within the workspace
    _id("user"),
    _id("device"),
    Index("commits_by_time", "account", "workspace", "time_ns", unique=True),
    sqlite_with_rowid=False,
)

changes = Table(
    "changes",
    metadata,
    _key("account"),
    _key("workspace"),
    _key("seq"),
    _key("n"),  # position within the commit
    Column("kind", Text, nullable=False),  # tag of the mutation
    _id("inode"),
    Column("parent", BigInteger),  # the dentry that changed, if one did
    Column("name", LargeBinary),
    Column("other_inode", BigInteger),  # what a rename replaced, or the other side of an exchange
    Column("other_parent", BigInteger),  # the target of a rename, or the other side of an exchange
    Column("other_name", LargeBinary),
    sqlite_with_rowid=False,
)

op_results = Table(
    "op_results",
    metadata,
    _key("account"),
    _key("workspace"),
    _key("device"),
    _key("epoch"),
    _key("n"),
    Column("hash", LargeBinary, nullable=False),  # BLAKE3 of the encoded mutation
    Column("status", Text, nullable=False),  # a final `changes.Status`
    Column("reason", Text, nullable=False),
    _id("seq"),  # 0 unless ok
    _id("revision"),
    sqlite_with_rowid=False,
)

device_epochs = Table(
    "device_epochs",
    metadata,
    _key("account"),
    _key("workspace"),
    _key("device"),
    _key("epoch"),
    _id("watermark"),  # all ops below it are settled, and their results forgotten
    Column("sent", BigInteger, nullable=False, server_default="0"),  # the highest number of a batch that came
)
