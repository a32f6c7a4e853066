"""What can go wrong between a command and a running mount.

ControlError
 +-- NotRunning   nobody listens there: the drive is not mounted
 +-- NoAnswer     somebody listens, but said nothing within the deadline, or broke off
 +-- Refused      the mount answered with an error, meant for people
"""


class ControlError(Exception):
    """The root of this package's errors."""


class NotRunning(ControlError):
    """No mount listens at this socket."""


class NoAnswer(ControlError):
    """The mount did not answer in time, or went away in the middle of an answer."""


class Refused(ControlError):
    """The mount's own refusal; `kind` is for programs, `message` is a sentence for people."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
