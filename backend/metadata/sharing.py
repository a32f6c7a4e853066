"""The tables of shares and public links; `schema` has the rules that hold for all tables."""

from sqlalchemy import BigInteger, Column, LargeBinary, Table, Text

from backend.metadata.columns import bytes_key, id_column, key, metadata

followed = Table(  # commits of shares, taken into the order of a member's own drive
    "followed",
    metadata,
    key("account"),  # with workspace: the member's own drive
    key("workspace"),
    key("share"),  # the workspace that is followed
    key("seq"),  # the commit of the own drive by which
    id_column("share_seq"),  # this commit of the share was taken in
    sqlite_with_rowid=False,
)

share_blocks = Table(  # blocks that a content of a share has, or had: what its members may ask for and name
    "share_blocks",
    metadata,
    key("account"),
    key("workspace"),
    bytes_key("block"),
    sqlite_with_rowid=False,
)

public_links = Table(  # files that whoever has the address may download; its key has no account
    "public_links",
    metadata,
    key("link"),
    Column("token_hash", LargeBinary, nullable=False, unique=True),  # the token itself is never stored
    id_column("user"),  # who made it, and has to go on seeing the file
    id_column("inode"),
    id_column("lineage"),  # the history that the inode had then: what goes on with it is what is downloaded
    id_column("created_ns"),
    Column("expires_ns", BigInteger),  # None: never
    Column("password_hash", Text),  # argon2id; None: the address is enough
)
