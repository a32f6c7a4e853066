"""scripts/demo from end to end, as a newcomer runs it, with directories and a port of its own.

Owns no fixtures for others. Invariant: no demo of the user who runs the tests is touched.
"""

import json
import os
import shlex
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.mounts import wait_until
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Demo:
    """One user's demo, below one directory."""

    base: Path
    port: int

    @property
    def home(self) -> Path:
        return self.base / ".local/state/drivefs/demo-server"

    @property
    def mountpoint(self) -> Path:
        return self.base / "Drive"

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "DRIVEFS_"))}
        (self.base / "run").mkdir(mode=0o700, exist_ok=True)
        env = kept | {"HOME": str(self.base), "XDG_RUNTIME_DIR": str(self.base / "run")}
        env["DRIVEFS_DEMO_PORT"] = str(self.port)
        command = [ROOT / "scripts/demo", *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)

    def server_pid(self) -> str:
        return (self.home / "server.pid").read_text()


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    made = Demo(tmp_path / "a user", free_port())
    made.base.mkdir()
    yield made
    stopped = made.run("--stop")
    assert stopped.returncode == 0, stopped.stderr
    assert not os.path.ismount(made.mountpoint)


def test_demo_starts_twice_keeps_files_and_stops_twice(demo: Demo) -> None:
    first = demo.run()
    assert first.returncode == 0, first.stderr
    assert str(demo.mountpoint) in first.stdout
    assert "scripts/demo --stop" in first.stdout
    (pasted,) = [line for line in first.stdout.splitlines() if "cp -r" in line]
    assert shlex.split(pasted)[3] == f"{demo.mountpoint}/"
    assert os.path.ismount(demo.mountpoint)
    (demo.mountpoint / "kept").write_text("content")
    server = demo.server_pid()

    again = demo.run()
    assert again.returncode == 0, again.stderr
    assert demo.server_pid() == server
    assert (demo.mountpoint / "kept").read_text() == "content"

    assert stat.S_IMODE((demo.home / "password").stat().st_mode) == 0o600
    for _ in range(2):
        stopped = demo.run("--stop")
        assert stopped.returncode == 0, stopped.stderr
    assert list(demo.mountpoint.iterdir()) == []

    third = demo.run()
    assert third.returncode == 0, third.stderr
    assert (demo.mountpoint / "kept").read_text() == "content"


def test_demo_finds_its_drive_below_a_home_that_is_a_link_and_mounts_again_what_was_killed(demo: Demo) -> None:
    linked = Demo(demo.base.parent / "link", demo.port)
    linked.base.symlink_to(demo.base)
    for _ in range(2):
        started = linked.run()
        assert started.returncode == 0, started.stderr
    (record,) = demo.base.glob("run/drivefs/*/mount.json")
    killed = json.loads(record.read_text())["pid"]
    os.kill(killed, signal.SIGKILL)
    wait_until("it is gone", lambda: not Path(f"/proc/{killed}/exe").exists())
    assert linked.run().returncode == 0
    assert list(demo.mountpoint.iterdir()) == []
    assert linked.run("--stop").returncode == 0
    assert not os.path.ismount(demo.mountpoint)


def test_demo_says_when_the_port_is_taken_and_starts_nothing(demo: Demo) -> None:
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", demo.port))
        other.listen()
        refused = demo.run()
    assert refused.returncode != 0
    assert f"port {demo.port} is taken" in refused.stderr
    assert "--port" in refused.stderr
    assert not (demo.home / "server.pid").exists()


def test_demo_moves_to_another_port_with_its_files(demo: Demo) -> None:
    assert demo.run().returncode == 0
    (demo.mountpoint / "kept").write_text("content")
    assert demo.run("--stop").returncode == 0
    moved = demo.run("--port", str(free_port()))
    assert moved.returncode == 0, moved.stderr
    assert (demo.mountpoint / "kept").read_text() == "content"


@pytest.mark.parametrize(
    ("script", "told"), [("demo", "--stop"), ("setup", "$PYTHON"), ("test", "--long"), ("check", "")]
)
def test_help_is_all_that_a_script_does_when_asked_for_it(script: str, told: str, tmp_path: Path) -> None:
    # Elsewhere nothing is set up: without a look at the words all of them would begin with that.
    (tmp_path / "scripts").mkdir()
    copy = shutil.copy(ROOT / "scripts" / script, tmp_path / "scripts")
    shown = subprocess.run([copy, "--help"], capture_output=True, text=True, check=True)
    assert f"scripts/{script} [" in shown.stdout
    assert told in shown.stdout


@pytest.mark.parametrize("words", [("--no-such-option",), ("one", "two"), ("--port", "http")])
def test_demo_refuses_what_it_does_not_know(demo: Demo, words: tuple[str, ...]) -> None:
    refused = demo.run(*words)
    assert refused.returncode != 0
    assert refused.stderr.startswith("drivefs demo: ")
