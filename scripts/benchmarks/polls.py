"""scripts/bench polls: what thousands of idle long polls cost one server process, and how fast a commit wakes them.

Owns the command line of it and the crowd of sockets. The crowd is a few users with many polls each; one more user
stands for everybody else: a commit of theirs has one poll to wake, among all that wait.
"""

import argparse
import json
import os
import resource
import selectors
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import drives, processes, settings
from benchmarks.direct import DirectDevice
from drivefs.protocol import messages, routes, wire
from drivefs.protocol.changes import SetAttributes

WAIT_SECONDS = 300.0
WAVE = 200
"""Connections that are opened at once: fewer than the kernel keeps until they are accepted."""
READ_BYTES = 2**16
SPARE_DESCRIPTORS = 200
QUIET_SECONDS = 0.5
QUIET_SHARE = 0.05
"""The server has taken in what was sent when it uses less than this share of a processor."""
IDLE_SECONDS = 10.0

Figures = dict[str, float]


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; exits with a message where it is wrong."""
    parser = argparse.ArgumentParser("scripts/bench polls", description=__doc__)
    add = parser.add_argument
    add("--polls", type=int, default=10_000, metavar="N", help="idle polls (default: %(default)s)")
    add("--users", type=int, default=20, metavar="N", help="users they belong to (default: %(default)s)")
    add("--commits", type=int, default=100, metavar="N", help="commits that wake one poll each (default: %(default)s)")
    add("--directory", type=Path, default=settings.work_directory(), help="default: %(default)s")
    add("--json", action="store_true", help="print the figures as JSON")
    return parser.parse_args(arguments)


def main(arguments: list[str], say: Callable[[str], None]) -> int:
    """Exit code 0 when all was measured."""
    given = parse(arguments)
    allow_descriptors(given.polls + SPARE_DESCRIPTORS)
    given.directory.mkdir(parents=True, exist_ok=True)
    base = Path(tempfile.mkdtemp(prefix="polls-", dir=given.directory))
    server = drives.Server(base)
    try:
        figures = measure(server, given, say)
    finally:
        server.stop()
        shutil.rmtree(base, ignore_errors=True)
    if given.json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:60} {value:12,.3f}" for name, value in figures.items()))
    return 0


def allow_descriptors(count: int) -> None:
    """Let this process and the server have so many. Raises: BenchmarkError where the system does not allow it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < count:
        raise processes.BenchmarkError(f"{count} descriptors are needed and {most} allowed (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def measure(server: drives.Server, given: argparse.Namespace, say: Callable[[str], None]) -> Figures:
    """All figures of one server."""
    server.start()
    names = [f"user{number}" for number in range(given.users)]
    for name in names:
        add = (drives.BINARIES / "drivefs-server", "user", "add", name, "--data", server.data, "--password-stdin")
        processes.run(*add, env=server.environment, text=drives.PASSWORD + "\n")
    lone = DirectDevice(server.port, "lone")
    devices = [DirectDevice(server.port, "crowd", name) for name in names]
    crowd = Crowd(server.port)
    process = Process(server)
    before = woken(lone, server.port, given.commits)
    process.wait_until_quiet()
    memory, worked = process.memory_bytes(), process.processor_seconds()
    begin = time.perf_counter()
    for first in range(0, given.polls, WAVE):
        crowd.open([devices[n % len(devices)] for n in range(first, min(first + WAVE, given.polls))])
        process.wait_until_quiet(0.05)
    process.wait_until_quiet()
    say(f"{len(crowd.polls)} polls wait after {time.perf_counter() - begin:.0f} s")
    figures = {
        "polls that wait": float(len(crowd.polls)),
        "memory of the server before: MiB": memory / 2**20,
        "memory for each poll: KiB": (process.memory_bytes() - memory) / 1024 / len(crowd.polls),
        "processor for each poll that begins: ms": (process.processor_seconds() - worked) * 1000 / len(crowd.polls),
        "threads": float(process.thread_count()),
        "processor while all wait: %": process.share(IDLE_SECONDS) * 100,
    }
    after = woken(lone, server.port, given.commits)
    if strangers := crowd.answered(0.0):
        raise processes.BenchmarkError(f"{len(strangers)} polls were answered that no commit concerned")
    return figures | _wake_figures("alone", before) | _wake_figures("among all", after) | crowd.wake(devices[0])


def _wake_figures(name: str, milliseconds: list[float]) -> Figures:
    cuts = statistics.quantiles(milliseconds, n=100)
    return {
        f"commit sent to poll answered, {name}, p50: ms": cuts[49],
        f"commit sent to poll answered, {name}, p99: ms": cuts[98],
    }


def woken(device: DirectDevice, port: int, count: int) -> list[float]:
    """How long it takes from sending a commit to the answer of the one poll that waits for it, in milliseconds."""
    found = []
    with socket.create_connection(("127.0.0.1", port)) as poll:
        for _ in range(count):
            poll.sendall(poll_request(device))
            time.sleep(0.02)
            begin = time.perf_counter()
            touch(device)
            poll.recv(READ_BYTES)
            found.append((time.perf_counter() - begin) * 1000)
    return found


def touch(device: DirectDevice) -> None:
    """A commit that changes one attribute of the root."""
    now = time.time_ns()
    device.commit([SetAttributes(n=device.next_n(), time_ns=now, inode=device.root, mtime_ns=now)])


def poll_request(device: DirectDevice) -> bytes:
    """A whole HTTP request: wait for what comes after the device's head."""
    cursor = messages.WorkspaceCursor(workspace=device.workspace, cursor=device.head)
    body = wire.encode(messages.ChangesRequest(cursors=[cursor], wait_seconds=WAIT_SECONDS))
    lines = (
        f"POST {routes.CHANGES} HTTP/1.1",
        "host: bench",
        f"authorization: Bearer {device.token}",
        f"content-type: {routes.MSGPACK}",
        f"content-length: {len(body)}",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Process:
    """What the system says of the server."""

    def __init__(self, server: drives.Server) -> None:
        if server.process is None:
            raise processes.BenchmarkError("the server does not run")
        self._pid = server.process.pid

    def memory_bytes(self) -> int:
        """Resident memory now."""
        return processes.memory_bytes(processes.family(self._pid))

    def thread_count(self) -> int:
        """Threads now."""
        return len(os.listdir(f"/proc/{self._pid}/task"))

    def share(self, seconds: float) -> float:
        """Processors used, on average, over so long."""
        begin = self.processor_seconds()
        time.sleep(seconds)
        return (self.processor_seconds() - begin) / seconds

    def wait_until_quiet(self, seconds: float = QUIET_SECONDS) -> None:
        """Return when the server has nothing to do."""
        while self.share(seconds) > QUIET_SHARE:
            pass

    def processor_seconds(self) -> float:
        """Processor time used so far."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))


class Crowd:
    """Many polls that wait, as bare sockets."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._selector = selectors.EpollSelector()
        self.polls: dict[socket.socket, DirectDevice] = {}

    def open(self, devices: list[DirectDevice]) -> None:
        """Let one more poll wait for each of these devices."""
        for device in devices:
            poll = socket.create_connection(("127.0.0.1", self._port))
            poll.sendall(poll_request(device))
            self.polls[poll] = device
            self._selector.register(poll, selectors.EVENT_READ)

    def answered(self, seconds: float) -> list[socket.socket]:
        """Polls that have an answer, waiting so long for the first."""
        found = [key.fileobj for key, _ in self._selector.select(seconds)]
        return [each for each in found if isinstance(each, socket.socket)]

    def wake(self, device: DirectDevice) -> Figures:
        """One commit wakes all polls of its workspace, and no other. Raises: BenchmarkError where it is not so."""
        waiting = {poll for poll, of in self.polls.items() if of is device}
        count, begin, moments = len(waiting), time.perf_counter(), list[float]()
        touch(device)
        committed = (time.perf_counter() - begin) * 1000
        while waiting and time.perf_counter() - begin < processes.START_SECONDS:
            for poll in self.answered(1.0):
                if poll not in waiting:
                    raise processes.BenchmarkError("a commit woke a poll of another workspace")
                waiting.discard(poll)
                self._selector.unregister(poll)
                moments.append((time.perf_counter() - begin) * 1000)
        if waiting:
            raise processes.BenchmarkError(f"{len(waiting)} of {count} polls were not woken")
        return {
            "polls of one workspace woken by one commit": float(count),
            "that commit: ms": committed,
            "the first of them answered after: ms": moments[0],
            "the last of them answered after: ms": moments[-1],
        }
