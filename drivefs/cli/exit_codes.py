"""The exit codes of all commands, defined once, and their table for `--help`."""

import enum


class ExitCode(enum.IntEnum):
    """What a command's end means to a script."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNFINISHED = 3
    NOT_MOUNTED = 4
    REFUSED = 5
    HELD = 6
    FOUND = 7
    MENDED = 8
    UNMENDED = 9
    INTERRUPTED = 130


MEANING: dict[ExitCode, str] = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "failed; the message says why and what to do",
    ExitCode.USAGE: "the command line makes no sense",
    ExitCode.UNFINISHED: "offline or out of time: changes wait in the journal on this device",
    ExitCode.NOT_MOUNTED: "no drive is mounted there",
    ExitCode.REFUSED: "not logged in, or refused: password, revoked device, changes, not a drivefs server, unsafe URL",
    ExitCode.HELD: "a mass deletion is held until you decide (drivefs held); everything else is done",
    ExitCode.FOUND: "check: something is wrong, and nothing was changed",
    ExitCode.MENDED: "check --repair: something was wrong, and all of it is mended; what it cost is said",
    ExitCode.UNMENDED: "check --repair: something is still wrong; what, and what to do, is said",
    ExitCode.INTERRUPTED: "ended by Ctrl-C",
}

TABLE = "exit codes:\n" + "\n".join(f"  {int(code)}  {meaning}" for code, meaning in MEANING.items())
