"""Passes: what a device shows with each request runs out, and is had again for its token; what it had begun goes on.

Owns a server whose passes are good for a minute of its clock.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backend.service import passes
from backend.service.ground import Limits
from drivefs.protocol import blocks as codec
from drivefs.protocol import messages, routes, wire
from drivefs.protocol.errors import ProtocolError
from drivefs.protocol.ids import DeviceId
from tests.backend.api.served import SESSION, Drive, Served, serving

pytestmark = pytest.mark.anyio
SECONDS = 60
KEY = bytes(32)


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path, Limits(quota_bytes=2**24, pass_seconds=SECONDS)) as served:
        yield served


async def token(served: Served) -> str:
    """Of another device."""
    return (await served.login()).message(messages.LoginReply).token


async def given(served: Served, own: str) -> str:
    return (await served.post(routes.PASS, token=own)).message(messages.PassReply).token


async def test_a_token_is_good_for_a_pass_and_for_nothing_else(served: Served) -> None:
    own = await token(served)
    for path in (routes.USAGE, routes.SESSION, routes.COMMIT, routes.GET_BLOCKS, routes.PUT_BLOCKS, routes.CHANGES):
        assert (await served.post(path, SESSION, token=own)).problem() == "pass_expired"
    assert (await served.post(routes.USAGE, token=await given(served, own))).status == 200


async def test_who_does_not_know_of_passes_reads_what_to_do(served: Served) -> None:
    refused = await served.post(routes.USAGE, token=await token(served))
    assert "update drivefs on this device" in wire.decode(refused.reply, messages.Problem).message


@pytest.mark.fault(52)
async def test_what_was_uploaded_with_a_pass_that_ran_out_is_pinned_for_the_next_one(served: Served) -> None:
    own = await token(served)
    served.token = await given(served, own)
    session = (await served.post(routes.SESSION, SESSION)).message(messages.SessionReply)
    ranges = await served.post(routes.ID_RANGES, messages.IdRangesRequest(epoch=session.epoch))
    drive = Drive(served, session, ranges.message(messages.IdRangesReply).starts[0])
    await served.put(b"first part")
    served.clock.ns += SECONDS * 10**9
    assert (await served.put(b"second part")).problem() == "pass_expired"
    served.token = await given(served, own)
    assert await served.missing(codec.block_id(b"first part")) == []
    await drive.store_file(10, b"f", b"first part")


async def test_a_pass_may_be_good_for_ever(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(quota_bytes=2**24, pass_seconds=10**18)) as served:
        shown = await given(served, await token(served))
        assert (await served.post(routes.USAGE, token=shown)).status == 200


async def test_a_pass_gets_no_other_pass(served: Served) -> None:
    assert (await served.post(routes.PASS)).problem() == "unauthenticated"


async def test_a_revoked_device_is_refused_with_its_pass_and_gets_none(served: Served) -> None:
    own = await token(served)
    shown = await given(served, own)
    assert (await served.post(routes.LOGOUT, token=shown)).status == 200
    for path, tried in ((routes.USAGE, shown), (routes.PASS, own), (routes.USAGE, own)):
        assert (await served.post(path, token=tried)).problem() == "device_revoked"


def test_a_pass_is_good_until_its_time_for_its_device_and_under_its_key() -> None:
    shown = passes.issue(KEY, DeviceId(7), 100)
    assert passes.holder(KEY, shown, 99) == 7
    with pytest.raises(ProtocolError, match="run out"):
        passes.holder(KEY, shown, 100)
    with pytest.raises(ProtocolError, match="run out"):
        passes.holder(bytes(31) + b"\1", shown, 99)


@pytest.mark.parametrize("changed", range(5, len(passes.issue(KEY, DeviceId(7), 100)), 7))
def test_a_pass_that_was_changed_anywhere_is_none(changed: int) -> None:
    shown = passes.issue(KEY, DeviceId(7), 100)
    other = "A" if shown[changed] != "A" else "B"
    with pytest.raises(ProtocolError, match="run out"):
        passes.holder(KEY, shown[:changed] + other + shown[changed + 1 :], 99)


@pytest.mark.parametrize("shown", ["pass.", "pass.AAAA", "pass.ä", "pass." + "A" * 5000, "pass.=", "pass.A"])
def test_what_is_no_pass_is_refused(shown: str) -> None:
    with pytest.raises(ProtocolError, match="run out"):
        passes.holder(KEY, shown, 0)
