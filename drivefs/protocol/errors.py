"""Refusals that cross the wire: each has a code that programs act on and a sentence for people.

ProtocolError
 +-- (one `Code` for each kind of refusal; no subclasses: both sides branch on the code)
"""

import enum


class Code(enum.StrEnum):
    """Why a request was refused; the HTTP status of each is in `STATUS`."""

    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    UNAUTHENTICATED = "unauthenticated"
    PASS_EXPIRED = "pass_expired"
    WRONG_PASSWORD = "wrong_password"
    DEVICE_REVOKED = "device_revoked"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    STALE_EPOCH = "stale_epoch"
    DIVERGED = "diverged"
    BLOCK_INVALID = "block_invalid"
    OVER_QUOTA = "over_quota"
    TOO_MANY_ATTEMPTS = "too_many_attempts"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


STATUS: dict[Code, int] = {
    Code.MALFORMED: 400,
    Code.TOO_LARGE: 413,
    Code.UNAUTHENTICATED: 401,
    Code.PASS_EXPIRED: 401,
    Code.WRONG_PASSWORD: 401,
    Code.DEVICE_REVOKED: 401,
    Code.FORBIDDEN: 403,
    Code.NOT_FOUND: 404,
    Code.CONFLICT: 409,
    Code.STALE_EPOCH: 409,
    Code.DIVERGED: 409,
    Code.BLOCK_INVALID: 422,
    Code.OVER_QUOTA: 507,
    Code.TOO_MANY_ATTEMPTS: 429,
    Code.UNAVAILABLE: 503,
    Code.INTERNAL: 500,
}


class ProtocolError(Exception):
    """A refusal with its code.

    `message` says in a sentence what happened and is shown to people as it is.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
