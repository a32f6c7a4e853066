"""JuiceFS over a local object directory, with metadata in SQLite or Redis, with and without write-back."""

import shutil
import subprocess
from pathlib import Path

from benchmarks import peers, processes
from benchmarks.targets import MountedTarget

SYNC_SECONDS = 600.0


class JuicefsMount(MountedTarget):
    """Without write-back a close returns when the object directory has the data: there is nothing to wait for then."""

    writes_back = False

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.program = Path()

    def metadata_url(self) -> str:
        """Where the metadata is; what serves it runs when this returns."""
        raise NotImplementedError

    def mount_command(self) -> list[object]:
        options: list[object] = ["--cache-dir", self.base / "cache", "--no-usage-report"]
        if self.writes_back:
            options.append("--writeback")
        return [self.program, "mount", *options, self.url, self.directory]

    def start(self) -> None:
        self.program = peers.program("juicefs", self.base.parent.parent)
        self.url = self.metadata_url()
        objects = self.base / "objects"
        objects.mkdir()
        processes.run(
            *(self.program, "format", "--storage", "file", "--bucket", f"{objects}/", "--trash-days", "0"),
            *("--no-update", self.url, "bench"),
        )
        self.mount()

    def wait_synced(self) -> bool:
        if self.writes_back:
            processes.wait_until(self.has_nothing_staged, "JuiceFS's uploads", SYNC_SECONDS, pause=0.05)
        return True

    def has_nothing_staged(self) -> bool:
        return not any(path.is_file() for path in (self.base / "cache").glob("*/rawstaging/**/*"))

    def forget_local(self) -> bool:
        self.unmount()
        shutil.rmtree(self.base / "cache", ignore_errors=True)
        self.mount()
        return True


class JuicefsSqlite(JuicefsMount):
    """Metadata in an SQLite file."""

    name = "juicefs-sqlite"

    def metadata_url(self) -> str:
        return f"sqlite3://{self.base}/metadata.db"


class JuicefsSqliteWriteback(JuicefsSqlite):
    """The same, uploading in the background."""

    name = "juicefs-sqlite-writeback"
    writes_back = True


class JuicefsRedis(JuicefsMount):
    """Metadata in a Redis server of its own, with its append-only file on, since a drive must survive a restart."""

    name = "juicefs-redis"
    redis: subprocess.Popen[bytes] | None = None

    def metadata_url(self) -> str:
        port = processes.free_port()
        data = self.base / "redis"
        data.mkdir()
        self.redis = processes.start(
            *(peers.program("redis-server", self.base.parent.parent), "--port", port, "--bind", "127.0.0.1"),
            *("--dir", data, "--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"),
            log=self.base / "redis.log",
        )
        processes.wait_until(lambda: processes.answers(port), "Redis")
        return f"redis://127.0.0.1:{port}/1"

    def stop(self) -> None:
        super().stop()
        processes.stop(self.redis)


class JuicefsRedisWriteback(JuicefsRedis):
    """The same, uploading in the background."""

    name = "juicefs-redis-writeback"
    writes_back = True
