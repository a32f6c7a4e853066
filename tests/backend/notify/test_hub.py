"""Wake-ups reach those who listen, and those alone; none is lost between two waits."""

import anyio
import pytest

from backend.notify import hub
from backend.notify.hub import InProcessHub
from drivefs.protocol.ids import DeviceId, WorkspaceId

pytestmark = pytest.mark.anyio
ONE, OTHER = hub.of_workspace(WorkspaceId(1)), hub.of_workspace(WorkspaceId(2))


@pytest.fixture(params=["trio", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


async def is_woken(listener: hub.Listener) -> bool:
    woken: list[hub.Listener] = []

    async def wait() -> None:
        await listener.wait()
        woken.append(listener)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    return bool(woken)


async def test_only_those_who_listen_to_a_topic_are_woken() -> None:
    found = InProcessHub()
    with found.listen([ONE]) as one, found.listen([OTHER]) as other, found.listen([ONE, OTHER]) as both:
        found.wake(ONE)
        assert [await is_woken(each) for each in (one, other, both)] == [True, False, True]


async def test_a_wake_up_before_the_wait_is_not_lost_and_counts_once() -> None:
    found = InProcessHub()
    with found.listen([ONE]) as listener:
        found.wake(ONE)
        found.wake(ONE)
        assert await is_woken(listener)
        assert not await is_woken(listener)
        found.wake(ONE)
        assert await is_woken(listener)


async def test_all_are_woken_at_once() -> None:
    found = InProcessHub()
    with found.listen([ONE]) as one, found.listen([hub.of_device(DeviceId(1))]) as other:
        found.wake_all()
        assert await is_woken(one)
        assert await is_woken(other)


async def test_a_workspace_and_a_device_of_one_number_are_two_topics() -> None:
    assert hub.of_workspace(WorkspaceId(1)) != hub.of_device(DeviceId(1))


async def test_nothing_is_kept_of_those_who_left() -> None:
    found = InProcessHub()
    with found.listen([ONE]), found.listen([ONE, OTHER]):
        assert found.listener_count() == 2
    assert found.listener_count() == 0
    assert found._listeners == {}
    found.wake(ONE)
