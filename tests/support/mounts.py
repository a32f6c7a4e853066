"""Real servers, devices and mounts, started through the command line as a person would start them.

Owns the processes, directories and mountpoints it makes, and ends all of them in `Workbench.close()`. Does not know
what is tested.
Invariants: every wait has a deadline; whether something is mounted is read from /proc/self/mountinfo and never found
out by touching the path; only processes started here are ever signalled.
"""

import errno
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support import launching
from tests.support.link import Link
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
PASSWORD = "correct horse battery staple"
READY_SECONDS = 60.0
"""How long a server or a mount may take until it answers."""
COMMAND_SECONDS = 120.0
"""How long any one command may take."""
LOG_TAIL_BYTES = 8000
CHANGED_MEANWHILE = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ELOOP, errno.ENXIO, errno.ENODATA, errno.ESTALE
}  # fmt: skip
"""What a call says when another kind of entry, or none, came in place of what was listed a moment ago."""

DRIVEFS = [sys.executable, "-m", "drivefs"]


def wait_until(what: str, is_so: Callable[[], bool], seconds: float = READY_SECONDS) -> None:
    """Return as soon as `is_so()`; raise TimeoutError, naming `what`, after `seconds`.

    A look that finds a name gone, or another kind of entry, where it had just been listed, says "not yet".
    """
    begin = time.monotonic()
    missed = None
    while True:
        try:
            if is_so():
                return
        except OSError as error:
            if error.errno not in CHANGED_MEANWHILE:
                raise
            missed = error
        waited = time.monotonic() - begin
        if waited > seconds:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}") from missed
        # What takes long is looked at less often: a look may be a command, or a walk through a tree.
        time.sleep(min(0.02 + waited / 10, 0.25))


def fuse_connections() -> dict[Path, int]:
    """Every mounted FUSE file system: mountpoint → connection number."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        fields = line.split(" ")
        kind = fields[fields.index("-") + 1]
        if kind.startswith("fuse") and kind != "fusectl":
            path = fields[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
            found[Path(path)] = int(fields[2].split(":")[1])
    return found


def end(
    process: subprocess.Popen[bytes] | launching.Process, number: int = signal.SIGTERM, seconds: float = READY_SECONDS
) -> int:
    """Signal a process and wait for it; one that outlives the deadline is killed and reported as TimeoutError."""
    if process.poll() is None:
        process.send_signal(number)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise TimeoutError(f"{process.args} did not end within {seconds:.0f} s of signal {number}") from None


def bare_environment() -> dict[str, str]:
    """The environment of every process started here: nothing of the caller's own drives is seen by it."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "DRIVEFS_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def start_logged(command: list[str], log: Path, environment: dict[str, str]) -> launching.Process:
    """Start one of our programs with nothing to read; what it prints goes to the end of its log."""
    with log.open("ab") as output, open(os.devnull, "rb") as nothing:
        descriptor = output.fileno()
        return launching.start(command, stdin=nothing.fileno(), stdout=descriptor, stderr=descriptor, env=environment)


class Server:
    """A `drivefs-server` on a data directory and a port of its own; both stay the same over restarts.

    It begins as a copy of the home of another one that is not running, if one is given.
    """

    def __init__(self, home: Path, *flags: str, like: Path | None = None) -> None:
        self.home = home
        self.data = home / "data"
        self.log = home / "server.log"
        self.address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.address}"
        self.flags = list(flags)
        self.process: launching.Process | None = None
        home.mkdir(parents=True)
        if like is not None:
            shutil.copytree(like, home, dirs_exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        """Its master key is its own, and lies outside its data directory."""
        return {**bare_environment(), "XDG_CONFIG_HOME": str(self.home / "config")}

    def start(self) -> None:
        """Start it and wait until it says that it is healthy."""
        command = ["backend", "run", "--data", str(self.data), "--listen", self.address, *self.flags]
        self.process = start_logged(command, self.log, self.environment)
        wait_until(f"{self.url}/healthz answers; see {self.log}", self.is_healthy)

    def is_healthy(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            raise RuntimeError(f"the server is not running; its log says:\n{tail(self.log)}")
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=5) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> None:
        """Ask it to end, and wait."""
        if self.process is not None:
            end(self.process)
            self.process = None

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        end(self.process, signal.SIGKILL)
        self.process = None

    def command(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run one of the other `drivefs-server` commands; its exit code is the caller's to judge."""
        command = ["backend", *arguments, "--data", str(self.data)]
        return launching.run(command, text=stdin, env=self.environment, seconds=COMMAND_SECONDS)

    def add_user(self, name: str) -> None:
        done = self.command("user", "add", name, "--password-stdin", stdin=PASSWORD + "\n")
        assert done.returncode == 0, done.stderr

    def assert_sound(self) -> None:
        """`drivefs-server check` finds every referenced block present, openable and right."""
        done = self.command("check")
        assert done.returncode == 0, done.stdout + done.stderr


class Watchdog:
    """Kills the mounts of a test that hangs in a system call, so that it fails with ENOTCONN and does not hang.

    A process, since the hanging one cannot help itself, and no thread, since tests fork.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._watched: set[int] = set()
        self._is_resting = True
        self._reading, self._writing = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._writing)
            _watch(self._reading)
        os.close(self._reading)

    def watch(self, process: int) -> None:
        self._watched.add(process)
        self._order()

    def unwatch(self, process: int) -> None:
        self._watched.discard(process)
        self._order()

    def restart(self) -> None:
        """A test begins: it has all the seconds."""
        self._is_resting = False
        self._order()

    def rest(self) -> None:
        """No test uses a mount now: those that stay wait for the next one, however long others take."""
        self._is_resting = True
        self._order()

    def close(self) -> None:
        os.close(self._writing)
        os.waitpid(self._pid, 0)

    def _order(self) -> None:
        order = {"processes": sorted(self._watched), "seconds": None if self._is_resting else self._seconds}
        os.write(self._writing, json.dumps(order).encode() + b"\n")


def _watch(orders: int) -> None:
    processes: list[int] = []
    seconds: float | None = None
    while True:
        ready, _, _ = select.select([orders], [], [], seconds)
        if not ready:
            for process in processes:
                os.kill(process, signal.SIGKILL)
            processes, seconds = [], None
            continue
        lines = os.read(orders, 65536).splitlines()
        if not lines:
            os._exit(0)
        order = json.loads(lines[-1])
        processes, seconds = order["processes"], order["seconds"]


class Device:
    """A device: XDG directories of its own, one profile, one mountpoint; logged in or not, mounted or not."""

    def __init__(self, home: Path, server: Server, user: str, watchdog: Watchdog) -> None:
        self.home = home
        self.name = home.name
        self.server = server
        self.url = server.url
        """Where it logs in: a link's, if there is one between the two."""
        self.user = user
        self.watchdog = watchdog
        self.program = ["drivefs"]
        """What mounts, and its first arguments; commands are always the real program."""
        self.haste: dict[str, float] = {}
        """How long its mount and its commands wait for something, where that is not as long as they would."""
        self.log = home / "mount.log"
        self.mountpoint = home / "Drive"
        self.directories = {
            "XDG_CONFIG_HOME": home / "config",
            "XDG_STATE_HOME": home / "state",
            "XDG_CACHE_HOME": home / "cache",
            "XDG_RUNTIME_DIR": home / "runtime",
        }
        self.process: launching.Process | None = None
        for directory in [home, self.mountpoint, *self.directories.values()]:
            directory.mkdir(parents=True, exist_ok=True)
        self.directories["XDG_RUNTIME_DIR"].chmod(0o700)

    @property
    def environment(self) -> dict[str, str]:
        return {**bare_environment(), **{key: str(value) for key, value in self.directories.items()}}

    def command(
        self, *arguments: str, stdin: str = "", seconds: float = COMMAND_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run a `drivefs` command as this device; its exit code is the caller's to judge."""
        environment = launching.hastened(self.environment, self.haste)
        return launching.run(["drivefs", *arguments], text=stdin, env=environment, seconds=seconds)

    def run(self, *arguments: str, stdin: str = "") -> str:
        """Run a `drivefs` command that must succeed; return what it printed."""
        done = self.command(*arguments, stdin=stdin)
        assert done.returncode == 0, f"drivefs {' '.join(arguments)}: {done.stdout}{done.stderr}\n{tail(self.log)}"
        return done.stdout

    def login(self) -> None:
        self.run(
            "login", self.url, "--user", self.user, "--device", self.name, "--password-stdin",
            stdin=PASSWORD + "\n",
        )  # fmt: skip

    def configure(self, line: str) -> None:
        """Add a setting to its only profile; the next mount follows it."""
        settings = self.directories["XDG_CONFIG_HOME"] / "drivefs/config.toml"
        settings.write_text(f"{settings.read_text()}{line}\n")

    def start_mount(self, *options: str) -> None:
        """Start `drivefs mount --foreground` without waiting for it."""
        command = [*self.program, "mount", str(self.mountpoint), "--foreground", *options]
        self.process = start_logged(command, self.log, launching.hastened(self.environment, self.haste))
        self.watchdog.watch(self.process.pid)

    def ended(self) -> None:
        """The mount process is known to have ended."""
        assert self.process is not None
        self.watchdog.unwatch(self.process.pid)
        self.process = None

    def mount(self, *options: str) -> Path:
        """Mount in the foreground of a process of ours, wait until it answers, and return the mountpoint."""
        self.start_mount(*options)
        wait_until(f"{self.mountpoint} is mounted; see {self.log}", self.answers)
        return self.mountpoint

    def answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"the mount ended with {self.process.returncode}; its log says:\n{tail(self.log)}")
        if self.mountpoint not in fuse_connections():
            return False
        # Of a dead mountpoint the kernel's cache may still give attributes; this question it always passes on.
        asked = subprocess.run(
            ["stat", "-f", "-c", "%T", self.mountpoint], capture_output=True, text=True, timeout=READY_SECONDS
        )
        return asked.returncode == 0 and asked.stdout.startswith("fuse") and self._is_announced(self.process.pid)

    def _is_announced(self, process: int) -> bool:
        """Whether the commands find this mount: a little later than programs do."""
        records = (self.directories["XDG_RUNTIME_DIR"] / "drivefs").glob("*/mount.json")
        return any(json.loads(record.read_bytes())["pid"] == process for record in records)

    def umount(self, *options: str) -> None:
        """`drivefs umount`, which drains, and wait for the process to end with 0."""
        self.run("umount", str(self.mountpoint), *options)
        if self.process is not None:
            code = self.process.wait(READY_SECONDS)
            self.ended()
            assert code == 0, f"the mount ended with {code} after umount:\n{tail(self.log)}"

    def kill(self) -> None:
        """kill -9 of the mount process; the mountpoint stays behind, dead, as after a crash."""
        assert self.process is not None
        end(self.process, signal.SIGKILL)
        self.ended()

    def sync(self) -> None:
        """Wait until all that was written before is committed."""
        self.run("sync", str(self.mountpoint), "--wait", "--timeout", str(int(COMMAND_SECONDS)))

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("status", str(self.mountpoint), "--json"))
        return found

    def assert_sound(self) -> None:
        """`drivefs check`, the local fsck, finds nothing."""
        self.run("check")

    def clear(self) -> None:
        """End what is left: the process, then the mountpoint, without touching its path."""
        if self.process is not None:
            end(self.process, signal.SIGKILL)
            self.ended()
        if self.mountpoint in fuse_connections():
            subprocess.run(["fusermount3", "-uz", str(self.mountpoint)], check=False, timeout=READY_SECONDS)


class Workbench:
    """Makes servers and devices below one new directory that other users can enter, and ends them all.

    Its servers begin as copies of `like`, the home of one that has the user ada.
    """

    def __init__(self, watchdog: Watchdog, like: Path) -> None:
        self.watchdog = watchdog
        self.like = like
        self.home = Path(tempfile.mkdtemp(prefix="drivefs-"))
        self.home.chmod(0o755)
        self.servers: list[Server] = []
        self.devices: list[Device] = []
        self.links: list[Link] = []

    def directory(self, name: str) -> Path:
        made = self.home / name
        made.mkdir()
        return made

    def server(self, *flags: str) -> Server:
        """A running server with one user, ada."""
        server = Server(self.home / f"server{len(self.servers)}", *flags, like=self.like)
        self.servers.append(server)
        server.start()
        return server

    def link(self, server: Server) -> Link:
        """A network to the server that can fail."""
        link = Link(server.address)
        self.links.append(link)
        return link

    def device(self, server: Server, user: str = "ada", link: Link | None = None) -> Device:
        """A device that is logged in and not mounted; it reaches the server over the link, if one is given."""
        device = self.new_device(server, user)
        if link is not None:
            device.url = link.url
        device.login()
        return device

    def new_device(self, server: Server, user: str = "ada") -> Device:
        """A device that never logged in."""
        name = f"device{len(self.devices)}"
        device = Device(self.home / name, server, user, self.watchdog)
        self.devices.append(device)
        return device

    def logs(self) -> list[tuple[str, str]]:
        """The ends of all logs, each with a heading."""
        paths = [each.log for each in self.servers] + [each.log for each in self.devices]
        return [(str(path.relative_to(self.home)), tail(path)) for path in paths if path.exists()]

    def close(self) -> None:
        for device in self.devices:
            device.clear()
        for link in self.links:
            link.close()
        for server in self.servers:
            server.stop()
        left = [path for path in fuse_connections() if path.is_relative_to(self.home)]
        assert not left, f"still mounted: {left}"
        shutil.rmtree(self.home)


def tail(log: Path) -> str:
    """The last few kilobytes of a log."""
    if not log.exists():
        return "(no log)"
    with log.open("rb") as source:
        source.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        return source.read().decode(errors="replace")
