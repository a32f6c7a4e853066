"""Processes that the benchmark starts: running commands, waiting for a mount, memory. Knows nothing of any target.

Invariant: every wait has a deadline, and only processes started here are ever signalled.
"""

import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

START_SECONDS = 30.0


class BenchmarkError(Exception):
    """Something could not be measured; the message says what and why."""


def run(*command: object, env: Mapping[str, str] | None = None, text: str = "") -> str:
    """Runs a command to its end, gives it `text` to read, and returns its output.

    Raises: BenchmarkError with the command's own last words.
    """
    words = [str(word) for word in command]
    merged = {**os.environ, **(env or {})}
    done = subprocess.run(words, env=merged, text=True, input=text, capture_output=True, check=False)
    if done.returncode:
        reason = " ".join((done.stderr or done.stdout).strip().splitlines()[-3:]) or f"exit code {done.returncode}"
        raise BenchmarkError(f"{Path(words[0]).name} {' '.join(words[1:3])} failed: {reason}")
    return done.stdout


def start(*command: object, log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Starts a process that stays; what it says goes to `log`."""
    words = [str(word) for word in command]
    with log.open("ab") as output:
        return subprocess.Popen(
            words, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )


def stop(process: subprocess.Popen[bytes] | None) -> None:
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(START_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_until(done: Callable[[], bool], what: str, seconds: float = START_SECONDS, pause: float = 0.01) -> None:
    """Raises: BenchmarkError after the deadline."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise BenchmarkError(f"waited {seconds:.0f} s for {what}")
        time.sleep(pause)


def is_mounted(mountpoint: Path) -> bool:
    """Looks at the kernel's list only: touching a dead mountpoint may hang."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), line.split()[4])
        if place == str(mountpoint):
            return True
    return False


def wait_for_mount(mountpoint: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    """Returns when the mount answers."""

    def is_there() -> bool:
        if process.poll() is not None:
            last = log.read_text(errors="replace").strip().splitlines()[-2:]
            raise BenchmarkError(f"the mount process ended with {process.returncode}: {' '.join(last)}")
        return is_mounted(mountpoint)

    wait_until(is_there, f"a mount at {mountpoint}")
    os.listdir(mountpoint)


def unmount(mountpoint: Path) -> None:
    """Raises: BenchmarkError when it stays mounted."""
    for option in ("-u", "-uz"):
        if is_mounted(mountpoint):
            subprocess.run(["fusermount3", option, str(mountpoint)], check=False, capture_output=True)
    if is_mounted(mountpoint):
        raise BenchmarkError(f"{mountpoint} cannot be unmounted")


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found.extend(family(int(child)))
    return found


def memory_bytes(pids: list[int]) -> int:
    """Resident memory, all processes added up."""
    total = 0
    for pid in pids:
        match = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        total += int(match[1]) * 1024 if match else 0
    return total


def drop_kernel_caches() -> bool:
    """Empties the page, dentry and inode caches of the whole machine. False when not allowed."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True
