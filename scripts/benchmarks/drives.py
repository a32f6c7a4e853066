"""A drivefs server and the devices of one account on it: fresh data, fresh XDG directories, everything below one base.

Owns their processes, directories and mountpoints. Mounts are made as a user makes them, in the background.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks import processes

USER = "bench"
PASSWORD = "bench-password-of-a-throw-away-server"
SYNC_SECONDS = 600
BINARIES = Path(sys.executable).parent


def environment(base: Path) -> dict[str, str]:
    """XDG directories below `base`, and more quota than a benchmark fills."""
    return {f"XDG_{kind}_HOME": str(base / kind.lower()) for kind in ("CONFIG", "STATE", "CACHE")} | {
        "XDG_RUNTIME_DIR": str(base / "runtime"),
        "DRIVEFS_SERVER_QUOTA": "1T",
    }


class Server:
    """`drivefs-server` with one user, on a port of its own, which stays the same when it is started again."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.data = base / "data"
        self.environment = environment(base)
        self.port = processes.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers; the first time, it gets its user."""
        (self.base / "runtime").mkdir(mode=0o700, parents=True, exist_ok=True)
        server = BINARIES / "drivefs-server"
        if not self.data.exists():
            add_user = (server, "user", "add", USER, "--data", self.data, "--password-stdin")
            processes.run(*add_user, env=self.environment, text=PASSWORD + "\n")
        serve = (server, "run", "--data", self.data, "--listen", f"127.0.0.1:{self.port}")
        self.process = processes.start(*serve, log=self.base / "server.log", env=self.environment)
        processes.wait_until(self.is_healthy, f"the server at {self.url}")

    def is_healthy(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self.url + "/healthz", timeout=2) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        processes.stop(self.process)
        self.process = None


class Device:
    """One device: logged in by `login`, mounted at `directory` between `mount` and `unmount`."""

    def __init__(self, base: Path, directory: Path, name: str) -> None:
        self.base = base
        self.directory = directory
        self.name = name
        self.environment = environment(base)
        self.pid: int | None = None

    def command(self, *words: object, text: str = "") -> str:
        return processes.run(BINARIES / "drivefs", *words, env=self.environment, text=text)

    def login(self, url: str) -> None:
        (self.base / "runtime").mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.mkdir(exist_ok=True)
        self.command("login", url, "--user", USER, "--device", self.name, "--password-stdin", text=PASSWORD + "\n")
        # Workloads remove what they made, which is most of the drive: nobody is to be asked about that.
        config = Path(self.environment["XDG_CONFIG_HOME"]) / "drivefs/config.toml"
        config.write_text(config.read_text() + "mass_deletion_guard = false\n")

    def mount(self) -> float:
        """Seconds to the first listing."""
        begin = time.perf_counter()
        self.command("mount", self.directory)
        os.listdir(self.directory)
        elapsed = time.perf_counter() - begin
        self.pid = self.status()["pid"]
        return elapsed

    def unmount(self) -> None:
        """Returns when all is uploaded and the mount has ended."""
        self.command("umount", self.directory, "--timeout", SYNC_SECONDS)
        self.pid = None

    def abandon(self) -> None:
        """Ends the mount; what is not uploaded yet is thrown away with the run."""
        if processes.is_mounted(self.directory):
            self.command("umount", self.directory, "--now")
        self.pid = None

    def wait_synced(self) -> None:
        self.command("sync", self.directory, "--wait", "--timeout", SYNC_SECONDS)

    def forget_cache(self) -> None:
        """Only while unmounted."""
        shutil.rmtree(self.environment["XDG_CACHE_HOME"])

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.command("status", self.directory, "--json"))
        return found
