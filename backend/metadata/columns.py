"""What all tables are made of: the collection that they belong to, and the columns that most of them have."""

from sqlalchemy import BigInteger, Column, LargeBinary, MetaData

metadata = MetaData()


def key(name: str) -> Column[int]:
    """A number that is part of the key."""
    return Column(name, BigInteger, primary_key=True, autoincrement=False)


def id_column(name: str) -> Column[int]:
    """A number that is always there."""
    return Column(name, BigInteger, nullable=False)


def bytes_key(name: str) -> Column[bytes]:
    """Bytes that are part of the key."""
    return Column(name, LargeBinary, primary_key=True)
