"""What a database has to be where no checksum of a row says it: the tables that were made, with values of their types.

Owns the comparison of a schema with ours, and of the values of tables whose rows have no digest with the types of their
columns. SQLite's own check looks at neither: a name with another bit is another name to it. Changes nothing.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import apsw

from cache import aliases, pins
from cache.database import Database
from cache.schema import JOURNAL, JOURNAL_ADDITIONS, REPLICA

Query = Callable[[str], Iterable[tuple[Any, ...]]]
"""Runs a statement that reads, on whatever connection there is."""


class Structure(NamedTuple):
    """The tables and indexes of a kind of database.

    `later`: those that it gets when it is opened and lacks them. `unsealed`: the tables whose rows have no digest.
    """

    tables: str
    later: frozenset[str] = frozenset()
    unsealed: tuple[str, ...] = ()


JOURNAL_STRUCTURE = Structure(
    f"{JOURNAL};{JOURNAL_ADDITIONS};{aliases.TABLE};{pins.TABLE}",
    frozenset({"aliases", "pins", "inodes_marked", "mutations_ignored"}),
    ("meta", "counters", "aliases", "retired"),
)
REPLICA_STRUCTURE = Structure(REPLICA, unsealed=("inodes", "dentries", "complete", "incomplete", "contents", "cursors"))

_TYPES = {"INTEGER": int, "TEXT": str, "BLOB": bytes}


class Made(NamedTuple):
    """What a table or an index is called in a schema: its kind, its name, and its table's."""

    kind: str
    name: str
    table: str


def schema_problem(query: Query, structure: Structure) -> str:
    """How a schema differs from the one that was made; empty: it does not, or nothing was made yet.

    It may have more tables, a later program's, if it has all of ours: else one may be ours under another name.
    """
    wanted, found = _made(structure.tables), _schema(query)
    ((version,),) = query("PRAGMA user_version")
    if not found and not version:
        return ""
    if not version:
        return "it has lost the version of its schema"
    lacking = [each for each in wanted if each not in found]
    strange = [each for each in found if each not in wanted and each.kind == "table"]
    for each in lacking:
        if strange or each.name not in structure.later:
            return f"its schema lacks the {each.kind} {each.name}"
    for each, sql in wanted.items():
        if found.get(each, sql) != sql:
            return f"its schema has another {each.kind} {each.name}"
    return ""


def type_problem(query: Query, structure: Structure) -> str:
    """Which table without digests has a value of another type than was written; empty: none."""
    present = {each.name for each in _schema(query)}
    for table in structure.unsealed:
        if table in present:
            columns = query(f"SELECT name, lower(type) FROM pragma_table_info('{table}')")
            wrong = " OR ".join(f"typeof({name}) != '{kind}'" for name, kind in columns)
            if list(query(f"SELECT 1 FROM {table} WHERE {wrong} LIMIT 1")):
                return f"a value in {table} is of another type than was written"
    return ""


def refuse_other_schema(database: Database, structure: Structure) -> None:
    """Look whether a database has our schema.

    Raises:
        Corrupt: it has not.
    """
    if problem := schema_problem(database.rows, structure):
        raise database.rot(f"{database.path.name} is damaged: {problem}")


def refuse_other(database: Database, structure: Structure) -> None:
    """The same, and whether values are of its types.

    Raises:
        Corrupt: they are not.
    """
    refuse_other_schema(database, structure)
    if problem := type_problem(database.rows, structure):
        raise database.rot(f"{database.path.name} is damaged: {problem}")


def fits(values: Sequence[object], types: Sequence[str]) -> bool:
    """Whether values are of the types that columns have."""
    return all(isinstance(value, _TYPES[kind]) for value, kind in zip(values, types, strict=True))


@cache
def _made(tables: str) -> dict[Made, bytes]:
    connection = apsw.Connection(":memory:")
    try:
        connection.execute(tables)
        return _schema(connection.execute)
    finally:
        connection.close()


def _schema(query: Query) -> dict[Made, bytes]:
    """The text of all that was made, as it is without comments and line ends: other programs wrote others.

    As bytes: damage may have made text of anything.
    """
    rows = query(
        "SELECT CAST(type AS BLOB), CAST(name AS BLOB), CAST(tbl_name AS BLOB), CAST(sql AS BLOB) FROM sqlite_schema"
        " WHERE sql IS NOT NULL"
    )
    found = {}
    for *names, sql in rows:
        made = Made(*((each or b"").decode(errors="replace") for each in names))
        found[made] = b" ".join(re.sub(rb"--[^\n]*", b"", sql).split())
    return found
