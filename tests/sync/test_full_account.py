"""Contents that do not fit into what an account may store: none keeps out another that does."""

import random
from contextlib import suppress
from pathlib import Path

import pytest

from drivefs.protocol.blocks import MAX_BLOCK_BYTES
from drivefs.remote.errors import Refused
from drivefs.sync import uploader
from tests.backend.api.served import USER
from tests.sync.fleet import Device, sailing

pytestmark = pytest.mark.anyio
MIB = 2**20


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


async def offer(device: Device) -> None:
    """Send what there is room for."""
    for _ in range(2):
        with suppress(Refused):
            await device.publish()
    await device.committer.commit_next(device.session.epoch)


async def test_of_two_large_contents_that_do_not_fit_together_one_goes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each had sent a part, which took the room that the other one needed."""
    monkeypatch.setattr(uploader, "WINDOW_BYTES", MAX_BLOCK_BYTES)
    noise = random.Random(1)
    async with sailing(tmp_path, "one", "other") as (fleet, (one, other)):
        await fleet.served.services.accounts.set_limits(USER, {"quota_bytes": 10 * MIB})
        for name in ("a", "b"):
            await one.write(name, noise.randbytes(9 * MIB))
        await offer(one)
        await other.pull()
        assert len(await other.tree()) == 1
        await other.write("c", noise.randbytes(MIB // 2))
        await offer(other)
        await one.pull()
        assert "c" in await one.tree()
