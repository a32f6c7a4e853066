"""The server's settings: which source wins, what is refused, and that the refusal says what and where."""

import subprocess
import sys
from pathlib import Path

import pytest

from backend import config
from backend.config import ConfigError, Settings


def load(data: Path, *, file: str = "", environment: dict[str, str] | None = None, **flags: str | None) -> Settings:
    (data / "server.toml").write_text(file)
    return config.load(data, None, environment or {}, flags)


def test_flag_wins_over_environment_over_file_over_default(tmp_path: Path) -> None:
    file = 'quota = "1M"\npin_hours = 2\nfile_limit = 3'
    environment = {"DRIVEFS_SERVER_QUOTA": "2M", "DRIVEFS_SERVER_PIN_HOURS": "4"}
    settings = load(tmp_path, file=file, environment=environment, quota="3M", file_limit=None)
    assert (settings.quota, settings.pin_hours, settings.file_limit) == (3 * 2**20, 4, 3)
    assert settings.listen == "127.0.0.1:8420"


def test_a_file_that_is_named_takes_the_place_of_the_one_in_the_data_directory(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text('quota = "1M"')
    (tmp_path / "mine.toml").write_text("pin_hours = 1")
    settings = config.load(tmp_path, tmp_path / "mine.toml", {}, {})
    assert (settings.quota, settings.pin_hours) == (10 * 2**30, 1)
    with pytest.raises(ConfigError, match="no settings file"):
        config.load(tmp_path, tmp_path / "absent.toml", {}, {})


@pytest.mark.parametrize(
    ("written", "size"), [("1", 1), ("10K", 10240), ("2 M", 2**21), ("1GiB", 2**30), ("1t", 2**40), ("5GB", 5 * 2**30)]
)
def test_sizes_may_have_a_unit(tmp_path: Path, written: str, size: int) -> None:
    assert load(tmp_path, quota=written).quota == size


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ('quota = "many"', "quota"),
        ("quota = -1", "quota"),
        ("quota = 0", "quota"),
        ("quota = true", "quota"),
        ("quota = 1.5", "quota"),
        ('quota = "99999999T"', "quota"),
        ("trash_days = 1000000", "trash_days"),
        ("pin_hours = 1000000", "pin_hours"),
        ('pin_hours = "x"', "pin_hours"),
        ("colour = 1", "colour"),
        ("data = 1", "data"),
        ('listen = "here"', "listen"),
        ('listen = ":80"', "listen"),
        ('listen = "127.0.0.1:0"', "listen"),
        ('listen = "127.0.0.1:65536"', "listen"),
        ('tls_cert = "cert.pem"', "TLS"),
        ('tls_cert = "absent.pem"\ntls_key = "absent.pem"', "absent.pem"),
        ("quota = [", "server.toml"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path: Path, file: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load(tmp_path, file=file)


def test_a_file_in_the_place_of_the_data_directory_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(config.ConfigError, match=rf"^{tmp_path}/data is no directory"):
        config.load(tmp_path / "data", None, {}, {})


def test_the_refusal_says_where_the_setting_came_from(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="environment"):
        load(tmp_path, environment={"DRIVEFS_SERVER_QUOTA": "x"})
    with pytest.raises(ConfigError, match="command line"):
        load(tmp_path, quota="x")


def test_the_master_key_may_not_lie_with_the_data(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="inside the data directory"):
        load(tmp_path, master_key=str(tmp_path / "keys" / "master.key"))


@pytest.mark.parametrize(
    ("listen", "host", "port"),
    [("127.0.0.1:80", "127.0.0.1", 80), ("[::1]:8420", "::1", 8420), ("a.example:1", "a.example", 1)],
)
def test_an_address_is_taken_apart(tmp_path: Path, listen: str, host: str, port: int) -> None:
    settings = load(tmp_path, listen=listen)
    assert (settings.host, settings.port) == (host, port)
    assert settings.url == f"http://{listen}"


def test_a_command_draws_no_bar_where_there_is_no_terminal(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "backend", "check", "--data", str(tmp_path / "missing")]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (1, 1), ended.stderr
