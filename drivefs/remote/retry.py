"""When a failed call is made again, and after how long: pure, but for the waiting.

All calls of the sync API do no harm when they are made twice, so every loss of a request or of a reply is answered by
making the call again. Delays are "full jitter" (a random part of a bound that doubles), so that clients whose server
comes back do not all call at the same moment; source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import trio

from drivefs.remote import errors

T = TypeVar("T")
Jitter = Callable[[], float]
"""A random number from 0 to 1."""

FIRST_DELAY_SECONDS = 0.2
LONGEST_DELAY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Policy:
    """How often a call is tried, how long one try may take, and how long all of it."""

    attempts: int
    attempt_seconds: float
    total_seconds: float


def delay_seconds(failures: int, jitter: Jitter) -> float:
    """How long to wait after so many failures (at least 1) before the next try."""
    bound: float = FIRST_DELAY_SECONDS * 2 ** (failures - 1)
    return jitter() * min(LONGEST_DELAY_SECONDS, bound)


def is_worth_retrying(error: errors.RemoteError) -> bool:
    """Whether the same call may well succeed a moment later: a wrong server or certificate stays wrong."""
    return type(error) is errors.Offline


async def call(attempt: Callable[[], Awaitable[T]], policy: Policy, jitter: Jitter) -> T:
    """Make a call until it succeeds, is refused, or the policy's tries or time are used up.

    Cancellation leaves behind what the last try left.

    Raises:
        errors.RemoteError: that of the last try.
    """
    failures = 0
    deadline = trio.current_time() + policy.total_seconds
    while True:
        seconds = min(policy.attempt_seconds, max(deadline - trio.current_time(), 0.0))
        try:
            return await within(attempt, seconds)
        except errors.Offline as error:
            failures += 1
            delay = delay_seconds(failures, jitter)
            is_last = failures >= policy.attempts or trio.current_time() + delay >= deadline
            if is_last or not is_worth_retrying(error):
                raise
        await trio.sleep(delay)


async def within(attempt: Callable[[], Awaitable[T]], seconds: float) -> T:
    """Make one try that takes no longer than this.

    Raises:
        errors.Offline: the time ran out.
    """
    try:
        with trio.fail_after(seconds):
            return await attempt()
    except trio.TooSlowError:
        raise errors.Offline(f"the server did not answer completely within {seconds:.0f} seconds") from None
