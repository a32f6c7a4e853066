"""Finds what lies in the place of a file of the local state and is none: a directory, a pipe, a link to nowhere.

Owns the names that have to be files, or directories, if they are there at all. Touches nothing: what lies there was put
there by somebody, and may be all that is left of what was there before.
"""

import os
import re
from pathlib import Path

from cache.findings import Finding, Severity

DATABASE_SUFFIXES = ("", "-wal", "-shm")
STATE_FILES = (*(f"journal.db{each}" for each in DATABASE_SUFFIXES), "redo", "reserve", "synced", "lock")
STATE_DIRECTORIES = ("staging", "lost+found")
CACHE_FILES = tuple(f"{name}{each}" for name in ("replica.db", "blocks/blocks.db") for each in DATABASE_SUFFIXES)
STAGED = re.compile("[0-9a-f]{16}")
"""A name of a staging file."""
MEANING = "Nothing was changed, and nothing can be accepted as long as it is there"
ADVICE = "Move it to another place, bring back the file if you have it, then `drivefs check --repair`, and mount"


def find_foreign(state_dir: Path, cache_dir: Path) -> list[Finding]:
    """What is in the place of a file, or a directory, of the state in two directories, and is none."""
    files = [*(state_dir / name for name in STATE_FILES), *(cache_dir / name for name in CACHE_FILES)]
    found = [_told(path, "file") for path in files if os.path.lexists(path) and not path.is_file()]
    if (state_dir / "staging").is_dir():
        with os.scandir(state_dir / "staging") as staged:
            odd = [each for each in staged if STAGED.fullmatch(each.name) and not each.is_file(follow_symlinks=False)]
        found += [_told(Path(each.path), "file") for each in odd]
    directories = [state_dir, cache_dir, cache_dir / "blocks", *(state_dir / name for name in STATE_DIRECTORIES)]
    return found + [_told(path, "directory") for path in directories if os.path.lexists(path) and not path.is_dir()]


def _told(path: Path, wanted: str) -> Finding:
    kind = "a link that leads nowhere" if path.is_symlink() else "a directory" if path.is_dir() else "something else"
    return Finding(Severity.DAMAGE, f"{path} is {kind}, and has to be a {wanted} of drivefs", MEANING, ADVICE)
