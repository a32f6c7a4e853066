"""Calls on a device while changes of another one are applied to it at a steady rate.

Owns both sides: this process makes the calls; a process of its own, `python -m benchmarks.devices_changes`, commits
the changes straight through the sync API as a further device, so that no other mount uses up the processors.
Invariant: the rate is what the backend has committed; that the device keeps up is measured by when it shows the last.
"""

import http.client
import json
import os
import sys
import time
import urllib.parse
from pathlib import Path
from typing import TypeVar

from benchmarks import processes
from benchmarks.devices_freshness import seen_after
from benchmarks.devices_report import Samples
from benchmarks.devices_work import Work
from benchmarks.drives import PASSWORD, USER
from benchmarks.processes import BenchmarkError
from benchmarks.small_files import create, read, scan
from benchmarks.workloads import timed
from drivefs.protocol import messages, routes, wire
from drivefs.protocol.changes import Create, Mutation, SetAttributes, Status, Unlink
from drivefs.protocol.ids import InodeId, OpNumber, WorkspaceId
from drivefs.protocol.model import InodeKind

M = TypeVar("M")
OWN_FILES = 400
CREATED_AT_ONCE = 20
BATCHES_PER_SECOND = 10
LAST_NAME = "the last one"
CONTENT = bytes(1024)


class CallTimes:
    """Calls of four kinds in turns below one directory, and how often and how long each was made."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir()
        self.files = [f"{place}/file-{number:04}" for number in range(OWN_FILES)]
        create(self.files, [CONTENT] * OWN_FILES)
        read(self.files)
        self.made = 0

    def rates(self, seconds: float) -> dict[str, float]:
        """Calls a second of each kind, over this many seconds of turns."""
        counts = dict.fromkeys(("stat", "list", "create", "read"), 0)
        times = dict.fromkeys(counts, 0.0)
        begin = time.perf_counter()
        while time.perf_counter() < begin + seconds:
            new = [f"{self.place}/new-{self.made + number:06}" for number in range(CREATED_AT_ONCE)]
            self.made += CREATED_AT_ONCE
            times["create"] += timed(lambda: create(new, [CONTENT] * len(new)))  # noqa: B023
            times["stat"] += timed(lambda: [os.stat(path) for path in self.files])
            times["list"] += timed(lambda: scan(self.place))
            times["read"] += timed(lambda: read(self.files))
            for call, count in (("create", len(new)), ("stat", OWN_FILES), ("list", 1), ("read", OWN_FILES)):
                counts[call] += count
            for path in new:
                os.unlink(path)
        return {call: counts[call] / times[call] for call in counts}


def changes(work: Work) -> Samples:
    """The same calls idle and while changes arrive; speed as a ratio."""
    seconds = work.settings.feed_seconds
    fed = f"{work.place} fed"
    (work.here.directory / work.place).mkdir()
    (work.here.directory / work.place / fed).mkdir()
    there = work.there.directory / work.place
    seen_after(lambda: (there / fed).exists(), "a directory")
    calls = CallTimes(there / "own")
    work.there.wait_synced()
    idle = calls.rates(seconds)
    parent = os.stat(there / fed).st_ino
    request = {"url": work.server.url, "parent": parent, "rate": work.settings.feed_rate, "seconds": seconds + 1.0}
    feed = Feeding(work, json.dumps(request))
    while not (there / fed / LAST_NAME).exists() and not os.listdir(there / fed):
        time.sleep(0.01)
    busy = calls.rates(seconds)
    told = feed.result()
    lag = seen_after(lambda: (there / fed / LAST_NAME).exists(), "the last change")
    found = {f"own_{call}": [busy[call] / idle[call]] for call in idle}
    return found | {"feed_rate": [told["rate"]], "feed_lag": [lag]}


class Feeding:
    """The process that commits changes."""

    def __init__(self, work: Work, request: str) -> None:
        self.log = work.scratch / f"{work.place}.log"
        scripts = str(Path(__file__).resolve().parent.parent)
        command = (sys.executable, "-m", "benchmarks.devices_changes", request)
        self.process = processes.start(*command, log=self.log, env={"PYTHONPATH": f"{scripts}:{Path(scripts).parent}"})

    def result(self) -> dict[str, float]:
        """What it told at its end."""
        if self.process.wait(processes.START_SECONDS):
            raise BenchmarkError(f"the feeding device failed: {self.log.read_text()[-300:]}")
        told: dict[str, float] = json.loads(self.log.read_text())
        return told


class SyncClient:
    """One device that speaks the sync API without a mount."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        self.connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=30)
        self.token = ""
        login = messages.LoginRequest(user=USER, password=PASSWORD, device=f"feed-{os.getpid()}")
        self.token = self.call(routes.LOGIN, login, messages.LoginReply).token
        self.token = self.call(routes.PASS, messages.Message(), messages.PassReply).token
        request = messages.SessionRequest(next_nonce=os.urandom(16))
        self.session = self.call(routes.SESSION, request, messages.SessionReply)
        ranges = messages.IdRangesRequest(epoch=self.session.epoch)
        self.next_inode = self.call(routes.ID_RANGES, ranges, messages.IdRangesReply).starts[0]
        self.next_op = 1

    @property
    def workspace(self) -> WorkspaceId:
        return self.session.workspaces[0].workspace

    def call(self, path: str, message: messages.Message, kind: type[M]) -> M:
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        self.connection.request("POST", path, wire.encode(message), headers)
        reply = self.connection.getresponse()
        body = reply.read()
        if reply.status != 200:
            raise BenchmarkError(f"{path}: {reply.status} {body[:200]!r}")
        return wire.decode(body, kind)

    def op(self) -> OpNumber:
        self.next_op += 1
        return OpNumber(self.next_op)

    def inode(self) -> InodeId:
        self.next_inode = InodeId(self.next_inode + 1)
        return self.next_inode

    def commit(self, mutations: list[Mutation]) -> None:
        """All must be taken."""
        request = messages.CommitRequest(
            epoch=self.session.epoch, watermark=min(each.n for each in mutations), mutations=mutations
        )
        reply = self.call(routes.COMMIT.format(workspace=self.workspace), request, messages.CommitReply)
        for result in reply.results:
            if result.status is not Status.OK:
                raise BenchmarkError(f"op {result.n} was not taken: {result.status} {result.reason}")


class Feed:
    """A directory in which files come, change and go."""

    def __init__(self, client: SyncClient, parent: InodeId) -> None:
        self.client = client
        self.parent = parent
        self.files: dict[InodeId, bytes] = {}
        self.made = 0

    def create(self, name: bytes) -> Create:
        inode = self.client.inode()
        self.files[inode] = name
        return Create(
            n=self.client.op(),
            time_ns=time.time_ns(),
            inode=inode,
            parent=self.parent,
            name=name,
            kind=InodeKind.FILE,
            mode=0o644,
        )

    def batch(self, count: int) -> list[Mutation]:
        """Two fifths new files, two fifths changed ones, one fifth removed ones."""
        before, mutations = list(self.files.items()), list[Mutation]()
        for number in range(count):
            if number % 5 < 2 or len(before) < count:
                self.made += 1
                mutations.append(self.create(b"fed-%06d" % self.made))
                continue
            inode, name = before.pop(0)
            if number % 5 == 4:
                del self.files[inode]
                mutations.append(
                    Unlink(n=self.client.op(), time_ns=time.time_ns(), parent=self.parent, name=name, inode=inode)
                )
            else:
                now = time.time_ns()
                mutations.append(SetAttributes(n=self.client.op(), time_ns=now, inode=inode, mtime_ns=now))
        return mutations


def main(request: dict[str, float | str]) -> None:
    """Commits `rate` changes a second for `seconds`, and tells the rate that was reached."""
    feed = Feed(SyncClient(str(request["url"])), InodeId(int(request["parent"])))
    rate, seconds = float(request["rate"]), float(request["seconds"])
    begin, done = time.monotonic(), 0
    while (elapsed := time.monotonic() - begin) < seconds:
        due = int(rate * elapsed) + int(rate / BATCHES_PER_SECOND) - done
        if due > 0:
            batch = feed.batch(min(due, messages.MAX_BATCH_MUTATIONS))
            feed.client.commit(batch)
            done += len(batch)
        time.sleep(max(0.0, begin + done / rate - time.monotonic()))
    reached = done / (time.monotonic() - begin)
    feed.client.commit([feed.create(LAST_NAME.encode())])
    json.dump({"rate": reached}, sys.stdout)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
