"""The first schema."""

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, MetaData, SmallInteger, Table, Text

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# The tables as they were at this step: `metadata.schema` moves on, this stays.
metadata = MetaData()


def upgrade() -> None:
    """Make all tables."""
    metadata.create_all(op.get_bind())


def _key(name: str) -> Column[int]:
    return Column(name, BigInteger, primary_key=True, autoincrement=False)


def _number(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


Table(
    "deployment",
    metadata,
    _key("deployment"),
    _number("incarnation"),
    _number("next_range"),
    _number("next_inode"),
    _number("created_ns"),
)

Table(
    "stores",
    metadata,
    _key("store"),
    Column("kind", Text, nullable=False),
    Column("region", Text, nullable=False),
)

Table(
    "users",
    metadata,
    _key("user"),
    Column("name", Text, nullable=False, unique=True),
    Column("password_hash", Text, nullable=False),
    _number("created_ns"),
)

Table(
    "devices",
    metadata,
    _key("device"),
    _number("user"),
    Column("name", Text, nullable=False),
    Column("token_hash", LargeBinary, nullable=False, unique=True),
    _number("epoch"),
    Column("nonce", LargeBinary, nullable=False),
    _number("created_ns"),
    Column("last_seen_ns", BigInteger),
    Column("revoked_ns", BigInteger),
    Index("devices_by_user", "user"),
)

Table(
    "login_attempts",
    metadata,
    Column("subject", Text, primary_key=True),
    _key("window"),
    Column("attempts", Integer, nullable=False),
)

Table(
    "id_ranges",
    metadata,
    _key("start"),
    _number("device"),
    _number("epoch"),
    Index("id_ranges_by_device", "device", "epoch"),
)

Table(
    "user_workspaces",
    metadata,
    _key("user"),
    _key("workspace"),
    _number("account"),
)

Table(
    "accounts",
    metadata,
    _key("account"),
    _number("owner"),
    Column("quota_bytes", BigInteger),
    Column("file_bytes", BigInteger),
    _number("stored_bytes"),
    _number("pinned_bytes"),
)

Table(
    "account_keys",
    metadata,
    _key("account"),
    _key("key"),
    Column("wrapped", LargeBinary, nullable=False),
    Column("wrapped_by", Text, nullable=False),
    Column("state", SmallInteger, nullable=False),
    _number("created_ns"),
)

Table(
    "workspaces",
    metadata,
    _key("account"),
    _key("workspace"),
    Column("kind", Text, nullable=False),
    _number("root"),
    _number("first_seq"),
    _number("head_seq"),
    _number("feed_floor"),
    _number("history_floor"),
    Column("id_scheme", Text, nullable=False),
    Index("workspaces_by_id", "workspace", unique=True),
)

Table(
    "members",
    metadata,
    _key("account"),
    _key("workspace"),
    _key("user"),
    Column("role", Text, nullable=False),
    Column("state", Text, nullable=False),
)

Table(
    "inodes",
    metadata,
    _key("account"),
    _key("inode"),
    _number("workspace"),
    Column("kind", Integer, nullable=False),
    Column("mode", Integer, nullable=False),
    Column("uid", BigInteger),
    Column("gid", BigInteger),
    _number("rdev"),
    _number("atime_ns"),
    _number("mtime_ns"),
    _number("ctime_ns"),
    Column("nlink", Integer, nullable=False),
    _number("size"),
    _number("revision"),
    _number("content_since"),
    _number("last_number"),
    _number("lineage"),
    Column("blocks", LargeBinary),
    Column("target", LargeBinary, nullable=False),
    _number("from_seq"),
    sqlite_with_rowid=False,
)

Table(
    "inode_versions",
    metadata,
    _key("account"),
    _key("inode"),
    _key("to_seq"),
    _number("workspace"),
    Column("kind", Integer, nullable=False),
    Column("mode", Integer, nullable=False),
    Column("uid", BigInteger),
    Column("gid", BigInteger),
    _number("rdev"),
    _number("atime_ns"),
    _number("mtime_ns"),
    _number("ctime_ns"),
    Column("nlink", Integer, nullable=False),
    _number("size"),
    _number("revision"),
    _number("content_since"),
    _number("last_number"),
    _number("lineage"),
    Column("blocks", LargeBinary),
    Column("target", LargeBinary, nullable=False),
    _number("from_seq"),
    sqlite_with_rowid=False,
)

Table(
    "dentries",
    metadata,
    _key("account"),
    _key("parent"),
    Column("name", LargeBinary, primary_key=True),
    _number("inode"),
    Column("target_account", BigInteger),
    Column("target_workspace", BigInteger),
    _number("from_seq"),
    Index("dentries_by_inode", "account", "inode"),
    sqlite_with_rowid=False,
)

Table(
    "dentry_versions",
    metadata,
    _key("account"),
    _key("parent"),
    _key("to_seq"),
    Column("name", LargeBinary, primary_key=True),
    _number("inode"),
    Column("target_account", BigInteger),
    Column("target_workspace", BigInteger),
    _number("from_seq"),
    Column("trash", SmallInteger, nullable=False),
    _number("lineage"),
    _number("last_number"),
    Index("dentry_versions_by_inode", "account", "inode"),
    sqlite_with_rowid=False,
)

Table(
    "xattrs",
    metadata,
    _key("account"),
    _key("inode"),
    Column("name", LargeBinary, primary_key=True),
    Column("value", LargeBinary, nullable=False),
    _number("from_seq"),
)

Table(
    "xattr_versions",
    metadata,
    _key("account"),
    _key("inode"),
    Column("name", LargeBinary, primary_key=True),
    _key("to_seq"),
    Column("value", LargeBinary, nullable=False),
    _number("from_seq"),
)

Table(
    "lineages",
    metadata,
    _key("account"),
    _key("lineage"),
    _number("inode"),
    Column("parent_lineage", BigInteger),
    Column("parent_number", BigInteger),
)

Table(
    "revisions",
    metadata,
    _key("account"),
    _key("lineage"),
    _key("number"),
    _number("inode"),
    _number("workspace"),
    _number("seq"),
    _number("size"),
    _number("time_ns"),
    _number("user"),
    _number("device"),
    _number("epoch"),
    _number("op"),
    Column("runs", LargeBinary, nullable=False),
    Index("revisions_by_inode", "account", "inode", "number"),
    sqlite_with_rowid=False,
)

Table(
    "runs",
    metadata,
    _key("account"),
    Column("run", LargeBinary, primary_key=True),
    Column("packed", LargeBinary, nullable=False),
    _number("refs"),
)

Table(
    "blocks",
    metadata,
    _key("account"),
    Column("block", LargeBinary, primary_key=True),
    Column("state", SmallInteger, nullable=False),
    _number("generation"),
    _number("size_bytes"),
    _number("payload_bytes"),
    _number("refs"),
    Column("unreferenced_ns", BigInteger),
    Column("verified", Boolean, nullable=False),
    Column("last_read_ns", BigInteger),
    sqlite_with_rowid=False,
)

Table(
    "block_copies",
    metadata,
    _key("account"),
    Column("block", LargeBinary, primary_key=True),
    _key("generation"),
    _key("store"),
    _number("key"),
    Column("object", Text, nullable=False),
    _number("offset"),
    _number("length"),
    Column("state", SmallInteger, nullable=False),
    sqlite_with_rowid=False,
)

Table(
    "pins",
    metadata,
    _key("account"),
    Column("block", LargeBinary, primary_key=True),
    _key("device"),
    _number("expires_ns"),
    Column("proven", Boolean, nullable=False),
    Index("pins_by_expiry", "account", "expires_ns"),
    sqlite_with_rowid=False,
)

Table(
    "commits",
    metadata,
    _key("account"),
    _key("workspace"),
    _key("seq"),
    Column("commit_id", LargeBinary, nullable=False),
    _number("time_ns"),
    _number("user"),
    _number("device"),
    Index("commits_by_time", "account", "workspace", "time_ns", unique=True),
    sqlite_with_rowid=False,
)

Table(
    "changes",
    metadata,
    _key("account"),
    _key("workspace"),
    _key("seq"),
    _key("n"),
    Column("kind", Text, nullable=False),
    _number("inode"),
    Column("parent", BigInteger),
    Column("name", LargeBinary),
    Column("other_inode", BigInteger),
    Column("other_parent", BigInteger),
    Column("other_name", LargeBinary),
    sqlite_with_rowid=False,
)

Table(
    "op_results",
    metadata,
    _key("account"),
    _key("workspace"),
    _key("device"),
    _key("epoch"),
    _key("n"),
    Column("hash", LargeBinary, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text, nullable=False),
    _number("seq"),
    _number("revision"),
    sqlite_with_rowid=False,
)

Table(
    "device_epochs",
    metadata,
    _key("account"),
    _key("workspace"),
    _key("device"),
    _key("epoch"),
    _number("watermark"),
)
