"""Starts the mount as a process of its own, and waits until it answers or says why not.

Owns the spawning and the reading of the readiness pipe. A fresh interpreter, not a fork: a copy of this one would
inherit threads and open files that it knows nothing of.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import drivefs
from drivefs.cli.errors import CommandError
from drivefs.cli.exit_codes import ExitCode

READY_SECONDS = 60.0
"""Recovery of a large journal takes its time; no answer for longer than this is no mount."""


def start(words: Sequence[str], log_file: Path) -> None:
    """Run `drivefs WORDS --ready-pipe N` detached, and return when it reports that it is ready.

    What it prints goes to the end of `log_file`. On an error nothing of it is left running.

    Raises:
        CommandError: the reason that the process gave, or that it died or hung without one.
    """
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        try:
            process = _spawn([*words, "--ready-pipe", str(writing)], writing, log_file)
        finally:
            os.close(writing)
        line = _read_line(pipe.fileno(), READY_SECONDS)
    if line is None:
        process.terminate()
        raise CommandError(
            f"the mount did not answer within {READY_SECONDS:.0f} s and was stopped. {_log_hint(log_file)}"
        )
    if not line:
        raise CommandError(f"the mount ended at once (exit code {process.wait()}). {_log_hint(log_file)}")
    told = json.loads(line)
    if "error" in told:
        process.wait()
        raise CommandError(told["error"], ExitCode(told["exit_code"]))


def _spawn(words: Sequence[str], pipe: int, log_file: Path) -> "subprocess.Popen[bytes]":
    # The new interpreter finds this very drivefs, wherever it starts.
    package_parent = str(Path(drivefs.__file__).parent.parent)
    search = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH", "")]))
    log_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "drivefs", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[pipe],
            start_new_session=True,
            cwd="/",
            env={**os.environ, "PYTHONPATH": search},
        )


def _read_line(descriptor: int, limit_seconds: float) -> bytes | None:
    """Read up to the end of the line or of the pipe; None when the time runs out first."""
    deadline = time.monotonic() + limit_seconds
    read = b""
    while not read.endswith(b"\n"):
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        part = os.read(descriptor, 65536)
        if not part:
            break
        read += part
    return read


def _log_hint(log_file: Path) -> str:
    try:
        lines = log_file.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    last = f"The last line of its log: {lines[-1]}. " if lines else ""
    return f"{last}Nothing that was written is lost; the whole log: {log_file}"
