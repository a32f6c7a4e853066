"""How sets of keys are asked for: in a constant number of statements, each within the databases' limits.

Owns the cutting of long lists of parameters; knows no table and no rule. Statements are made once, by whoever asks, and
have their values bound: making one took longer than executing it.
"""

from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, bindparam, tuple_

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


def _slices(values: Collection[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(values)
    while part := list(islice(rest, size)):
        yield part
