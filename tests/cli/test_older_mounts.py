"""Commands against a mount that an older version of drivefs serves: what it does not say is no error."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drivefs.cli.exit_codes import ExitCode
from drivefs.cli.main import main
from drivefs.control import addresses, client, mounts

STATUS: dict[str, Any] = {
    "profile": "old",
    "mountpoint": "/mnt/old",
    "user": "anna",
    "device": "laptop",
    "url": "http://127.0.0.1:1",
    "online": False,
    "since_ns": 0,
    "reason": "",
    "pending": {"mutations": 0, "bytes": 0},
    "transfers": {way: {"bytes": 0, "bytes_per_second": 0} for way in ("upload", "download")},
    "cache": {"used_bytes": 0, "limit_bytes": 1},
    "quota": None,
}
"""What the first version said."""


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the mount answers to each command."""
    for variable in [name for name in os.environ if name.startswith(("XDG_", "DRIVEFS_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    answers: dict[str, Any] = {}

    def call(directory: Path, command: str, *_: Any, **__: Any) -> Any:
        return answers[command]

    monkeypatch.setattr(client, "call", call)
    directory = tmp_path / "drivefs" / "old"
    directory.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listening:
        with addresses.short_address(directory) as address:
            listening.bind(address)
        listening.listen()
        mounts.write_record(directory, mounts.MountRecord("old", "/mnt/old", "/state/old", os.getpid()))
        yield answers


def test_a_drive_that_takes_no_changes_says_so(answers: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    answers["status"] = STATUS | {"read_only": True}
    assert main(["status"]) == ExitCode.OK
    assert "/mnt/old  read-only, profile old" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["status"], ["status", "--json"]])
def test_status_shows_what_there_is(
    answers: dict[str, Any], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    answers["status"] = STATUS
    assert main(words) == ExitCode.OK
    shown = capsys.readouterr()
    assert shown.err == ""
    assert json.loads(shown.out) == STATUS if "--json" in words else "offline since" in shown.out


def test_sync_needs_only_what_is_left(answers: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    answers["sync"] = {"mutations": 0, "bytes": 0, "online": True, "reason": ""}
    assert main(["sync", "--wait"]) == ExitCode.OK


def test_what_a_command_cannot_do_without_is_said_in_words(
    answers: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    answers["quota"] = {"quota_bytes": 1, "stored_bytes": 0}
    assert main(["quota"]) == ExitCode.FAILED
    shown = capsys.readouterr()
    assert "/mnt/old runs another version of drivefs" in shown.err
    assert "KeyError" not in shown.err
