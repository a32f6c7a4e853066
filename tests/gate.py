"""Takes one safety step of `weakenings` away at a time: its tests must fail then.

Owns the program that tries the table: for each row a private copy of the tree, the step taken away, its tests run. A
row that no test notices is a survivor: the step is not protected by a test. Nothing in the tree itself changes.

Run it as `scripts/gate [NAME…]`.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.weakenings.table import WEAKENINGS
from tests.weakenings.weakening import Weakening

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("drivefs", "cache", "backend", "tests", "scripts", "pyproject.toml", "README.md")
SECONDS = 300
"""Tests that take longer hang: that is noticed, too. The slowest of them take a tenth of it."""


def weakened(place: Path, row: Weakening) -> None:
    """Copy the tree to a directory, without the step."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, place / name)
    path = place / row.path
    text = path.read_text()
    assert text.count(row.step) == 1, f"{row.path} has the step {row.name!r} {text.count(row.step)} times"
    path.write_text(text.replace(row.step, row.without))


def is_noticed(row: Weakening) -> bool:
    """Whether its tests fail without the step."""
    with tempfile.TemporaryDirectory(prefix="drivefs-gate-") as place:
        weakened(Path(place), row)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *row.tests.split()]
        try:
            done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return True
        if done.returncode not in (0, 1):
            raise RuntimeError(
                f"the tests of {row.name!r} could not be run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            )
        return done.returncode == 1


def main() -> int:
    """Try the rows that are named, or all; 1 if any step is missed by no test."""
    parser = argparse.ArgumentParser(prog="scripts/gate", description="Take one safety step away at a time.")
    parser.add_argument("names", nargs="*", help="only steps whose names contain one of these words")
    parser.add_argument("--list", action="store_true", help="only say which steps there are")
    arguments = parser.parse_args()
    rows = [row for row in WEAKENINGS if not arguments.names or any(name in row.name for name in arguments.names)]
    survivors = []
    for number, row in enumerate(rows, 1):
        if arguments.list:
            print(f"{row.name}: {row.path}; {row.tests}")
            continue
        began = time.monotonic()
        found = is_noticed(row)
        survivors += [] if found else [row]
        word = "noticed " if found else "SURVIVED"
        print(f"{number:3}/{len(rows)} {word} {time.monotonic() - began:5.1f} s  {row.name}", flush=True)
    for row in survivors:
        print(f"no test of {row.tests} fails without this: {row.name} ({row.path})")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())
