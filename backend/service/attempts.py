"""Attempts at passwords, counted so that nobody goes on guessing.

Owns the table `login_attempts`. An attempt is counted before anything is hashed, since that is what costs; one that
succeeds is taken back: limits are for guessing.
"""

from collections.abc import Mapping

from sqlalchemy import Connection, delete, insert, select, update

from backend.metadata.schema import login_attempts
from drivefs.protocol.errors import Code, ProtocolError

WINDOW_SECONDS = 15 * 60


def _window(now_ns: int) -> int:
    length = WINDOW_SECONDS * 10**9
    return now_ns // length * length


def begin(connection: Connection, subjects: Mapping[str, int], now_ns: int) -> None:
    """Count an attempt against each subject, of which so many are allowed in a window.

    Raises:
        ProtocolError: `too_many_attempts`.
    """
    window = _window(now_ns)
    connection.execute(delete(login_attempts).where(login_attempts.c.window < window))
    for subject, most in subjects.items():
        _count(connection, subject, window, most)


def _count(connection: Connection, subject: str, window: int, most: int) -> None:
    same = (login_attempts.c.subject == subject) & (login_attempts.c.window == window)
    attempts = connection.execute(select(login_attempts.c.attempts).where(same)).scalar_one_or_none()
    if attempts is None:
        connection.execute(insert(login_attempts), {"subject": subject, "window": window, "attempts": 1})
    elif attempts >= most:
        raise ProtocolError(
            Code.TOO_MANY_ATTEMPTS,
            f"Too many failed logins. Wait up to {WINDOW_SECONDS // 60} minutes, then try again; nothing is lost.",
        )
    else:
        connection.execute(update(login_attempts).where(same).values(attempts=attempts + 1))


def take_back(connection: Connection, subjects: Mapping[str, int], now_ns: int) -> None:
    """The attempt was right."""
    same = (login_attempts.c.subject.in_(list(subjects))) & (login_attempts.c.window == _window(now_ns))
    fewer = update(login_attempts).where(same, login_attempts.c.attempts > 0)
    connection.execute(fewer.values(attempts=login_attempts.c.attempts - 1))
