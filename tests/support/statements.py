"""Lets all servers of this process share the statements that SQLAlchemy has compiled.

Owns the engines whose statements they are. Each engine compiles for itself, since a statement is kept under the dialect
object that it was compiled for; a test's server lives shorter than that takes, and what it had kept stayed in memory.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pysqlite3.dbapi2 as sqlite_library
from sqlalchemy import Engine, create_engine

from backend.metadata import sqlite


@contextmanager
def shared() -> Iterator[None]:
    """Within it, databases that are opened have their statements in common."""
    with mock.patch.object(sqlite, "open_engine", functools.partial(_opened, sqlite.open_engine)):
        yield


def _opened(open_engine: Callable[..., Engine], *args: Any, **options: Any) -> Engine:
    engine = open_engine(*args, **options)
    first = _first(options["begin"])
    first.dialect.do_begin = engine.dialect.do_begin  # type: ignore[method-assign]
    engine.dialect, engine._compiled_cache = first.dialect, first._compiled_cache
    return engine


@functools.cache
def _first(_begin: str) -> Engine:
    """The one of those whose transactions start with this, as their dialect does it."""
    engine = create_engine("sqlite://", module=sqlite_library, query_cache_size=2000)
    # The dialect learns of the library at the first connection.
    engine.connect().close()
    engine.dispose()
    return engine
