"""drivefs as a target: one device and a server of its own, everything below the target's base."""

import time
from pathlib import Path

from benchmarks import processes
from benchmarks.drives import Device, Server
from benchmarks.targets import Target


class DrivefsMount(Target):
    """Mounted as a user does it, in the background; ready is when the command returns."""

    name = "drivefs"

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.server = Server(base)
        self.device = Device(base, self.directory, "bench")

    def start(self) -> None:
        self.server.start()
        self.device.login(self.server.url)
        self.device.mount()

    def stop(self) -> None:
        self.device.abandon()
        self.server.stop()

    def wait_synced(self) -> bool:
        self.device.wait_synced()
        return True

    def forget_local(self) -> bool:
        self.device.unmount()
        self.device.forget_cache()
        self.device.mount()
        return True

    def remount(self) -> float | None:
        self.device.unmount()
        return self.device.mount()

    def status(self) -> float | None:
        begin = time.perf_counter()
        self.device.status()
        return time.perf_counter() - begin

    def memory_bytes(self) -> int | None:
        return processes.memory_bytes(processes.family(self.device.pid)) if self.device.pid else None
