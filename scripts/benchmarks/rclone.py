"""rclone: a WebDAV server of its own and `rclone mount` with a full VFS cache, otherwise with its defaults."""

import json
import shutil
import subprocess
from pathlib import Path

from benchmarks import peers, processes
from benchmarks.targets import MountedTarget

SYNC_SECONDS = 600.0


class RcloneMount(MountedTarget):
    """Writes are uploaded 5 s after a file is closed: that is rclone's default, and what users get."""

    name = "rclone"

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.server: subprocess.Popen[bytes] | None = None
        self.program = Path()
        self.port = processes.free_port()
        self.control_port = processes.free_port()
        self.environment = {"RCLONE_CONFIG": str(base / "rclone.conf")}

    def mount_command(self) -> list[object]:
        return [
            *(self.program, "mount", ":webdav:", self.directory),
            *("--webdav-url", f"http://127.0.0.1:{self.port}", "--webdav-vendor", "rclone"),
            *("--vfs-cache-mode", "full", "--cache-dir", self.base / "cache"),
            *("--rc", "--rc-no-auth", "--rc-addr", f"127.0.0.1:{self.control_port}"),
        ]

    def mount_environment(self) -> dict[str, str]:
        return self.environment

    def start(self) -> None:
        self.program = peers.program("rclone", self.base.parent.parent)
        data = self.base / "data"
        data.mkdir()
        (self.base / "rclone.conf").touch()
        serve = (self.program, "serve", "webdav", data, "--addr", f"127.0.0.1:{self.port}")
        self.server = processes.start(*serve, log=self.base / "server.log", env=self.environment)
        processes.wait_until(lambda: processes.answers(self.port), "rclone's WebDAV server")
        self.mount()

    def stop(self) -> None:
        super().stop()
        processes.stop(self.server)

    def wait_synced(self) -> bool:
        processes.wait_until(self.is_idle, "rclone's uploads", SYNC_SECONDS, pause=0.1)
        return True

    def is_idle(self) -> bool:
        url = f"http://127.0.0.1:{self.control_port}"
        answer = processes.run(self.program, "rc", "--url", url, "vfs/stats", env=self.environment)
        cache = json.loads(answer)["diskCache"]
        return not cache["uploadsInProgress"] and not cache["uploadsQueued"]

    def forget_local(self) -> bool:
        self.unmount()
        shutil.rmtree(self.base / "cache")
        self.mount()
        return True
