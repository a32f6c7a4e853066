"""How a command fails.

CommandError   carries the sentence that the user reads and the exit code
"""

from drivefs.cli.exit_codes import ExitCode


class CommandError(Exception):
    """The end of a command: what happened, what it means for the data, what to do."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
