"""The version of a database, which is SQLite's `user_version`: tables are made with it, and a newer one is refused.

Owns the order in which that is looked at and written. Which versions there are is in `schema`.
"""

from pathlib import Path

from cache import errors
from cache.database import Database


def refuse_newer(path: Path, version: int) -> None:
    """Look into the header of a database that nobody has open, before SQLite touches it.

    Raises:
        NewerState: a newer drivefs made it.
    """
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except FileNotFoundError:
        return
    found = int.from_bytes(header[60:64], "big")
    if header.startswith(b"SQLite format 3\0") and found > version:
        raise newer(path, found, version)


def newer(path: Path, found: int, version: int) -> errors.NewerState:
    """What to say of a database that is too new for us."""
    return errors.NewerState(
        f"{path} was written by a newer drivefs (format {found}, this one knows {version}). Nothing was changed. Use"
        " the newer drivefs."
    )


def create_tables(database: Database, tables: str, version: int) -> None:
    """Create the tables in an empty database; all or nothing.

    Raises:
        NewerState: a newer drivefs made it.
        Corrupt: it has tables, and no version any more.
    """
    row = database.row("PRAGMA user_version")
    found = row[0] if row else 0
    if found > version:
        raise newer(database.path, found, version)
    if not found:
        if database.row("SELECT 1 FROM sqlite_schema") is not None:
            raise database.rot(f"{database.path.name} is damaged: it has lost its version")
        with database.transaction():
            database.execute_script(tables)
            database.execute_script(f"PRAGMA user_version = {version}")
        database.empty_log()  # so that the version stands in the header, where `refuse_newer` looks
