"""What SQLite does not see of damage: tables that are not ours any more, and values that nobody wrote.

Owns the comparison of an embedded database with the tables of `schema`. A column whose name has another bit is another
column to SQLite, and any column takes a value of any type: only who knows what was made finds it. Changes nothing.
"""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, LargeBinary, Table, Text
from sqlalchemy.dialects import sqlite

from backend.metadata import notices

_COLUMNS = (
    'SELECT made.name, columns.name, columns.type, columns."notnull", columns.pk FROM sqlite_schema AS made'
    " JOIN pragma_table_info(made.name) AS columns WHERE made.type = 'table'"
)
_INDEXES = (
    "SELECT made.tbl_name, made.name, columns.seqno, columns.name FROM sqlite_schema AS made"
    " JOIN pragma_index_info(made.name) AS columns WHERE made.type = 'index' AND made.sql IS NOT NULL"
)

_TABLES = notices.notified.metadata.tables
"""All that there are: those of notices are a part of them."""

_KINDS = {Text: "text", LargeBinary: "blob"}


def schema_problems(connection: Connection) -> list[str]:
    """Which tables are not as they were made, in a database that has been brought up to this schema."""
    found = {tuple(row) for sql in (_COLUMNS, _INDEXES) for row in connection.exec_driver_sql(sql)}
    lacking = {each[0] for table in _TABLES.values() for each in _made(table) if each not in found}
    return [f"the table {name} or an index of it is not as it was made" for name in sorted(lacking)]


def type_problems(connection: Connection) -> list[str]:
    """Which tables have a value of another type than its column; reads all of them."""
    return [
        f"a value in the table {table.name} is of another type than was written"
        for table in _TABLES.values()
        if connection.exec_driver_sql(f'SELECT 1 FROM "{table.name}" WHERE {_is_strange(table)} LIMIT 1').first()
    ]


def _made(table: Table) -> Iterator[tuple[Any, ...]]:
    """The rows of `_COLUMNS` and `_INDEXES` for one table."""
    dialect = sqlite.dialect()
    key = list(table.primary_key.columns)
    for column in table.columns:
        place = key.index(column) + 1 if column.primary_key else 0
        yield table.name, column.name, column.type.compile(dialect), int(not column.nullable), place
    for index in table.indexes:
        for place, column in enumerate(index.columns):
            yield table.name, index.name, place, column.name


def _is_strange(table: Table) -> str:
    strange = []
    for column in table.columns:
        kind = _KINDS.get(type(column.type), "integer")
        is_there = f' AND "{column.name}" IS NOT NULL' if column.nullable else ""
        strange.append(f"typeof(\"{column.name}\") != '{kind}'{is_there}")
    return " OR ".join(strange)
