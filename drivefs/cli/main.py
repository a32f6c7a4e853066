"""The `drivefs` program: chooses the command, and turns whatever ends it into a sentence and an exit code.

Owns the list of commands and the one place where unexpected exceptions are caught.
"""

import errno
import importlib
import os
import sys
from collections.abc import Iterable, Sequence

from drivefs import config
from drivefs.cli import output
from drivefs.cli.command import Command, build_parser, with_action
from drivefs.cli.errors import CommandError
from drivefs.cli.exit_codes import ExitCode

COMMANDS = {
    "login": "login.COMMAND",
    "mount": "mount.COMMAND",
    "status": "status.COMMAND",
    "file-status": "file_status.COMMAND",
    "sync": "sync.COMMAND",
    "conflicts": "conflicts.COMMAND",
    "revisions": "revisions.COMMAND",
    "diff": "diff.COMMAND",
    "snapshot": "snapshot.COMMAND",
    "rewind": "rewind.COMMAND",
    "trash": "trash.COMMAND",
    "quota": "quota.COMMAND",
    "share": "share.SHARE",
    "unshare": "share.UNSHARE",
    "shares": "share.SHARES",
    "invitations": "invitations.COMMAND",
    "leave": "share.LEAVE",
    "link": "link.COMMAND",
    "held": "held.COMMAND",
    "watch": "watch.COMMAND",
    "notifications": "notifications.COMMAND",
    "activity": "activity.COMMAND",
    "devices": "devices.COMMAND",
    "export": "export.COMMAND",
    "umount": "umount.COMMAND",
    "check": "check.COMMAND",
    "cache": "cache.COMMAND",
    "pin": "pin.PIN",
    "unpin": "pin.UNPIN",
    "pins": "pin.PINS",
    "logout": "logout.COMMAND",
    "completion": "completion.COMMAND",
    "systemd-unit": "systemd_unit.COMMAND",
}
"""Where each command is found, below `drivefs.cli`, in the order of the help."""
OF_ALL = "completion"
"""The command that needs all others."""
DEBUG_VARIABLE = "DRIVEFS_DEBUG"


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; the words default to the command line's."""
    # Names that are not UTF-8 are printed as the bytes they are.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="surrogateescape")
    words = sys.argv[1:] if words is None else words
    is_one = bool(words) and words[0] in COMMANDS and words[0] != OF_ALL
    commands = load(words[:1] if is_one else COMMANDS)
    parser = build_parser(commands)
    arguments = parser.parse_args(with_action(parser, commands, words))
    try:
        code = int(arguments.run(arguments))
        sys.stdout.flush()
    except CommandError as error:
        return fail(error.message, error.exit_code)
    except config.NotLoggedIn as error:
        return fail(str(error), ExitCode.REFUSED)
    except config.ConfigError as error:
        return fail(str(error), ExitCode.FAILED)
    except KeyboardInterrupt:
        return fail("interrupted", ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has enough; what is left in the buffer must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        if isinstance(error, PermissionError) and error.filename:
            return fail(
                f"{error.filename} is not open to you. Is HOME, or an XDG variable, that of another user? Else mend "
                "its rights. Files and pending changes are as they were",
                ExitCode.FAILED,
            )
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return fail(
                f"no room is left on the disk of {error.filename or 'what drivefs keeps'}: make room, then give the "
                "command again. Files and pending changes are as they were",
                ExitCode.FAILED,
            )
        kind = type(error).__name__
        return fail(
            f"an error that drivefs did not expect: {kind}: {error}. Files and pending changes are as they were. "
            f"{DEBUG_VARIABLE}=1 in the environment shows where it happened",
            ExitCode.FAILED,
        )
    return code


def load(names: Iterable[str]) -> list[Command]:
    """Commands by name; only their modules are imported, since each takes its time."""
    found = []
    for name in names:
        module, _, attribute = COMMANDS[name].partition(".")
        command: Command = getattr(importlib.import_module(f"drivefs.cli.{module}"), attribute)
        found.append(command)
    return found


def fail(message: str, code: int) -> int:
    """Print why a command failed, on standard error, and give its exit code."""
    output.say(message)
    return int(code)
