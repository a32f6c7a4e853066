"""`mount.drivefs`: what mount(8) calls for a line of /etc/fstab. Turns its notation into `drivefs mount`.

    drivefs:PROFILE  MOUNTPOINT  drivefs  OPTIONS  0  0

The kernel's list of mounts names the drive so too: `mount -a` then leaves alone what is mounted. PROFILE alone will do.
Owns the translation of options only (pure: `translate`). `setuid=USER` mounts as that user, with that user's profiles.
"""

import os
import pwd
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from drivefs.cli.exit_codes import ExitCode
from drivefs.cli.mount import OPTIONS

USAGE = "usage: mount.drivefs drivefs:PROFILE MOUNTPOINT [-sfnv] [-o OPTION,…]"
OF_FSTAB = frozenset(
    {
        "defaults",
        "auto",
        "noauto",
        "user",
        "nouser",
        "users",
        "owner",
        "group",
        "nofail",
        "_netdev",
        "async",
        "sync",
        "dirsync",
        "relatime",
        "norelatime",
        "strictatime",
        "lazytime",
        "diratime",
        "nodiratime",
        "silent",
        "loud",
        "mand",
        "nomand",
        "iversion",
        "noiversion",
    }
)
"""Options that speak to mount(8), or that change nothing here."""
IMPLIED = {
    "user": ["noexec", "nosuid", "nodev"],
    "users": ["noexec", "nosuid", "nodev"],
    "owner": ["nosuid", "nodev"],
    "group": ["nosuid", "nodev"],
}
"""What mount(8) lets these mean, unless a later option says otherwise."""


@dataclass(frozen=True, slots=True)
class Request:
    """What `drivefs mount` is asked for; `user` is who runs it, if not the caller; `is_fake` mounts nothing."""

    words: tuple[str, ...]
    user: str | None
    is_fake: bool


class NotUnderstood(Exception):
    """The command line makes no sense."""


def main(words: Sequence[str] | None = None) -> int:
    """Mount as mount(8) asks, with the exit code that `drivefs mount` gives."""
    try:
        request = translate(sys.argv[1:] if words is None else words)
    except NotUnderstood as error:
        print(f"mount.drivefs: {error}\n{USAGE}", file=sys.stderr)
        return ExitCode.USAGE
    if request.is_fake:
        return ExitCode.OK
    try:
        become(pwd.getpwnam(request.user) if request.user is not None else pwd.getpwuid(os.getuid()))
    except (KeyError, OSError) as error:
        print(f"mount.drivefs: cannot mount as user {request.user!r}: {error}", file=sys.stderr)
        return ExitCode.FAILED
    from drivefs.cli.main import main as drivefs

    return drivefs(request.words)


def translate(words: Sequence[str]) -> Request:
    """Turn the words that mount(8) passes into those of `drivefs mount`.

    Raises:
        NotUnderstood: they make no sense.
    """
    places, options, letters = _split(words)
    if len(places) != 2:
        raise NotUnderstood("a profile and a mountpoint are needed")
    profile, mountpoint = places[0].removeprefix("drivefs:"), places[1]
    user, passed, flags = None, list[str](), [] if "v" in letters else ["--quiet"]
    for option in options:
        key, _, value = option.partition("=")
        if key == "setuid":
            user = value
        elif key in ("cache_size", "profile"):
            flags += [f"--{key.replace('_', '-')}", value]
        elif key in OPTIONS:
            passed.append(key)
        elif key in IMPLIED:
            passed += IMPLIED[key]
        elif key == "remount":
            raise NotUnderstood("a mounted drive takes no other options: unmount it and mount it again")
        elif key not in OF_FSTAB and not key.startswith(("x-", "X-")) and key not in ("comment", "uhelper", "helper"):
            raise NotUnderstood(f"no such mount option: {option}")
    if "--profile" not in flags and profile not in ("none", "drivefs"):
        flags += ["--profile", profile]
    if passed:
        flags += ["-o", ",".join(passed)]
    return Request(("mount", mountpoint, *flags), user, is_fake="f" in letters)


def _split(words: Sequence[str]) -> tuple[list[str], list[str], str]:
    """The places, the options, and the letters of mount(8)'s own flags."""
    places, options, letters = list[str](), list[str](), ""
    rest = iter(words)
    for word in rest:
        if word in ("-o", "-t", "-N"):
            value = next(rest, None)
            if value is None:
                raise NotUnderstood(f"{word} needs a value")
            options += value.split(",") if word == "-o" else []
        elif word.startswith("-o"):
            options += word[2:].split(",")
        elif word.startswith("-") and word != "-":
            if set(word[1:]) - set("sfnvrw"):
                raise NotUnderstood(f"no such option: {word}")
            letters += word[1:]
            options += ["ro"] if "r" in word else []
        else:
            places.append(word)
    return places, [option for option in options if option], letters


def become(user: pwd.struct_passwd) -> None:
    """Go on as a user, with that user's environment; at boot there is none at all.

    Raises:
        OSError: not allowed.
    """
    if user.pw_uid == os.getuid():
        os.environ.setdefault("HOME", user.pw_dir)
        return
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    for variable in [name for name in os.environ if name.startswith("XDG_")]:
        del os.environ[variable]
    os.environ |= {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name}


if __name__ == "__main__":
    sys.exit(main())
