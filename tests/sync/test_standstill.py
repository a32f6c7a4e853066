"""A process that stood still: who asks first waits for the news, and nobody waits for ever."""

import pytest
import trio
import trio.testing

from drivefs.sync.standstill import BEAT_SECONDS, PATIENCE_SECONDS, STILL_SECONDS, Standstill


class Sleeper:
    """A process whose clocks the test lets jump, and who takes so long to catch up."""

    def __init__(self, seconds: float) -> None:
        self.jumps = [0.0, 0.0]
        self.seconds = seconds
        self.caught_up_at: list[float] = []
        self.standstill: Standstill

    def clocks(self) -> tuple[float, float]:
        now = trio.current_time()
        return now + self.jumps[0], now + self.jumps[1]

    async def catch_up(self) -> None:
        await trio.sleep(self.seconds)
        self.caught_up_at.append(trio.current_time())

    async def call(self) -> float:
        """A call that is answered once the gate is open; gives how long that took."""
        began = trio.current_time()
        while self.standstill.is_suspected():
            await self.standstill.end()
        return trio.current_time() - began


def run(sleeper: Sleeper, *scenario: object) -> None:
    async def main() -> None:
        sleeper.standstill = Standstill(sleeper.clocks, sleeper.catch_up)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleeper.standstill.run)
            for step in scenario:
                await step()  # type: ignore[operator]
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.fault(21)
@pytest.mark.parametrize("clock", [0, 1])
@pytest.mark.parametrize("seconds", [0.2, 60.0])
def test_the_first_call_waits_for_the_news_within_bounds(clock: int, seconds: float) -> None:
    """Whichever clock went on; and those that come while another waits, wait too."""
    sleeper, waited = Sleeper(seconds), list[float]()

    async def call() -> None:
        waited.append(await sleeper.call())

    async def scenario() -> None:
        await trio.sleep(10.25 * BEAT_SECONDS)
        await call()
        sleeper.jumps[clock] += 1.5 * STILL_SECONDS
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            nursery.start_soon(call)
        await call()

    run(sleeper, scenario)
    expected = min(seconds, PATIENCE_SECONDS)
    assert waited == [0.0, pytest.approx(expected), pytest.approx(expected), 0.0]
    assert sleeper.standstill.count == 1


def test_the_news_are_asked_for_although_nobody_calls() -> None:
    sleeper = Sleeper(0.2)

    async def scenario() -> None:
        await trio.sleep(3.5 * BEAT_SECONDS)
        sleeper.jumps[0] += 100.0
        await trio.sleep(2 * BEAT_SECONDS)

    run(sleeper, scenario)
    assert sleeper.caught_up_at == [pytest.approx(4 * BEAT_SECONDS + 0.2)]


def test_whoever_is_cancelled_leaves_the_gate_usable() -> None:
    sleeper, waited = Sleeper(60.0), list[float]()

    async def scenario() -> None:
        sleeper.jumps[0] += 100.0
        with trio.move_on_after(PATIENCE_SECONDS / 2):
            await sleeper.call()
        waited.append(await sleeper.call())

    run(sleeper, scenario)
    assert waited == [PATIENCE_SECONDS]
