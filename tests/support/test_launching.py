"""The launcher starts programs that behave as in an interpreter of their own."""

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import launching
from tests.support.mounts import bare_environment, end, start_logged, wait_until

SECONDS = 30.0


def launched(*command: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return launching.run(command, text=text, env=bare_environment(), seconds=SECONDS)


@contextmanager
def waiting(log: Path) -> Iterator[launching.Process]:
    """A program that goes on until it is told to end."""
    process = start_logged(["http.server", "0", "--bind", "127.0.0.1"], log, bare_environment())
    try:
        wait_until("it serves", lambda: b"Serving" in log.read_bytes())
        yield process
    finally:
        process.kill()
        process.wait(SECONDS)


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (("drivefs", "--version"), ""),
        (("drivefs", "no-such-command"), ""),
        (("drivefs", "mount", "--help"), ""),
        (("backend", "check", "--data", "/no/such/directory"), ""),
        (("json.tool",), '{"from": "standard input"}'),
        (("json.tool",), "no JSON"),
    ],
)
def test_a_program_prints_and_ends_as_in_a_fresh_interpreter(command: tuple[str, ...], text: str) -> None:
    fresh = subprocess.run(
        [sys.executable, "-m", *command], input=text, capture_output=True, text=True, cwd="/", env=bare_environment()
    )
    done = launched(*command, text=text)
    assert (done.returncode, done.stdout) == (fresh.returncode, fresh.stdout)
    # A traceback has other frames at its top.
    assert done.stderr.splitlines()[-1:] == fresh.stderr.splitlines()[-1:]


def test_a_program_has_no_files_but_its_own(tmp_path: Path) -> None:
    with waiting(tmp_path / "first"), waiting(tmp_path / "second") as second:
        found = {os.readlink(path) for path in Path(f"/proc/{second.pid}/fd").iterdir()}
    files = {name for name in found if not name.startswith("socket:")}
    assert files == {"/dev/null", str(tmp_path / "second")}
    assert len(found) == len(files) + 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, -15), (signal.SIGKILL, -9)])
def test_signals_reach_a_program_and_its_end_is_told(tmp_path: Path, number: signal.Signals, code: int) -> None:
    with waiting(tmp_path / "log") as process:
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        # What it says comes a moment before it can be interrupted.
        port = int((tmp_path / "log").read_text().split(" port ")[1].split()[0])
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=SECONDS).close()
        assert end(process, number) == code == process.poll()


def test_a_program_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        launching.run(["http.server", "0", "--bind", "127.0.0.1"], text="", env=bare_environment(), seconds=0.5)
