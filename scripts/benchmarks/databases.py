"""SQLite with its default settings (rollback journal, full sync): small writes, fsync, and files that come and go."""

import sqlite3
from contextlib import closing

from benchmarks.workloads import Figures, Stopwatch, Work


def sqlite(work: Work) -> Figures:
    """One row per transaction, each committed by itself."""
    count = work.settings.transaction_count
    with closing(sqlite3.connect(work.place / "data.db", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE entries (number INTEGER PRIMARY KEY, text TEXT)")
        watch = Stopwatch()
        for number in range(count):
            connection.execute("INSERT INTO entries VALUES (?, ?)", (number, f"the text of entry {number} " * 4))
        elapsed = watch.seconds
        (stored,) = connection.execute("SELECT count(*) FROM entries").fetchone()
    if stored != count:
        raise OSError(f"{stored} rows of {count} are there")
    return {"sqlite": count / elapsed}
