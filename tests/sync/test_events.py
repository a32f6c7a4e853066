"""Events reach those who listen, in order; a full queue says so once."""

import trio

from drivefs.sync.events import OVERFLOW, Event, Events, Kind, Origin


def event(number: int) -> Event:
    return Event(kind=Kind.CREATED, path=b"%d" % number, origin=Origin.HERE)


def test_each_listener_gets_all_events_in_order() -> None:
    async def main() -> None:
        events = Events()
        with events.subscribed() as one, events.subscribed() as other:
            for number in range(10):
                events.publish(event(number))
            for each in (one, other):
                assert await each.take() == [event(number) for number in range(10)]

    trio.run(main)


def test_full_queue_ends_with_one_overflow_and_goes_on_when_it_was_read() -> None:
    async def main() -> None:
        events = Events()
        with events.subscribed(capacity=3) as listener:
            for number in range(10):
                events.publish(event(number))
            assert await listener.take() == [event(0), event(1), event(2), OVERFLOW]
            events.publish(event(11))
            assert await listener.take() == [event(11)]

    trio.run(main)


def test_makers_of_events_hear_whether_anybody_listens() -> None:
    events, heard = Events(), []
    events.hear.append(heard.append)
    with events.subscribed():
        with events.subscribed():
            assert events.are_heard
        assert heard == [True]
    assert heard == [True, False]
    assert not events.are_heard
    events.publish(event(1))


def test_cancelled_listener_loses_nothing() -> None:
    async def main() -> None:
        events = Events()
        with events.subscribed() as listener:
            with trio.move_on_after(0):
                await listener.take()
            events.publish(event(1))
            assert await listener.take() == [event(1)]

    trio.run(main)
