"""When a failed call is made again: how often, after how long, and not past its time."""

from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from drivefs.protocol.errors import Code, ProtocolError
from drivefs.remote import errors, retry

POLICY = retry.Policy(attempts=4, attempt_seconds=10.0, total_seconds=25.0)


def run(work: Callable[[], Awaitable[object]]) -> None:
    trio.run(work, clock=trio.testing.MockClock(autojump_threshold=0))


def failing(kind: errors.RemoteError, counted: list[float]) -> Callable[[], Awaitable[None]]:
    async def attempt() -> None:
        counted.append(trio.current_time())
        raise kind

    return attempt


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (errors.Offline("gone"), 4),
        (errors.NotDrivefs("a portal"), 1),
        (errors.UntrustedServer("a stranger"), 1),
        (errors.OtherProtocol("from the future"), 1),
        (errors.Refused(ProtocolError(Code.FORBIDDEN, "no")), 1),
    ],
)
def test_only_what_may_pass_is_tried_again(error: errors.RemoteError, tries: int) -> None:
    async def scenario() -> None:
        counted: list[float] = []
        with pytest.raises(type(error)):
            await retry.call(failing(error, counted), POLICY, lambda: 1.0)
        assert len(counted) == tries

    run(scenario)


def test_delays_grow() -> None:
    async def scenario() -> None:
        counted: list[float] = []
        with pytest.raises(errors.Offline):
            await retry.call(failing(errors.Offline("gone"), counted), POLICY, lambda: 1.0)
        gaps = [after - before for before, after in pairwise(counted)]
        assert gaps == pytest.approx([0.2, 0.4, 0.8])

    run(scenario)


def test_tries_that_hang_end_with_the_policys_time() -> None:
    async def scenario() -> None:
        began = trio.current_time()
        with pytest.raises(errors.Offline, match="completely"):
            await retry.call(trio.sleep_forever, POLICY, lambda: 1.0)
        assert trio.current_time() - began <= POLICY.total_seconds

    run(scenario)


def test_cancellation_is_not_taken_for_a_failure() -> None:
    async def scenario() -> None:
        with trio.move_on_after(5) as scope:
            await retry.call(trio.sleep_forever, POLICY, lambda: 1.0)
        assert scope.cancelled_caught

    run(scenario)


@given(st.integers(1, 60), st.floats(0, 1))
def test_a_delay_is_a_random_part_of_a_bound(failures: int, jitter: float) -> None:
    delay = retry.delay_seconds(failures, lambda: jitter)
    assert delay == pytest.approx(jitter * retry.delay_seconds(failures, lambda: 1.0))
    assert 0 <= delay <= retry.LONGEST_DELAY_SECONDS
