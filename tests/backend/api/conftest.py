"""A served application with one user; on trio, as in the simulation, and where it says so on asyncio too."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backend.service.ground import Limits
from drivefs.protocol import messages, routes
from drivefs.protocol.ids import Epoch
from tests.backend.api.served import SESSION, Drive, Served, serving

QUOTA_BYTES = 24 * 2**20


@pytest.fixture(params=["trio", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path, Limits(quota_bytes=QUOTA_BYTES)) as found:
        yield found


@pytest.fixture
async def drive(served: Served) -> Drive:
    session = (await served.post(routes.SESSION, SESSION)).message(messages.SessionReply)
    ranges = await served.post(routes.ID_RANGES, messages.IdRangesRequest(epoch=Epoch(session.epoch)))
    return Drive(served, session, ranges.message(messages.IdRangesReply).starts[0])
