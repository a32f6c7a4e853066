"""drivefs with a server of its own: fresh data, fresh XDG directories, everything below the target's base."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from benchmarks import processes
from benchmarks.targets import Target

USER = "bench"
PASSWORD = "bench-password-of-a-throw-away-server"
SYNC_SECONDS = 600


class DrivefsMount(Target):
    """Mounted as a user does it, in the background; ready is when the command returns."""

    name = "drivefs"

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.server: subprocess.Popen[bytes] | None = None
        self.pid: int | None = None
        self.binaries = Path(sys.executable).parent
        self.environment = {f"XDG_{kind}_HOME": str(base / kind.lower()) for kind in ("CONFIG", "STATE", "CACHE")} | {
            "XDG_RUNTIME_DIR": str(base / "runtime"),
            "DRIVEFS_SERVER_QUOTA": "1T",
        }

    def command(self, *words: object, text: str = "") -> str:
        return processes.run(self.binaries / "drivefs", *words, env=self.environment, text=text)

    def mount(self) -> float:
        """Seconds to the first listing."""
        begin = time.perf_counter()
        self.command("mount", self.directory)
        os.listdir(self.directory)
        elapsed = time.perf_counter() - begin
        self.pid = json.loads(self.command("status", self.directory, "--json"))["pid"]
        return elapsed

    def unmount(self) -> None:
        self.command("umount", self.directory, "--timeout", SYNC_SECONDS)
        self.pid = None

    def start(self) -> None:
        (self.base / "runtime").mkdir(mode=0o700, exist_ok=True)
        data, port = self.base / "data", processes.free_port()
        server = self.binaries / "drivefs-server"
        add_user = (server, "user", "add", USER, "--data", data, "--password-stdin")
        processes.run(*add_user, env=self.environment, text=PASSWORD + "\n")
        url = f"http://127.0.0.1:{port}"
        serve = (server, "run", "--data", data, "--listen", f"127.0.0.1:{port}")
        self.server = processes.start(*serve, log=self.base / "server.log", env=self.environment)
        processes.wait_until(lambda: self.is_healthy(url), f"the server at {url}")
        self.command("login", url, "--user", USER, "--device", "bench", "--password-stdin", text=PASSWORD + "\n")
        self.mount()

    def is_healthy(self, url: str) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url + "/healthz", timeout=2) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        # What is not uploaded yet is thrown away with the run.
        if processes.is_mounted(self.directory):
            processes.run(self.binaries / "drivefs", "umount", self.directory, "--now", env=self.environment)
        processes.stop(self.server)

    def wait_synced(self) -> bool:
        self.command("sync", self.directory, "--wait", "--timeout", SYNC_SECONDS)
        return True

    def forget_local(self) -> bool:
        self.unmount()
        shutil.rmtree(self.environment["XDG_CACHE_HOME"])
        self.mount()
        return True

    def remount(self) -> float | None:
        self.unmount()
        return self.mount()

    def status(self) -> float | None:
        begin = time.perf_counter()
        self.command("status", self.directory, "--json")
        return time.perf_counter() - begin

    def memory_bytes(self) -> int | None:
        return processes.memory_bytes(processes.family(self.pid)) if self.pid else None
