"""A drive, two devices on it, and a check of everything that must hold once a test is done."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.backend.service import invariants
from tests.backend.service.drive import Device, Drive, open_drive
from tests.backend.service.sharing import Neighbours, neighbours


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@pytest.fixture
async def drive(tmp_path: Path) -> AsyncIterator[Drive]:
    opened = await open_drive(tmp_path)
    yield opened
    await opened.database.read(invariants.check)
    opened.database.close()


@pytest.fixture
async def laptop(drive: Drive) -> Device:
    return await drive.device()


@pytest.fixture
async def phone(drive: Drive) -> Device:
    return await drive.device()


@pytest.fixture
async def pair(tmp_path: Path) -> Neighbours:
    return await neighbours(tmp_path)
