"""What the starter of a mount hears: one JSON line on the pipe, assignments in a datagram."""

import json
import os
import socket
from pathlib import Path

import pytest

from drivefs.control.readiness import Readiness


def test_pipe_says_ready_and_closes() -> None:
    reading, writing = os.pipe()
    Readiness(writing, {}).ready("mounted")
    with os.fdopen(reading) as pipe:
        assert json.loads(pipe.read()) == {"ready": True}


def test_pipe_carries_the_reason_of_a_failure() -> None:
    reading, writing = os.pipe()
    Readiness(writing, {}).failed("no /dev/fuse", 1)
    with os.fdopen(reading) as pipe:
        assert json.loads(pipe.read()) == {"error": "no /dev/fuse", "exit_code": 1}


def test_only_the_first_word_goes_through_the_pipe() -> None:
    reading, writing = os.pipe()
    readiness = Readiness(writing, {})
    readiness.ready("mounted")
    readiness.failed("later", 1)
    with os.fdopen(reading) as pipe:
        assert json.loads(pipe.read()) == {"ready": True}


def test_starter_that_went_away_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    Readiness(writing, {}).ready("mounted")


@pytest.mark.parametrize("is_abstract", [False, True])
def test_service_manager_hears_the_life_of_the_mount(tmp_path: Path, is_abstract: bool) -> None:
    name = f"@drivefs-test-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if is_abstract else name)
        readiness = Readiness(None, {"NOTIFY_SOCKET": name})
        readiness.ready("mounted")
        readiness.stopping()
        assert manager.recv(4096).decode().split("\n") == ["READY=1", "STATUS=mounted", f"MAINPID={os.getpid()}"]
        assert manager.recv(4096) == b"STOPPING=1"


def test_service_manager_that_does_not_listen_is_no_error(tmp_path: Path) -> None:
    Readiness(None, {"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready("mounted")
