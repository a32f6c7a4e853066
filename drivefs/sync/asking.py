"""One question to the backend on behalf of somebody who waits for the answer.

Owns when it is asked: at once refused while the backend is known to be gone, and once more where only the connection
broke.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from drivefs.remote import errors, retry
from drivefs.sync.connection import Reach

T = TypeVar("T")


class Asking:
    """Asks by way of `reach`."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    async def reachable(self) -> None:
        """Return when the backend can be asked.

        Raises:
            RemoteError: it is known to be gone.
        """
        await self._reach.reachable()

    async def __call__(self, call: Callable[[], Awaitable[T]]) -> T:
        """The answer to one call.

        Raises:
            RemoteError: it cannot be had now.
        """
        await self._reach.reachable()
        try:
            return await call()
        except errors.RemoteError as error:
            self._reach.lost(error)
            if not retry.is_worth_retrying(error):
                raise
        await self._reach.reachable()
        return await call()
