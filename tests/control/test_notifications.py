"""What a mount answers about notifications when the server cannot be asked."""

import pytest
import trio

from drivefs.control.errors import Refused
from drivefs.control.notifications import Notifying
from drivefs.remote.errors import Offline
from drivefs.sync.notices import Notices


class Away:
    """A server that is not there, whatever is asked."""

    def __getattr__(self, name: str) -> object:
        async def call(*request: object) -> None:
            raise Offline("it is away")

        return call


def test_a_server_that_is_away_is_told_from_a_refusal() -> None:
    """So that commands end as others do without a network."""
    remote = Away()
    table = Notifying(Notices(remote), remote).table()  # type: ignore[arg-type]

    async def ask() -> None:
        for name, arguments in (
            ("notifications_muted", {}),
            ("notifications_mute", {"inode": 1, "is_muted": True}),
            ("activity", {"inode": 1, "limit": 1}),
            ("notifications", {"since": 0, "own": False}),
        ):
            with pytest.raises(Refused) as refused:
                await table[name](arguments, None)  # type: ignore[arg-type]
            assert refused.value.kind == "unavailable", name

    trio.run(ask)
