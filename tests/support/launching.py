"""Starts our own programs from an interpreter that has them imported: imports are most of what a short command takes.

Owns one process beside the tests, the launcher, which forks for each program that is asked for and says how it ended.
What runs is `python -m PROGRAM` in all but the fresh interpreter: its own process, environment, directory `/`, standard
streams and exit. Programs that are tested for how they start are not started here.
A program may be in haste: what it would wait for longer than a test has to, it waits for as long as the test says.
Invariants: a program has no other open files than its standard streams; nothing is imported by a program that it would
not import itself, but earlier.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
REQUEST_BYTES = 2**17
"""More than any environment and command line here."""
EXIT_CODE_BYTES = 4
PACKAGES = ("drivefs", "cache", "backend")
UNIMPORTED = ("__main__", "migrations")
"""Modules that do something when they are imported."""
START_SECONDS = 60.0
HASTE = "DRIVEFS_HASTE"
"""In a program's environment: constants that have other values in it, by the full names of where they are used."""
SMALLEST_FREE, LARGEST_OPEN = 3, 4096


class Process:
    """A program that was started; as much of `subprocess.Popen` as the tests want."""

    def __init__(self, args: Sequence[str], pid: int, line: socket.socket) -> None:
        self.args = args
        self.pid = pid
        self.returncode: int | None = None
        self._line = line

    def poll(self) -> int | None:
        return self._ended(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Raises: subprocess.TimeoutExpired."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def _ended(self, seconds: float | None) -> int | None:
        if self.returncode is None and is_readable(self._line, seconds):
            told = self._line.recv(EXIT_CODE_BYTES)
            assert told, f"the launcher has ended, and nothing is known of {self.args}"
            self.returncode = int.from_bytes(told, "big", signed=True)
            self._line.close()
        return self.returncode


def hastened(environment: dict[str, str], haste: Mapping[str, float]) -> dict[str, str]:
    """The environment of a program in haste: `haste` is how many seconds it waits, by the names of constants."""
    return {**environment, HASTE: json.dumps(dict(haste))} if haste else environment


def is_readable(line: socket.socket, seconds: float | None) -> bool:
    poll = select.poll()
    poll.register(line, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def start(command: Sequence[str], *, stdin: int, stdout: int, stderr: int, env: dict[str, str]) -> Process:
    """Start the module named by the command's first word; descriptors stay the caller's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        request = json.dumps({"command": list(command), "environment": env}).encode()
        socket.send_fds(_launcher(), [request], [theirs.fileno(), stdin, stdout, stderr])
    return Process(command, int.from_bytes(ours.recv(EXIT_CODE_BYTES), "big"), ours)


def run(command: Sequence[str], *, text: str, env: dict[str, str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, `text` being its standard input; one that takes longer is killed.

    Raises: subprocess.TimeoutExpired.
    """
    streams = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
    try:
        os.pwrite(streams[0], text.encode(), 0)
        process = start(command, stdin=streams[0], stdout=streams[1], stderr=streams[2], env=env)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        printed, complaints = (os.pread(stream, os.fstat(stream).st_size, 0).decode() for stream in streams[1:])
    finally:
        for stream in streams:
            os.close(stream)
    return subprocess.CompletedProcess(command, code, printed, complaints)


@functools.cache
def _launcher() -> socket.socket:
    """The way to the launcher, which ends with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "DRIVEFS_"))}
    with theirs:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "tests.support.launching", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            cwd="/",
        )
    atexit.register(_dismiss, launcher, ours)
    assert is_readable(ours, START_SECONDS), "the launcher does not start"
    assert ours.recv(1), "the launcher did not start"
    return ours


def _dismiss(launcher: subprocess.Popen[bytes], line: socket.socket) -> None:
    line.close()
    launcher.wait()


# -- the launcher ----------------------------------------------------------------------------------------------------


@dataclass
class Request:
    """A program to become: its module and words, its environment, the line to who asked, and its standard streams."""

    command: list[str]
    environment: dict[str, str]
    line: int
    streams: list[int]


def import_all() -> None:
    for name in PACKAGES:
        package = importlib.import_module(name)
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not set(found.name.split(".")) & set(UNIMPORTED):
                importlib.import_module(found.name)
    gc.freeze()


def serve(control: socket.socket) -> Request | None:
    """Fork for each request until nobody is left to ask; returns a request only in the process that is to become it."""
    lines: dict[int, tuple[int, int]] = {}
    poll = select.poll()
    poll.register(control, select.POLLIN)
    control.send(b"!")
    while True:
        for ready, _ in poll.poll():
            if ready != control.fileno():
                pid, line = lines.pop(ready)
                poll.unregister(ready)
                _, status = os.waitpid(pid, 0)
                _tell(line, os.waitstatus_to_exitcode(status))
                os.close(ready)
                os.close(line)
                continue
            message, descriptors, _, _ = socket.recv_fds(control, REQUEST_BYTES, 4)
            if not message:
                return None
            line, *streams = descriptors
            request = Request(**json.loads(message), line=line, streams=streams)
            pid = os.fork()
            if pid == 0:
                return request
            for stream in streams:
                os.close(stream)
            ending = os.pidfd_open(pid)
            lines[ending] = (pid, line)
            poll.register(ending, select.POLLIN)
            _tell(line, pid)


def _tell(line: int, number: int) -> None:
    # Who asked may be gone.
    try:
        os.write(line, number.to_bytes(EXIT_CODE_BYTES, "big", signed=True))
    except OSError:
        return


def become(request: Request, ending: "Ending") -> None:
    """Be the program from here on, as if this interpreter had just been started for it."""
    for number, stream in enumerate(request.streams):
        os.dup2(stream, number)
    os.closerange(SMALLEST_FREE, LARGEST_OPEN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request.environment)
    for constant, seconds in json.loads(os.environ.pop(HASTE, "{}")).items():
        module, _, name = constant.rpartition(".")
        assert isinstance(getattr(sys.modules[module], name), float), f"{constant} is no number of seconds"
        setattr(sys.modules[module], name, seconds)
    module, *words = request.command
    sys.argv[1:] = words
    ending.code = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as left:
        ending.code = left.code if isinstance(left.code, int) else int(left.code is not None)
        raise
    ending.code = 0


class Ending:
    """The last thing that a process does: to end, and not to take apart all that was imported, most of it unused."""

    def __init__(self) -> None:
        self.code = 0

    def leave(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            if not stream.closed:
                stream.flush()
        os._exit(self.code)


def main() -> None:
    """The launcher's life, and that of each process that it forks."""
    ending = Ending()
    # Registered before anything else is, it runs after all else, when threads have ended and errors are printed.
    atexit.register(ending.leave)
    # Who interrupts the tests wants their mounts ended in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    import_all()
    request = serve(control)
    control.detach()
    if request is not None:
        become(request, ending)


if __name__ == "__main__":
    main()
