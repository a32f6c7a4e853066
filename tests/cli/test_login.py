"""Logging in where it must not work: each refusal is one clear line, and leaves nothing behind."""

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from drivefs.cli.exit_codes import ExitCode
from drivefs.cli.main import main


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CONFIG", "STATE", "CACHE"):
        monkeypatch.delenv(f"XDG_{name}_HOME", raising=False)
    monkeypatch.delenv("DRIVEFS_PROFILE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("sys.stdin", io.StringIO("secret\n"))
    return tmp_path


class Portal(BaseHTTPRequestHandler):
    """Says 200 and a page to everything."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<html>Please accept our terms</html>")

    do_POST = do_GET

    def log_message(self, *words: object) -> None:
        """Silence."""


@pytest.fixture
def portal() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Portal) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def log_in(url: str, *more: str) -> int:
    return main(["login", url, "--user", "ann", "--device", "laptop", "--password-stdin", *more])


def files(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path.is_file()]


@pytest.mark.parametrize("url", ["http://drive.example.org", "http://192.0.2.1:8420"])
def test_plain_http_to_another_machine_is_refused(url: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert log_in(url) == ExitCode.REFUSED
    shown = capsys.readouterr()
    assert "--allow-insecure-http" in shown.err
    assert shown.out == ""
    assert files(home) == []


@pytest.mark.parametrize("url", ["drive.example.org", "ftp://drive.example.org", "https://", "/srv"])
def test_what_is_no_url_is_refused(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert log_in(url) == ExitCode.REFUSED
    assert "https://drive.example.com" in capsys.readouterr().err


def test_something_else_that_answers_is_not_believed(
    portal: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert log_in(portal) == ExitCode.REFUSED
    assert "not a drivefs server" in capsys.readouterr().err
    assert files(home) == []


def test_server_that_does_not_answer_is_unfinished_work(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Portal) as server:
        port = server.server_port
    assert log_in(f"http://127.0.0.1:{port}") == ExitCode.UNFINISHED
    assert "try again" in capsys.readouterr().err
    assert files(home) == []


@pytest.mark.parametrize("words", [["--profile", "../x"], ["--device", "x" * 129], ["--device", "lap\ntop"]])
def test_name_that_nothing_can_have_is_a_wrong_command_line(words: list[str], home: Path) -> None:
    with pytest.raises(SystemExit, match=str(int(ExitCode.USAGE))):
        log_in("http://127.0.0.1:1", *words)
    assert files(home) == []


def test_profile_name_of_the_environment_that_is_a_path_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DRIVEFS_PROFILE", "../x")
    assert log_in("http://127.0.0.1:1") == ExitCode.FAILED
    assert "cannot name a profile" in capsys.readouterr().err


def test_password_that_nobody_can_have_is_not_sent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("x" * 1025 + "\n"))
    assert log_in("http://127.0.0.1:1") == ExitCode.USAGE
    assert "Nothing was sent" in capsys.readouterr().err


def test_password_is_not_asked_for_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["login", "http://127.0.0.1:1", "--user", "ann"]) == ExitCode.USAGE
    assert "--password-stdin" in capsys.readouterr().err


def test_logging_out_without_a_login_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logout"]) == ExitCode.REFUSED
    assert "no device is logged in" in capsys.readouterr().err


def test_a_server_without_tls_asked_for_tls_is_named(portal: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert log_in(portal.replace("http://", "https://")) == ExitCode.UNFINISHED
    assert "may speak plain HTTP" in capsys.readouterr().err


@pytest.mark.parametrize("given", [b"", b"\xff\n"])
def test_no_password_is_sent_to_nobody(
    given: bytes, portal: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8"))
    assert log_in(portal) == ExitCode.USAGE
    assert "no password" in capsys.readouterr().err
