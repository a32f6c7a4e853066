"""How sets of keys are asked for: in a constant number of statements, each within the databases' limits.

Owns the cutting of long lists of parameters; knows no table and no rule.
"""

from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, tuple_

MAX_PARAMETERS = 20_000
"""Parameters of one statement; PostgreSQL's drivers bound them at 32,767."""


def select_in(
    connection: Connection, statement: Select[Any], column: ColumnElement[Any], values: Collection[Any]
) -> Iterator[Any]:
    """Rows of `statement` whose `column` is one of `values`; the order is the database's."""
    for part in _slices(values, MAX_PARAMETERS):
        yield from connection.execute(statement.where(column.in_(part)))


def select_in_pairs(
    connection: Connection,
    statement: Select[Any],
    columns: tuple[ColumnElement[Any], ColumnElement[Any]],
    pairs: Collection[tuple[Any, Any]],
) -> Iterator[Any]:
    """Rows of `statement` whose two `columns` are one of `pairs`."""
    for part in _slices(pairs, MAX_PARAMETERS // 2):
        yield from connection.execute(statement.where(tuple_(*columns).in_(part)))


def _slices(values: Collection[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(values)
    while part := list(islice(rest, size)):
        yield part
