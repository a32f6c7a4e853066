"""The `drivefs` program: chooses the command, and turns whatever ends it into a sentence and an exit code.

Owns the list of commands and the one place where unexpected exceptions are caught.
"""

import os
import sys
from collections.abc import Sequence

from drivefs import config
from drivefs.cli import (
    activity,
    cache,
    check,
    completion,
    conflicts,
    devices,
    diff,
    export,
    file_status,
    held,
    invitations,
    link,
    login,
    logout,
    mount,
    notifications,
    pin,
    quota,
    revisions,
    rewind,
    share,
    snapshot,
    status,
    sync,
    systemd_unit,
    trash,
    umount,
    watch,
)
from drivefs.cli.command import Command, build_parser, with_action
from drivefs.cli.errors import CommandError
from drivefs.cli.exit_codes import ExitCode

COMMANDS: tuple[Command, ...] = (
    login.COMMAND,
    mount.COMMAND,
    status.COMMAND,
    file_status.COMMAND,
    sync.COMMAND,
    conflicts.COMMAND,
    revisions.COMMAND,
    diff.COMMAND,
    snapshot.COMMAND,
    rewind.COMMAND,
    trash.COMMAND,
    quota.COMMAND,
    share.SHARE,
    share.UNSHARE,
    share.SHARES,
    invitations.COMMAND,
    share.LEAVE,
    link.COMMAND,
    held.COMMAND,
    watch.COMMAND,
    notifications.COMMAND,
    activity.COMMAND,
    devices.COMMAND,
    export.COMMAND,
    umount.COMMAND,
    check.COMMAND,
    cache.COMMAND,
    pin.PIN,
    pin.UNPIN,
    pin.PINS,
    logout.COMMAND,
    completion.COMMAND,
    systemd_unit.COMMAND,
)
INTERRUPTED = 130
"""What a shell expects of a program that ended by Ctrl-C."""
DEBUG_VARIABLE = "DRIVEFS_DEBUG"


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; the words default to the command line's."""
    # Names that are not UTF-8 are printed as the bytes they are.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="surrogateescape")
    parser = build_parser(COMMANDS)
    arguments = parser.parse_args(with_action(parser, COMMANDS, sys.argv[1:] if words is None else words))
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
        return fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has enough; what is left in the buffer must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        kind = type(error).__name__
        return fail(
            f"an error that drivefs did not expect: {kind}: {error}. Files and pending changes are as they were. "
            f"{DEBUG_VARIABLE}=1 in the environment shows where it happened",
            ExitCode.FAILED,
        )
    return code


def fail(message: str, code: int) -> int:
    """Print why a command failed, on standard error, and give its exit code."""
    print(f"drivefs: {message}", file=sys.stderr)
    return int(code)
