"""drivefs with a server of its own: fresh data, fresh XDG directories, everything below the target's base."""

import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from benchmarks import processes
from benchmarks.targets import MountedTarget

USER = "bench"
PASSWORD = "bench-password-of-a-throw-away-server"
SYNC_SECONDS = 600


class DrivefsMount(MountedTarget):
    """A mount in the foreground, so that its process is ours to look at."""

    name = "drivefs"

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.server: subprocess.Popen[bytes] | None = None
        self.binaries = Path(sys.executable).parent
        self.environment = {f"XDG_{kind}_HOME": str(base / kind.lower()) for kind in ("CONFIG", "STATE", "CACHE")} | {
            "XDG_RUNTIME_DIR": str(base / "runtime"),
            "DRIVEFS_SERVER_QUOTA": "1T",
        }

    def command(self, *words: object, text: str = "") -> str:
        return processes.run(self.binaries / "drivefs", *words, env=self.environment, text=text)

    def mount_command(self) -> list[object]:
        return [self.binaries / "drivefs", "mount", self.directory, "--foreground"]

    def mount_environment(self) -> dict[str, str]:
        return self.environment

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

    def unmount(self) -> None:
        if self.process is not None and self.process.poll() is None and processes.is_mounted(self.directory):
            self.command("umount", self.directory, "--timeout", SYNC_SECONDS)
        super().unmount()

    def stop(self) -> None:
        # What is not uploaded yet is thrown away with the run.
        processes.unmount(self.directory)
        processes.stop(self.process)
        processes.stop(self.server)

    def wait_synced(self) -> bool:
        self.command("sync", self.directory, "--wait", "--timeout", SYNC_SECONDS)
        return True

    def forget_local(self) -> bool:
        self.unmount()
        shutil.rmtree(self.environment["XDG_CACHE_HOME"])
        self.mount()
        return True

    def status(self) -> float | None:
        begin = time.perf_counter()
        self.command("status", self.directory, "--json")
        return time.perf_counter() - begin
