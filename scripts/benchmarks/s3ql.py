"""S3QL over a local storage directory. Not on PyPI and not in every Debian: measured where it is there."""

import shutil
from pathlib import Path

from benchmarks import peers, processes
from benchmarks.targets import MountedTarget


class S3qlMount(MountedTarget):
    """Uploads in the background; `s3qlctrl flushcache` returns when all is there."""

    name = "s3ql"

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.programs = Path()
        self.storage = f"local://{base / 'data'}"

    def mount_command(self) -> list[object]:
        return [self.programs / "mount.s3ql", "--fg", *self.shared_options(), self.storage, self.directory]

    def shared_options(self) -> list[object]:
        return ["--cachedir", self.base / "cache", "--authfile", self.base / "authinfo"]

    def start(self) -> None:
        self.programs = peers.program("mkfs.s3ql", self.base.parent.parent).parent
        (self.base / "data").mkdir()
        (self.base / "authinfo").touch(mode=0o600)
        processes.run(self.programs / "mkfs.s3ql", "--plain", *self.shared_options(), self.storage)
        self.mount()

    def unmount(self) -> None:
        if processes.is_mounted(self.directory):
            processes.run(self.programs / "umount.s3ql", self.directory)
        super().unmount()

    def wait_synced(self) -> bool:
        processes.run(self.programs / "s3qlctrl", "flushcache", self.directory)
        return True

    def forget_local(self) -> bool:
        self.unmount()
        shutil.rmtree(self.base / "cache")
        self.mount()
        return True
