"""The garbage collector over many blocks that nothing needs: how long it takes, and how much memory.

Owns the database that is made for it, whose objects are in no store: what is measured is the work with rows. The
collector runs in a process of its own, so that its memory is known.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from sqlalchemy import Connection, insert

from backend.blockstore.store import StoredObject
from backend.metadata import schema
from backend.metadata.schema import BlockState, CopyState
from backend.metadata.sqlite import Database
from backend.notify.hub import InProcessHub
from backend.service.garbage import CONDEMN_SECONDS, DELETE_SECONDS, Garbage
from backend.service.ground import Ground
from benchmarks import processes

ACCOUNT = 1
BATCH = 5000
SHARED_BLOCKS = 4
"""Of each so many blocks of a batch one lies in an object of its own, the others share one."""


class NoStore:
    """A store of which every deletion succeeds at once."""

    def delete(self, name: str) -> None:
        """Nothing is there."""

    def objects(self) -> Iterator[StoredObject]:
        """Nothing is there."""
        return iter(())


def measure(base: Path, count: int, say: Callable[[str], None]) -> dict[str, float]:
    """Make that many blocks, and have them condemned and then deleted."""
    base.mkdir()
    say(f"making {count} blocks")
    words = [sys.executable, "-P", "-m", "benchmarks.collecting", str(base / "metadata.db"), str(count)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise processes.BenchmarkError("the collector failed; see above")
    found: dict[str, float] = json.loads(done.stdout)
    return found


async def run(path: Path, count: int) -> dict[str, float]:
    """In the process of its own."""
    clock = [10**18]
    database = await Database.open(path, anyio.to_thread.run_sync)
    for first in range(0, count, BATCH):
        await database.write(_make, first, min(BATCH, count - first))
    store: Any = NoStore()
    ground = Ground(database, store, InProcessHub(), anyio.to_thread.run_sync, lambda: clock[0], lambda n: bytes(n))
    garbage, figures, before = Garbage(ground), dict[str, float](), resident()
    for name, seconds in (("condemned", CONDEMN_SECONDS), ("deleted", DELETE_SECONDS)):
        clock[0] += (seconds + 1) * 10**9
        begin = time.perf_counter()
        done = await garbage.collect()
        figures[f"{count} blocks {name}: s"] = time.perf_counter() - begin
        if count not in (done.condemned_count, done.deleted_count):
            raise processes.BenchmarkError(f"of {count} blocks the collector dealt with others: {done}")
    figures["memory of the collector before: MiB"] = before / 2**20
    figures["memory of the collector, most: MiB"] = resident("VmHWM") / 2**20
    database.close()
    return figures


def _make(connection: Connection, first: int, count: int) -> None:
    def block(number: int) -> bytes:
        return (number * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "big") * 4

    sizes = {"size_bytes": 4096, "payload_bytes": 4096, "refs": 0, "unreferenced_ns": 1, "verified": True}
    place = {"store": 1, "key": 1, "offset": 0, "length": 4096, "state": CopyState.STORED}
    blocks, copies = [], []
    for number in range(first, first + count):
        key = {"account": ACCOUNT, "block": block(number), "generation": 1}
        blocks.append({**key, "state": BlockState.STORED, **sizes})
        own = number if number % SHARED_BLOCKS == 0 else -(number // (SHARED_BLOCKS * 50))
        copies.append({**key, "object": f"1/{own % 256:02x}/{own:x}", **place})
    if not first:
        connection.execute(
            insert(schema.accounts), {"account": ACCOUNT, "owner": 1, "stored_bytes": 0, "pinned_bytes": 0}
        )
    connection.execute(insert(schema.blocks), blocks)
    connection.execute(insert(schema.block_copies), copies)


def resident(field: str = "VmRSS") -> int:
    """Bytes of this process's memory."""
    line = next(each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(field))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    print(json.dumps(anyio.run(run, Path(sys.argv[1]), int(sys.argv[2]))))
