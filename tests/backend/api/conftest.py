"""A served application with one user; on trio, as in the simulation, and where it says so on asyncio too."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backend.service.ground import Limits
from tests.backend.api.served import Served, serving

QUOTA_BYTES = 24 * 2**20


@pytest.fixture(params=["trio", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path, Limits(quota_bytes=QUOTA_BYTES)) as found:
        yield found
