"""Where a drive's things are and how it is set: flags over environment over config.toml, once, into frozen values.

Owns the XDG places, `config.toml` (profiles, for people to read and edit), the device's credentials (0600, in the
state directory) and the notation of sizes. Does not own what lies in the journal or the cache.
Invariant: both files are replaced as a whole, durably, so that a crash leaves the old or the new one.

config.toml:
    [profiles.default]
    url = "https://drive.example.org"
    user = "ann"
    device = "laptop"
    cache_size = "10G"            # optional
    pin_size = "5G"               # optional: how much of the cache pins may take; default: three quarters
    ahead_size = "32M"            # optional: what may be wanted is fetched ahead up to this size; "0": never
    answer_seconds = 12           # optional: how long a read waits while nothing comes from the server
    allow_insecure_http = false   # optional
    mass_deletion_guard = "50%"   # optional; what share of all files may be deleted at once unasked; false: any
    desktop_notifications = false # optional: what happens is not shown on the desktop
    ignore = ["*~", ".*.sw?"]     # optional: files that stay on this device, instead of the temporary files of known
                                  # editors and office programs; []: none do, but by the drive's .drivefsignore
"""

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from drivefs.protocol.ids import AccountId, DeviceId, InodeId, UserId, WorkspaceId

DEFAULT_PROFILE = "default"
DEFAULT_CACHE_BYTES = 10 * 2**30
DEFAULT_AHEAD_BYTES = 32 * 2**20
DEFAULT_ANSWER_SECONDS = 12.0
LEAST_ANSWER_SECONDS = 3.0
"""Less would take a server that is busy, or far away, for one that has frozen."""
MIN_CACHE_BYTES = 64 * 2**20
"""Less could not hold the blocks of the reads under way at one time."""
DEFAULT_GUARDED_SHARE = 0.5
PROFILE_VARIABLE = "DRIVEFS_PROFILE"
CACHE_SIZE_VARIABLE = "DRIVEFS_CACHE_SIZE"
SETTINGS = (
    "url",
    "user",
    "device",
    "cache_size",
    "pin_size",
    "ahead_size",
    "answer_seconds",
    "allow_insecure_http",
    "mass_deletion_guard",
    "desktop_notifications",
    "ignore",
)
"""What a profile may say."""

_PROFILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTP]?)(?:i?B)?", re.IGNORECASE)
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}


class ConfigError(Exception):
    """A setting that cannot be used; the message says which, where it came from, and what would do."""


class NotLoggedIn(ConfigError):
    """No device is logged in under this profile."""


def not_logged_in(name: str) -> NotLoggedIn:
    """That no device is logged in as a profile, and how to change it."""
    other = "" if name == DEFAULT_PROFILE else f" --profile {name}"
    return NotLoggedIn(
        f"no device is logged in as profile {name!r}: run drivefs login URL --user USER --device NAME{other}"
    )


@dataclass(frozen=True, slots=True)
class Places:
    """The directories of one user, below which each profile has its own."""

    config: Path
    state: Path
    cache: Path
    runtime: Path

    @staticmethod
    def from_environment(environ: Mapping[str, str], uid: int) -> "Places":
        """Find the places as the XDG Base Directory Specification says; relative values are ignored, as it demands.

        Without a runtime directory of the session's, one for the user alone below the state directory serves.

        Raises:
            ConfigError: neither a home directory nor the XDG variables are set; or two of these name one directory.
        """
        state = _place(environ, "XDG_STATE_HOME", ".local/state")
        cache = _place(environ, "XDG_CACHE_HOME", ".cache")
        if os.path.realpath(state) == os.path.realpath(cache):
            raise ConfigError(
                "XDG_STATE_HOME and XDG_CACHE_HOME name one directory: what exists only on this device would lie in "
                f"{cache}, which may be deleted at any time. Set one of them to another directory"
            )
        session = environ.get("XDG_RUNTIME_DIR", "")
        if not os.path.isabs(session):
            session = f"/run/user/{uid}"
        has_session = os.access(session, os.W_OK | os.X_OK)
        return Places(
            config=_place(environ, "XDG_CONFIG_HOME", ".config"),
            state=state,
            cache=cache,
            runtime=Path(session) / "drivefs" if has_session else state / ".run",
        )

    @property
    def config_file(self) -> Path:
        """The file of profiles."""
        return self.config / "config.toml"

    def of_profile(self, name: str) -> "ProfilePlaces":
        """The directories of one profile.

        The runtime directory's name also holds a digest of the state directory: two devices of one login session, with
        different state directories, must not share a socket.
        """
        state = self.state / name
        digest = hashlib.blake2b(os.fsencode(state), digest_size=4).hexdigest()
        return ProfilePlaces(state=state, cache=self.cache / name, runtime=self.runtime / f"{name}-{digest}")


@dataclass(frozen=True, slots=True)
class ProfilePlaces:
    """The directories of one profile: `state` holds what exists nowhere else, `cache` what can be fetched again."""

    state: Path
    cache: Path
    runtime: Path

    @property
    def credentials_file(self) -> Path:
        """The device's token and who it is."""
        return self.state / "credentials.json"

    @property
    def log_file(self) -> Path:
        """What the mount writes down; bounded."""
        return self.state / "mount.log"


@dataclass(frozen=True, slots=True)
class Profile:
    """One drive as `config.toml` has it."""

    name: str
    url: str
    user: str
    device: str
    cache_limit_bytes: int = DEFAULT_CACHE_BYTES
    pin_limit_bytes: int | None = None
    """How much of the cache may be pinned; None: three quarters."""
    ahead_limit_bytes: int = DEFAULT_AHEAD_BYTES
    answer_seconds: float = DEFAULT_ANSWER_SECONDS
    allow_insecure_http: bool = False
    guarded_share: float = DEFAULT_GUARDED_SHARE
    """Deleting more than this share of the drive's files at once is asked about; 0: it is not."""
    desktop_notifications: bool = True
    ignored: tuple[str, ...] | None = None
    """Patterns of files that stay on this device, whatever the drive; None: temporary files of known programs."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who the device is: its token, and where its drive begins, so that even the first mount needs no server."""

    token: str
    user_id: UserId
    device_id: DeviceId
    account: AccountId
    workspace: WorkspaceId
    root: InodeId


@dataclass(frozen=True, slots=True)
class MountSettings:
    """Everything that a mount is told."""

    profile: Profile
    places: ProfilePlaces
    credentials: Credentials
    mountpoint: Path
    options: frozenset[str]
    """Kernel mount options: `ro`, `allow_other`, `nosuid` and so on."""


def parse_size(text: str) -> int:
    """Read a size as people write it (`500M`, `10G`, `1.5 TiB`; powers of 1024) into bytes.

    Raises:
        ConfigError: it is none.
    """
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ConfigError(f"{text!r} is not a size: write a number and K, M, G or T, such as 10G")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def parse_cache_size(text: str) -> int:
    """Read a cache limit into bytes.

    Raises:
        ConfigError: it is no size, or too small to work with.
    """
    size = parse_size(text)
    if size < MIN_CACHE_BYTES:
        raise ConfigError(f"a cache of {text} is too small: {MIN_CACHE_BYTES // 2**20}M is the least")
    return size


def parse_share(setting: object) -> float:
    """Read a share of the drive: `false` for none, `true` for the default, or a percentage such as `"50%"`.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(setting, bool):
        return DEFAULT_GUARDED_SHARE if setting else 0.0
    found = _SHARE.fullmatch(setting.strip()) if isinstance(setting, str) else None
    share = float(found[1]) / 100 if found else 0.0
    if not 0 < share <= 1:
        raise ConfigError(f'mass_deletion_guard = {setting!r} makes no sense: write false, or a share such as "50%"')
    return share


def with_cache_limit(profile: Profile, limit_bytes: int) -> Profile:
    """The same profile with another cache limit."""
    return replace(profile, cache_limit_bytes=limit_bytes)


def format_size(size_bytes: int) -> str:
    """Write a number of bytes so that `parse_size` reads the same number."""
    for unit in ("P", "T", "G", "M", "K"):
        if size_bytes and size_bytes % _UNITS[unit] == 0:
            return f"{size_bytes // _UNITS[unit]}{unit}"
    return str(size_bytes)


def check_profile_name(name: str) -> str:
    """Give the name back if it can name a directory.

    Raises:
        ConfigError: it cannot.
    """
    if not _PROFILE_NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot name a profile: up to 64 letters, digits, dots, dashes and underscores")
    return name


def read_profiles(places: Places) -> dict[str, Profile]:
    """Read all profiles of `config.toml`; without the file there are none.

    Raises:
        ConfigError: the file cannot be read or makes no sense.
    """
    profiles = _read_toml(places.config_file).get("profiles", {})
    if not isinstance(profiles, dict):
        raise ConfigError(f"{places.config_file}: [profiles] is not a table")
    return {name: _profile(name, table, places.config_file) for name, table in profiles.items()}


def check_names(places: Places, name: str) -> None:
    """Look whether `config.toml` says anything, for all profiles or for this one, that would have no effect.

    Raises:
        ConfigError: it does; or the file cannot be read.
    """
    content = _read_toml(places.config_file)
    profile = content.get("profiles", {}).get(name, {})
    for where, table, known in (("", content, ["profiles"]), (f"[profiles.{name}]: ", profile, SETTINGS)):
        for word in sorted(table.keys() - known):
            raise ConfigError(
                f"{places.config_file}: {where}{word!r} is no setting, and would have no effect. There are "
                + ", ".join(known)
            )


def write_profile(places: Places, profile: Profile) -> None:
    """Put a profile into `config.toml`, in place of one of the same name; on disk on return.

    Other profiles and settings stay. Comments do not.
    """
    content = _read_toml(places.config_file)
    table: dict[str, Any] = {"url": profile.url, "user": profile.user, "device": profile.device}
    if profile.cache_limit_bytes != DEFAULT_CACHE_BYTES:
        table["cache_size"] = format_size(profile.cache_limit_bytes)
    if profile.pin_limit_bytes is not None:
        table["pin_size"] = format_size(profile.pin_limit_bytes)
    if profile.ahead_limit_bytes != DEFAULT_AHEAD_BYTES:
        table["ahead_size"] = format_size(profile.ahead_limit_bytes)
    if profile.answer_seconds != DEFAULT_ANSWER_SECONDS:
        table["answer_seconds"] = profile.answer_seconds
    if profile.allow_insecure_http:
        table["allow_insecure_http"] = True
    if profile.guarded_share != DEFAULT_GUARDED_SHARE:
        table["mass_deletion_guard"] = f"{profile.guarded_share:.6%}" if profile.guarded_share else False
    if not profile.desktop_notifications:
        table["desktop_notifications"] = False
    if profile.ignored is not None:
        table["ignore"] = list(profile.ignored)
    content.setdefault("profiles", {})[profile.name] = table
    _write_toml(places.config_file, content)


def remove_profile(places: Places, name: str) -> None:
    """Take a profile out of `config.toml`, if it is there; on disk on return."""
    content = _read_toml(places.config_file)
    if content.get("profiles", {}).pop(name, None) is not None:
        _write_toml(places.config_file, content)


def read_credentials(places: ProfilePlaces, name: str) -> Credentials:
    """Read the device's credentials.

    Raises:
        NotLoggedIn: there are none.
        ConfigError: they cannot be read.
    """
    try:
        return Credentials(**json.loads(places.credentials_file.read_bytes()))
    except FileNotFoundError as error:
        raise not_logged_in(name) from error
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"the credentials in {places.credentials_file} cannot be read ({error}). Nothing else is affected: "
            "log in again with drivefs login; changes not yet uploaded stay in the journal"
        ) from error


def write_credentials(places: ProfilePlaces, credentials: Credentials) -> None:
    """Store the device's credentials, readable by their owner only; on disk on return."""
    write_durably(places.credentials_file, json.dumps(asdict(credentials), indent=2).encode() + b"\n")


def write_durably(path: Path, content: bytes) -> None:
    """Replace a file by one readable by its owner only; after a crash there is the old or the new one, whole."""
    from cache.durable import make_directory, sync_path  # here, since commands that answer fast need it not

    make_directory(path.parent)
    fresh = path.with_name(f".{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        # A file that a crash left here may have another mode.
        os.fchmod(file.fileno(), 0o600)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    sync_path(path.parent)


def _place(environ: Mapping[str, str], variable: str, below_home: str) -> Path:
    chosen = environ.get(variable, "")
    if os.path.isabs(chosen):
        return Path(chosen) / "drivefs"
    home = environ.get("HOME", "")
    if not os.path.isabs(home):
        raise ConfigError(f"neither {variable} nor HOME is set, so there is no place for drivefs to keep its files")
    return Path(home) / below_home / "drivefs"


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}. Mend it, or move it away and log in again") from error


def _write_toml(path: Path, content: dict[str, Any]) -> None:
    # Imported here: only commands that change settings pay for it.
    import tomli_w

    write_durably(path, tomli_w.dumps(content).encode())


def _profile(name: str, table: Any, file: Path) -> Profile:
    if not isinstance(table, dict):
        raise ConfigError(f"{file}: [profiles.{name}] is not a table")
    for key in ("url", "user", "device"):
        if not isinstance(table.get(key), str):
            raise ConfigError(f'{file}: [profiles.{name}] needs {key} = "…"; drivefs login writes it')
    try:
        limit = parse_cache_size(str(table["cache_size"])) if "cache_size" in table else DEFAULT_CACHE_BYTES
        return Profile(
            name=check_profile_name(name),
            url=table["url"],
            user=table["user"],
            device=table["device"],
            cache_limit_bytes=limit,
            pin_limit_bytes=parse_size(str(table["pin_size"])) if "pin_size" in table else None,
            ahead_limit_bytes=parse_size(str(table["ahead_size"])) if "ahead_size" in table else DEFAULT_AHEAD_BYTES,
            answer_seconds=_answer_seconds(table.get("answer_seconds", DEFAULT_ANSWER_SECONDS)),
            allow_insecure_http=table.get("allow_insecure_http", False) is True,
            guarded_share=parse_share(table.get("mass_deletion_guard", True)),
            desktop_notifications=table.get("desktop_notifications", True) is not False,
            ignored=_patterns(table.get("ignore")),
        )
    except ConfigError as error:
        raise ConfigError(f"{file}: [profiles.{name}]: {error}") from error


def _patterns(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ConfigError(f'ignore = {value!r} is no list of patterns, such as ["*~", ".*.sw?"]')
    from drivefs.fs.ignore_rules import is_pattern

    if wrong := [each for each in value if not is_pattern(each)]:
        raise ConfigError(f"ignore has {wrong[0]!r}, which cannot be read as a pattern")
    return tuple(value)


def _answer_seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not LEAST_ANSWER_SECONDS <= value <= 300:
        raise ConfigError(f"answer_seconds = {value!r} is not a number of seconds from {LEAST_ANSWER_SECONDS:g} to 300")
    return float(value)
