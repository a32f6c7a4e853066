"""How sets of keys are asked for and sets of rows are written: in a constant number of statements.

Owns the cutting of long lists of parameters, each list within the databases' limits, and how rows reach the driver;
knows no table and no rule. Statements are made once, by whoever asks, and have their values bound: making one took
longer than executing it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from operator import itemgetter
from typing import Any

from sqlalchemy import ColumnElement, Connection, Delete, Dialect, Insert, Select, Update, bindparam, tuple_

MAX_PARAMETERS = 20_000
"""Parameters of one statement; PostgreSQL's drivers bound them at 32,767."""


def is_asked(column: ColumnElement[Any]) -> ColumnElement[bool]:
    """That a column is one of the values that `select_in` is given."""
    return column.in_(bindparam("asked", expanding=True))


def are_asked(first: ColumnElement[Any], second: ColumnElement[Any]) -> ColumnElement[bool]:
    """That two columns are one of the pairs that `select_in_pairs` is given."""
    return tuple_(first, second).in_(bindparam("asked", expanding=True))


def select_in(
    connection: Connection, statement: Select[Any], values: Collection[Any], **bound: object
) -> Iterator[Any]:
    """Rows of a `statement` that has `is_asked`, with all its other parameters; the order is the database's."""
    for part in _slices(values, MAX_PARAMETERS):
        yield from connection.execute(statement, {**bound, "asked": part})


def select_in_pairs(
    connection: Connection, statement: Select[Any], pairs: Collection[tuple[Any, Any]], **bound: object
) -> Iterator[Any]:
    """Rows of a `statement` that has `are_asked`, with all its other parameters."""
    for part in _slices(pairs, MAX_PARAMETERS // 2):
        yield from connection.execute(statement, {**bound, "asked": part})


def write_rows(connection: Connection, statement: Insert | Update | Delete, rows: Sequence[Mapping[str, Any]]) -> None:
    """Execute a `statement` once for each of the rows, which all give the same parameters, two of them or more.

    Values reach the driver as they are: converting each of them took as long as writing them.
    """
    if rows:
        text, values_of = _for_driver(statement, connection.dialect, tuple(rows[0]))
        connection.exec_driver_sql(text, list(map(values_of, rows)))


@lru_cache(maxsize=256)
def _for_driver(
    statement: Insert | Update | Delete, dialect: Dialect, names: tuple[str, ...]
) -> tuple[str, Callable[[Mapping[str, Any]], Any]]:
    """The text of a statement, and what makes a row into its parameters."""
    compiled = statement.compile(dialect=dialect, column_keys=list(names))
    return str(compiled), itemgetter(*compiled.positiontup) if compiled.positiontup else dict


def _slices(values: Collection[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(values)
    while part := list(islice(rest, size)):
        yield part
