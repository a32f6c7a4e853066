"""Which drive a command is about: by mountpoint, by profile, or the only one that there is.

Owns the choice and its refusals; never touches a mountpoint, which may hang.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drivefs import config
from drivefs.cli.errors import CommandError
from drivefs.cli.exit_codes import ExitCode
from drivefs.control import client, errors, mounts
from drivefs.fuse import connection

MOST_LINKS = 40
"""As many as the kernel follows (path_resolution(7))."""


@dataclass(frozen=True, slots=True)
class Drive:
    """A mounted drive, and how to speak to the process that serves it."""

    mounted: mounts.Mounted

    @property
    def profile(self) -> str:
        """Its profile's name."""
        return self.mounted.record.profile

    @property
    def mountpoint(self) -> str:
        """Where it is mounted."""
        return self.mounted.record.mountpoint

    @property
    def pid(self) -> int:
        """The process that serves it."""
        return self.mounted.record.pid

    def call(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        on_progress: Callable[[Any], None] | None = None,
        *,
        silence_seconds: float = 5.0,
    ) -> Any:
        """Ask the mount.

        Raises:
            CommandError: it has gone, does not answer, or refuses; in its own words.
        """
        hears = None if on_progress is None else lambda progress: on_progress(self._told(progress))
        try:
            told = client.call(
                self.mounted.directory, command, arguments, silence_seconds=silence_seconds, on_progress=hears
            )
            return self._told(told)
        except errors.NotRunning as error:
            raise CommandError(f"{self.mountpoint} is no longer mounted", ExitCode.NOT_MOUNTED) from error
        except errors.NoAnswer as error:
            raise CommandError(
                f"the mount at {self.mountpoint} (process {self.pid}) does not answer: {error}. "
                f"What was written is in its journal. {self._way_out()}"
            ) from error
        except errors.Refused as error:
            is_offline = error.kind == "unavailable"
            raise CommandError(error.message, ExitCode.UNFINISHED if is_offline else ExitCode.FAILED) from error
        except errors.ControlError as error:
            raise CommandError(str(error)) from error

    def _way_out(self) -> str:
        if _is_stopped(self.pid):
            return f"Somebody has stopped it: kill -CONT {self.pid} has it go on"
        return f"If it stays so, end it (kill {self.pid}) and mount again"

    def _told(self, value: Any) -> Any:
        """What the mount told; what it does not say is asked of it in vain, in words for people."""
        if isinstance(value, dict):
            return _Told(self.mountpoint, {key: self._told(each) for key, each in value.items()})
        return [self._told(each) for each in value] if isinstance(value, list) else value


class _Told(dict[str, Any]):
    """Fields of an answer. The mount may run an older version of drivefs, which lacks some that this one knows."""

    def __init__(self, mountpoint: str, fields: dict[str, Any]) -> None:
        super().__init__(fields)
        self._mountpoint = mountpoint

    def __missing__(self, key: str) -> Any:
        raise CommandError(
            f"the mount at {self._mountpoint} runs another version of drivefs, which does not say {key!r}. What is in "
            "the drive is as it was: unmount it and mount it again, then this version serves it"
        )


def places() -> config.Places:
    """This user's directories."""
    return config.Places.from_environment(os.environ, os.getuid())


def all_mounted(where: config.Places) -> list[Drive]:
    """All drives that are mounted, by mountpoint."""
    return [Drive(each) for each in mounts.mounted(where.runtime)]


def is_served(drive: Drive) -> bool:
    """Whether the process of a drive still answers: it takes its socket away when it begins to end."""
    return drive.mounted in mounts.mounted(drive.mounted.directory.parent)


def choose(where: config.Places, mountpoint: str | None, profile: str | None) -> Drive:
    """The mounted drive that the user means.

    Raises:
        CommandError: there is none, or several and none is named.
    """
    drives = all_mounted(where)
    if mountpoint is not None:
        return _at(where, mountpoint)
    profile = profile or os.environ.get(config.PROFILE_VARIABLE)
    if profile:
        state = str(where.of_profile(config.check_profile_name(profile)).state)
        for drive in drives:
            if drive.profile == profile and drive.mounted.record.state == state:
                return drive
        _refuse_dead(where, lambda record: record.state == state)
        raise CommandError(f"profile {profile!r} is not mounted", ExitCode.NOT_MOUNTED)
    if not drives:
        _refuse_dead(where, lambda _: True)
        raise CommandError("no drive is mounted; drivefs mount DIRECTORY mounts one", ExitCode.NOT_MOUNTED)
    if len(drives) > 1:
        names = ", ".join(drive.mountpoint for drive in drives)
        raise CommandError(f"several drives are mounted: name one of {names}", ExitCode.USAGE)
    return drives[0]


def holding(where: config.Places, path: Path) -> Drive:
    """The drive in which a path lies.

    Raises:
        CommandError: it lies in none.
    """
    drives = {drive.mountpoint: drive for drive in all_mounted(where)}
    for spelling in (path, path.parent.resolve() / path.name, path.resolve()):
        for ancestor in (spelling, *spelling.parents):
            if str(ancestor) in drives:
                return drives[str(ancestor)]
    _refuse_dead(where, lambda record: path.is_relative_to(record.mountpoint))
    raise CommandError(f"{path} is not in a mounted drive", ExitCode.NOT_MOUNTED)


def containing(where: config.Places, path: str) -> tuple[Drive, bytes]:
    """The drive in which a path lies, whether or not there is anything, and the path relative to its root.

    Raises:
        CommandError: it lies in none.
    """
    absolute = Path(os.path.abspath(path))
    drive = holding(where, absolute)
    for spelling in (absolute, absolute.parent.resolve() / absolute.name, absolute.resolve()):
        if spelling.is_relative_to(drive.mountpoint):
            relative = os.fsencode(spelling.relative_to(drive.mountpoint))
            return drive, b"" if relative == b"." else relative
    raise AssertionError("a drive holds only what is below its mountpoint")


def profile_name(where: config.Places, profile: str | None) -> str:
    """The profile that the user means: named, by environment, the only one, or `default`.

    Raises:
        ConfigError: the name or the configuration makes no sense.
        CommandError: there are several, none named `default`.
    """
    named = profile or os.environ.get(config.PROFILE_VARIABLE)
    if named:
        return config.check_profile_name(named)
    names = list(config.read_profiles(where))
    if config.DEFAULT_PROFILE in names or not names:
        return config.DEFAULT_PROFILE
    if len(names) > 1:
        raise CommandError(f"several profiles: choose one with --profile ({', '.join(names)})", ExitCode.USAGE)
    return names[0]


def _is_stopped(pid: int) -> bool:
    """Whether a process was sent SIGSTOP, or the like (`man 5 proc`: the state behind the name in parentheses)."""
    try:
        found = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return found.rpartition(") ")[2].startswith(("T", "t"))


def _at(where: config.Places, mountpoint: str) -> Drive:
    drives = {drive.mountpoint: drive for drive in all_mounted(where)}
    spellings = (os.path.abspath(mountpoint), resolved(mountpoint))
    for spelling in spellings:
        if spelling in drives:
            return drives[spelling]
    _refuse_dead(where, lambda record: record.mountpoint in spellings)
    found = connection.topmost(resolved(mountpoint))
    if found is not None and found.is_drivefs:
        raise CommandError(
            f"a drive is mounted at {mountpoint}, but by another user, or where XDG_RUNTIME_DIR or HOME was another: "
            "what serves it cannot be asked. Call drivefs as the drive was mounted; or unmount it with "
            f"fusermount3 -u {mountpoint}, and what it has not sent is sent after the next mount",
            ExitCode.NOT_MOUNTED,
        )
    raise CommandError(f"no drive is mounted at {mountpoint}", ExitCode.NOT_MOUNTED)


def _refuse_dead(where: config.Places, is_meant: Callable[[mounts.MountRecord], bool]) -> None:
    """Say of a drive that is meant that what served it was killed, if the kernel still has its mount.

    Raises:
        CommandError: it was.
    """
    for record in mounts.left_behind(where.runtime):
        found = connection.topmost(record.mountpoint)
        if is_meant(record) and found is not None and found.is_drivefs:
            raise CommandError(
                f"the drive at {record.mountpoint} is dead: the process that served it was killed. What was written is "
                f"in its journal. drivefs mount {record.mountpoint} brings it back",
                ExitCode.NOT_MOUNTED,
            )


def resolved(mountpoint: str) -> str:
    """The absolute path of a mountpoint, without symbolic links, as the kernel lists it; never asks what is mounted.

    `readlink` is answered by the kernel itself where something is mounted, dead or hung: nothing mounted is a link.
    """
    place = os.path.abspath(mountpoint)
    for _ in range(MOST_LINKS):
        place = os.path.join(os.path.realpath(os.path.dirname(place)), os.path.basename(place))
        try:
            place = os.path.abspath(os.path.join(os.path.dirname(place), os.readlink(place)))
        except OSError:
            break
    return place


def with_state(where: config.Places, name: str) -> config.ProfilePlaces:
    """The places of a profile that has been used on this device.

    Raises:
        NotLoggedIn: it has not.
    """
    found = where.of_profile(name)
    if not found.state.is_dir():
        raise config.not_logged_in(name)
    return found
