"""Maintenance as a whole: a content that is let go is gone from the disk days later, and a dry run changes nothing."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import select

from backend.metadata import schema
from backend.service.garbage import CONDEMN_SECONDS, DELETE_SECONDS
from backend.service.ground import Limits
from backend.service.maintenance import Maintained
from backend.service.retention import DAY
from tests.backend.api.served import Served, serving
from tests.backend.api.test_garbage import LARGE, a_drive
from tests.backend.service import invariants

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path, Limits()) as served:
        yield served
        await served.ground.database.read(invariants.check)


async def everything(served: Served) -> list[object]:
    """All rows and all objects."""
    tables = (schema.revisions, schema.runs, schema.blocks, schema.dentry_versions, schema.accounts)
    rows = await served.ground.database.read(
        lambda connection: [row for table in tables for row in connection.execute(select(table)).all()]
    )
    return [*rows, *sorted(each.name for each in served.ground.store.objects())]


async def maintained(served: Served) -> Maintained:
    """What was done, after a dry run that told it."""
    before = await everything(served)
    told = await served.services.maintenance.run(is_dry_run=True)
    assert await everything(served) == before
    done = await served.services.maintenance.run()
    assert (told.expired.count, told.thinned) == (done.expired.count, done.thinned)
    assert told.collected.condemned_count >= done.collected.condemned_count
    return done


async def test_what_age_lets_go_is_gone_from_the_disk_days_later(served: Served) -> None:
    drive = await a_drive(served)
    first, second = LARGE, LARGE[::-1]
    await drive.store_file(1, b"doc", first)
    await drive.write_anew(3, 1, second, base=1)
    served.clock.ns += 400 * DAY * 10**9
    assert (await maintained(served)).thinned.freed.size_bytes == len(first)
    count = len(list(served.ground.store.objects()))
    for seconds in (CONDEMN_SECONDS, DELETE_SECONDS):
        served.clock.ns += (seconds + 1) * 10**9
        done = await maintained(served)
    assert done.collected.object_bytes >= len(first)
    assert len(list(served.ground.store.objects())) == count - 1
    assert (await maintained(served)).is_empty
