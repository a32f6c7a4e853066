"""The tables of what users are told, beside those of `schema`, of which they are a part.

Owns names, types and keys. Each key starts with the user: what people are told is theirs, whoever's drive it is about.
"""

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, Table, Text

from backend.metadata.schema import metadata


def key(name: str) -> "Column[int]":
    """A part of the key."""
    return Column(name, BigInteger, primary_key=True, autoincrement=False)


def number(name: str) -> "Column[int]":
    """An id, a seq, a time or a count."""
    return Column(name, BigInteger, nullable=False)


notified = Table(  # how far each user was told
    "notified",
    metadata,
    key("user"),
    number("newest"),  # the last number of a notification that was used
    number("seq"),  # up to this commit of the user's own drive, all that people are to be told of is written down
)

notifications = Table(
    "notifications",
    metadata,
    key("user"),  # who is told
    key("number"),  # in their order; one that is merged into a later one is gone
    number("time_ns"),
    Column("kind", Text, nullable=False),  # notifications.Kind
    Column(
        "path", LargeBinary, nullable=False
    ),  # in the user's own drive, then: of the thing, or of the folder of many
    Column("folder", LargeBinary, nullable=False),  # the folder: what goes on in one is merged
    number("inode"),  # of the thing; 0: of many
    Column("things", Integer, nullable=False),  # how many things
    number("by_user"),  # 0: the server itself
    number("by_device"),
    Column("text", Text, nullable=False),  # what no path says
    sqlite_with_rowid=False,
)

mutes = Table("mutes", metadata, key("user"), key("inode"))  # folders of which a user is told nothing
