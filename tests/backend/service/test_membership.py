"""What goes with being a member of a share, and ends with it."""

import pytest

from tests.backend.service.sharing import Neighbours

pytestmark = pytest.mark.anyio


async def test_who_is_no_member_any_more_is_not_told_how_much_room_the_owner_has(pair: Neighbours) -> None:
    folder, _ = await pair.tree()
    share = await pair.share(folder)
    sessions, bert = pair.bert.drive.sessions, pair.bert.caller
    assert len((await sessions.usage(bert)).rooms) == 1
    await pair.end(share)
    assert (await sessions.usage(bert)).rooms == []
