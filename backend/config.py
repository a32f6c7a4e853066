"""The settings of a server: flags over environment over file, read once into a frozen value.

Owns names, defaults and bounds of settings, and where things lie below the data directory. The file is `server.toml` in
the data directory, or the one that is named; the environment's names are `DRIVEFS_SERVER_` and the setting in capitals.
Invariant: an unknown or impossible setting is refused with its name, where it came from, and what is allowed.
"""

import itertools
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from backend.service.retention import Rules

ENVIRONMENT_PREFIX = "DRIVEFS_SERVER_"
MOST = 2**63 - 1
"""What the database can hold, and what devices are told in."""
CENTURY = {"hours": 876_600, "days": 36_525}
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"(\d+)\s*([KMGT]?)(i?B)?", re.IGNORECASE)


class ConfigError(Exception):
    """A setting that cannot be used; the text names it, where it came from, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of a server, checked."""

    data: Path
    listen: str = "127.0.0.1:8420"
    tls_cert: Path | None = None
    tls_key: Path | None = None
    master_key: Path | None = None
    quota: int = 10 * 2**30
    file_limit: int = 10 * 10**9
    pin_hours: int = 72
    pass_seconds: int = 3600
    feed_days: int = 180
    trash_days: int = 30
    burst_seconds: int = 60
    keep_all_hours: int = 24
    keep_hourly_days: int = 7
    keep_daily_days: int = 30
    keep_weekly_days: int = 365
    keep_most: int = 1000
    """How revisions are kept as they get older; of one file at most so many, but what is held."""
    cold: Path | None = None
    cold_days: int = 30
    mirror: Path | None = None
    mirror_required: bool = True
    """Whether uploads wait while one of the two places of blocks is not there."""
    max_requests: int = 16_384
    """Requests, idle polls among them, that may be open at once; more wait to be accepted."""
    stop_seconds: int = 5
    """How long open requests may take to end after SIGTERM."""

    def retention(self) -> Rules:
        """How revisions are kept as they get older."""
        return Rules(
            burst_seconds=self.burst_seconds,
            all_seconds=self.keep_all_hours * 3600,
            hourly_seconds=self.keep_hourly_days * 86400,
            daily_seconds=self.keep_daily_days * 86400,
            weekly_seconds=self.keep_weekly_days * 86400,
            most=self.keep_most,
        )

    @property
    def host(self) -> str:
        """Where to listen, without the port."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port to listen at."""
        return int(self.listen.rpartition(":")[2])

    @property
    def url(self) -> str:
        """What clients are told."""
        return f"{'https' if self.tls_cert else 'http'}://{self.listen}"

    @property
    def master_key_path(self) -> Path:
        """Where the master key lies: outside the data directory, so that a copy of that alone opens nothing."""
        if self.master_key is not None:
            return self.master_key
        config_home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
        return Path(config_home) / "drivefs-server" / "master.key"


def _path(value: str) -> Path:
    return Path(value).expanduser()


def _listen(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not host or not colon or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError("write HOST:PORT, such as 127.0.0.1:8420 or [::1]:8420")
    return value


def size(value: str | int) -> int:
    """Read a number of bytes, with a unit or without.

    Raises:
        ValueError: it is none, not greater than zero, or more than anything can hold.
    """
    if isinstance(value, int):
        return _positive(value)
    found = _SIZE.fullmatch(value.strip())
    if found is None:
        raise ValueError("write a number of bytes, or one with K, M, G or T")
    return _positive(int(found[1]) * _UNITS[found[2].upper()])


def _positive(value: str | int) -> int:
    if isinstance(value, bool) or int(value) <= 0:
        raise ValueError("it must be greater than zero")
    if int(value) > MOST:
        raise ValueError(f"it must be at most {MOST}")
    return int(value)


def _duration(units: str) -> Callable[[str | int], int]:
    """Reads a number of hours or days, a century of them at most: times are kept in nanoseconds."""

    def parse(value: str | int) -> int:
        if _positive(value) > CENTURY[units]:
            raise ValueError(f"it must be at most {CENTURY[units]} {units}")
        return int(value)

    return parse


def _switch(value: str | bool) -> bool:
    if isinstance(value, bool):
        return value
    try:
        return {"yes": True, "true": True, "no": False, "false": False}[value.lower()]
    except KeyError:
        raise ValueError("write yes or no") from None


KEEPING = (
    "burst_seconds", "keep_all_hours", "keep_hourly_days", "keep_daily_days", "keep_weekly_days", "keep_most",
)  # fmt: skip
PARSERS: dict[str, Callable[[Any], Any]] = {
    "listen": _listen,
    "tls_cert": _path,
    "tls_key": _path,
    "master_key": _path,
    "quota": size,
    "file_limit": size,
    "pin_hours": _duration("hours"),
    "pass_seconds": _positive,
    "feed_days": _duration("days"),
    "cold": _path,
    "cold_days": _duration("days"),
    "mirror": _path,
    "mirror_required": _switch,
    "trash_days": _duration("days"),
    **dict.fromkeys(KEEPING, _positive),
    "max_requests": _positive,
    "stop_seconds": _positive,
}
SWITCHES = {"mirror_required"}
NUMBERS = {
    "quota",
    "file_limit",
    "pin_hours",
    "pass_seconds",
    "feed_days",
    "trash_days",
    "cold_days",
    "max_requests",
    "stop_seconds",
    *KEEPING,
}


def load(data: Path, config: Path | None, environment: Mapping[str, str], flags: Mapping[str, str | None]) -> Settings:
    """Put the settings together.

    Raises:
        ConfigError: one of them cannot be used; nothing was done.
    """
    found: dict[str, Any] = {}
    for source, values in (
        (str(config or data / "server.toml"), _from_file(data, config)),
        ("the environment", _from_environment(environment)),
        ("the command line", {name: value for name, value in flags.items() if value is not None}),
    ):
        for name, value in values.items():
            found[name] = _parsed(source, name, value)
    settings = Settings(data=data.expanduser(), **found)
    _check(settings)
    return settings


def _from_file(data: Path, config: Path | None) -> dict[str, Any]:
    path = config or data / "server.toml"
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        if config is None:
            return {}
        raise ConfigError(f"There is no settings file {config}.") from None
    except NotADirectoryError:
        raise ConfigError(f"{path.parent} is no directory.") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"The settings file {path} cannot be read: {error}.") from error


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    names = {f"{ENVIRONMENT_PREFIX}{each.name.upper()}": each.name for each in fields(Settings) if each.name != "data"}
    return {name: environment[variable] for variable, name in names.items() if environment.get(variable)}


def _parsed(source: str, name: str, value: Any) -> Any:
    if name not in PARSERS:
        raise ConfigError(f"{source} sets {name!r}, which is no setting. There are: {', '.join(sorted(PARSERS))}.")
    is_right_kind = isinstance(value, bool) if name in SWITCHES else name in NUMBERS and isinstance(value, int)
    if not isinstance(value, str) and not is_right_kind:
        raise ConfigError(f"{source} sets {name} to {value!r}: that is not of the right kind.")
    try:
        return PARSERS[name](value)
    except ValueError as error:
        raise ConfigError(f"{source} sets {name} to {value!r}: {error}.") from error


def _check(settings: Settings) -> None:
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise ConfigError("TLS needs both a certificate and its key: set tls_cert and tls_key, or neither.")
    for path in (settings.tls_cert, settings.tls_key):
        if path is not None and not os.access(path, os.R_OK):
            raise ConfigError(f"The TLS file {path} cannot be read.")
    ages = settings.retention().tiers()
    if any(earlier > later for (earlier, _), (later, _) in itertools.pairwise(ages)):
        raise ConfigError(
            "Each of keep_all_hours, keep_hourly_days, keep_daily_days and keep_weekly_days must reach at least as far "
            "back as the one before."
        )
    if settings.mirror is not None and not settings.mirror.is_dir():
        raise ConfigError(
            f"The mirror {settings.mirror} is not there. Mount or make it first: in its place another would be filled."
        )
    if settings.cold is not None and not settings.cold.is_dir():
        raise ConfigError(f"The cold store {settings.cold} is not there. Mount or make it first.")
    if settings.master_key_path.resolve().is_relative_to(settings.data.resolve()):
        raise ConfigError(
            f"The master key {settings.master_key_path} lies inside the data directory: whoever copies that would have "
            "the key with the data. Choose another place with --master-key."
        )
