"""Threads of a mount: results and errors come back, and the event loop never stands still for what takes its time."""

import threading

import pytest
import trio
import trio.testing

from drivefs.threads import PromptThread, Threads

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


def where() -> str:
    return threading.current_thread().name


async def release(waiting: threading.Event, seen: list[str]) -> None:
    """Only a loop that goes on can do this."""
    seen.append("the loop goes on")
    waiting.set()


def waits(waiting: threading.Event) -> str:
    assert waiting.wait(30)
    return where()


async def test_what_is_over_at_once_comes_back_from_a_thread_of_its_own() -> None:
    prompt = PromptThread(Threads(1))
    first = await prompt(where)
    assert first.startswith("prompt")
    with pytest.raises(OSError, match="the disk"):
        await prompt(fails)


def fails() -> None:
    raise OSError("the disk")


async def test_the_loop_goes_on_while_work_takes_its_time_and_such_work_is_not_waited_for_again() -> None:
    prompt, waiting, seen = PromptThread(Threads(1)), threading.Event(), list[str]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(release, waiting, seen)
        assert (await prompt(waits, waiting)).startswith("prompt")
    assert seen
    assert not (await prompt(where)).startswith("prompt")


async def test_work_that_has_begun_is_waited_for_by_whoever_is_cancelled() -> None:
    prompt, waiting, ended = PromptThread(Threads(1)), threading.Event(), list[str]()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def begin() -> None:
                try:
                    await prompt(lambda: ended.append(waits(waiting)))
                finally:
                    assert ended

            nursery.start_soon(begin)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            waiting.set()
    assert ended


async def test_one_who_is_cancelled_begins_nothing() -> None:
    prompt, ended = PromptThread(Threads(1)), list[str]()
    with trio.CancelScope() as scope:
        scope.cancel()
        await prompt(lambda: ended.append(where()))
    assert not ended


async def test_two_at_once_are_both_done() -> None:
    prompt, waiting, results = PromptThread(Threads(2)), threading.Event(), list[str]()

    async def ask() -> None:
        results.append(await prompt(waits, waiting))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        waiting.set()
    assert len(results) == 2
