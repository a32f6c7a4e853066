"""Long random runs: devices at work at once on one drive, over networks and with a server that fail; then peace.

Owns the faults, and what must hold in the end: all devices show the same tree, entry for entry; a device that never saw
any of it shows it too; no content is lost, none is a mixture; both checks are clean. What a device does is in
`device_actor`.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.mount.device_actor import Actor, digest
from tests.mount.oracle import snapshot, walk
from tests.support.link import Link
from tests.support.mounts import Device, Server, Workbench, wait_until

CONVERGED_SECONDS = 150.0
EMPTY = digest(b"")


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: reproducible in what is tried, and not in how the devices interleave."""

    seed: int
    operations: int
    """By each device."""
    options: tuple[str, ...]
    """Of each mount."""
    fault_share: float = 0.03
    device_count: int = 3


class Participant:
    """A device, its network, and who works at it, in a thread of their own."""

    def __init__(self, device: Device, link: Link, plan: Plan, number: int) -> None:
        self.device = device
        self.link = link
        self.plan = plan
        self.chance = random.Random(f"{plan.seed} faults {number}")
        actor_chance = random.Random(f"{plan.seed} {number}")
        self.actor = Actor(f"{plan.seed}-{device.name}", device.mountpoint, actor_chance)
        self.repair: Callable[[], None] | None = None
        self.repair_after = 0
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._work_to_the_end)

    def _work_to_the_end(self) -> None:
        try:
            for _ in range(self.plan.operations):
                self._maybe_fault()
                self.actor.step()
                self.device.watchdog.restart()
                if self.chance.random() < 0.2:
                    time.sleep(self.chance.choice([0.0, 0.01, 0.05, 0.2]))
            self.actor.let_go()
        except BaseException as error:
            self.failure = error
            self.actor.note(f"FAILED: {error!r}")
        finally:
            self._mend()

    def _mend(self) -> None:
        if self.repair is not None:
            self.repair()
            self.repair = None
            self.actor.trouble_at = time.monotonic()

    def _maybe_fault(self) -> None:
        self.actor.trouble_at = time.monotonic() if self.repair is not None else self.actor.trouble_at
        if self.repair is not None:
            self.repair_after -= 1
            if self.repair_after <= 0:
                self._mend()
        elif self.chance.random() < self.plan.fault_share:
            fault = self.chance.choice([self._cut, self._cut, self._pause, self._reset, self._flap, self._slow])
            fault = self.chance.choice([fault, fault, self._crash, self._remount])
            self.actor.note(f"fault: {fault.__name__}")
            self.actor.trouble_at = time.monotonic()
            self.repair_after = self.chance.randrange(5, 60)
            fault()

    def _cut(self) -> None:
        self.link.cut()
        self.repair = self.link.restore

    def _pause(self) -> None:
        self.link.pause()
        self.repair = self.link.restore

    def _reset(self) -> None:
        self.link.reset()

    def _flap(self) -> None:
        self.link.flap(0.5)
        self.repair = self.link.restore

    def _slow(self) -> None:
        self.link.delay(0.2)
        self.repair = self.link.restore

    def _crash(self) -> None:
        self.device.kill()
        self.actor.let_go()
        self.device.mount(*self.plan.options)

    def _remount(self) -> None:
        self.actor.let_go()
        self.device.umount("--now")
        self.device.mount(*self.plan.options)


class Run:
    """All of one run; `complaints` holds what is wrong in the end."""

    def __init__(self, workbench: Workbench, plan: Plan) -> None:
        self.workbench = workbench
        self.plan = plan
        self.chance = random.Random(f"{plan.seed} server")
        self.server: Server = workbench.server()
        self.complaints: list[str] = []
        self.participants: list[Participant] = []
        for number in range(plan.device_count):
            link = workbench.link(self.server)
            device = workbench.device(self.server, link=link)
            device.mount(*plan.options)
            self.participants.append(Participant(device, link, plan, number))

    def work(self) -> None:
        """All devices at once, the server failing now and then."""
        for each in self.participants:
            each.thread.start()
        while any(each.thread.is_alive() for each in self.participants):
            time.sleep(self.chance.uniform(0.5, 5.0))
            fault = self.chance.choice([None, None, self._freeze, self._kill, self._stop])
            if fault is not None and any(each.thread.is_alive() for each in self.participants):
                for each in self.participants:
                    each.actor.note(f"fault of the server: {fault.__name__}")
                    each.actor.trouble_at = time.monotonic()
                fault()
                for each in self.participants:
                    each.actor.trouble_at = time.monotonic()
        for each in self.participants:
            each.thread.join()
            if each.failure is not None:
                raise each.failure

    def _freeze(self) -> None:
        assert self.server.process is not None
        self.server.process.send_signal(signal.SIGSTOP)
        time.sleep(self.chance.uniform(0.1, 2.0))
        self.server.process.send_signal(signal.SIGCONT)

    def _kill(self) -> None:
        self.server.kill()
        time.sleep(self.chance.uniform(0.0, 1.0))
        self.server.start()

    def _stop(self) -> None:
        self.server.stop()
        time.sleep(self.chance.uniform(0.0, 1.0))
        self.server.start()

    def trees(self) -> list[dict[bytes, object]]:
        """What each device shows: every entry, and which names are one inode."""
        found = []
        for each in self.participants:
            root = each.device.mountpoint
            # Numbers may differ until the next mount: what was made here and found to be another's keeps its own.
            names: dict[int, list[str]] = {}
            for path in paths(root):
                names.setdefault(Path(path).lstat().st_ino, []).append(os.path.relpath(path, root))
            alive = self.workbench.watchdog.restart
            tree: dict[bytes, object] = dict(snapshot(root, times=True, seen=alive))
            tree[b"names of one inode"] = sorted(sorted(each) for each in names.values() if len(each) > 1)
            found.append(tree)
        return found

    def settle(self) -> None:
        """Everything is sent and followed by everyone; then all trees are the same."""
        for each in self.participants:
            each.link.restore()

        def is_equal() -> bool:
            for each in self.participants:
                each.device.sync()
            trees = self.trees()
            return all(tree == trees[0] for tree in trees) and self.is_quiet()

        try:
            wait_until("all devices show one tree", is_equal, CONVERGED_SECONDS)
        except TimeoutError:
            self.complaints += self.differences()

    def is_quiet(self) -> bool:
        return all(each.device.status()["pending"]["mutations"] == 0 for each in self.participants)

    def differences(self) -> list[str]:
        first, *others = self.trees()
        found = []
        for number, tree in enumerate(others, start=1):
            for path in sorted({*first, *tree}):
                if first.get(path) != tree.get(path):
                    found.append(f"{path!r}: device0 {first.get(path)}; device{number} {tree.get(path)}")
        return found

    def judge(self) -> None:
        """What was written is there, and nothing else is."""
        root = self.participants[0].device.mountpoint
        there = {digest(path.read_bytes()): str(path.relative_to(root)) for path in regular_files(root)}
        for each in self.participants:
            for place in (each.device.directories["XDG_STATE_HOME"]).rglob("lost+found/*"):
                if place.is_file():
                    there[digest(place.read_bytes())] = str(place)
        actors = [each.actor for each in self.participants]
        written = {key: text for actor in actors for key, text in actor.written.items()}
        gone = {key: text for actor in actors for key, text in actor.gone.items()}
        allowed = {key for actor in actors for key in (*actor.same, *actor.nameless)}
        for key, text in written.items():
            if key not in there and key not in gone and key != EMPTY:
                self.complaints.append(f"lost: {key[:12]} {text}\n" + self.history(key))
        for key, path in there.items():
            if key not in written and key not in allowed and key != EMPTY:
                self.complaints.append(f"nobody wrote what is in {path}: {key[:12]}")
        for actor in actors:
            self.complaints += actor.complaints

    def history(self, key: str) -> str:
        """The lines of all traces that speak of a content or of the names it had."""
        lines = sorted(line for each in self.participants for line in each.actor.trace)
        names = {word for line in lines if key[:12] in line for word in line.split() if ".txt" in word}
        related = [line for line in lines if key[:12] in line or any(name.strip(":,") in line for name in names)]
        return "\n".join(related[-60:])

    def trace(self) -> str:
        return "\n".join(sorted(line for each in self.participants for line in each.actor.trace)) + "\n"

    def check(self) -> None:
        """A device that saw nothing of it sees the same; then every check is clean."""
        expected = self.trees()[0]
        fresh = self.workbench.device(self.server)
        fresh.mount(*self.plan.options)
        newcomer = Participant(fresh, self.participants[0].link, self.plan, len(self.participants))
        self.participants.append(newcomer)
        if self.trees()[-1] != expected:
            self.complaints += self.differences()
        for each in self.participants:
            each.device.umount()
            each.device.assert_sound()
        self.server.assert_sound()


def paths(root: Path) -> list[str]:
    return [path.decode(errors="surrogateescape") for path in walk(bytes(root))]


def regular_files(root: Path) -> list[Path]:
    return [path for path in map(Path, paths(root)) if path.is_file() and not path.is_symlink()]


def run(workbench: Workbench, plan: Plan, trace: Path) -> list[str]:
    """Everything; gives what is wrong, each complaint with its history. The whole story is in `trace`."""
    started = Run(workbench, plan)
    try:
        started.work()
        started.settle()
        started.judge()
        if not started.complaints:
            started.check()
    finally:
        trace.write_text(started.trace())
    return started.complaints
