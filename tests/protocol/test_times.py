"""Moments as people write them."""

import pytest

from drivefs.protocol.times import LAST_NS, iso_time, parse_time

SECOND = 10**9


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-02T00:00:00Z", 86400),
        ("1970-01-02 02:00:00+02:00", 86400),
        ("19700102T000000Z", 86400),
        ("1970-W01-5T00:00Z", 86400),
        ("1970-01-02T00:00:00,5Z", 86400.5),
    ],
)
def test_a_moment_is_the_same_however_it_is_written(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds * SECOND


def test_a_year_and_a_month_are_their_first_day() -> None:
    assert parse_time("2026") == parse_time("2026-01") == parse_time("2026-01-01T00:00:00") != parse_time("2026-02")


def test_what_is_no_moment_or_lies_before_all_is_none() -> None:
    none = ("", "yesterday", "10:00", "1969-12-31T23:59:59Z", "2026-13-01", "2026-13", "1968", "202")
    assert [parse_time(each) for each in none] == [None] * len(none)


def test_a_moment_far_ahead_is_the_last_that_can_be_told() -> None:
    assert parse_time("9999-12-31T00:00:00Z") == LAST_NS == parse_time(iso_time(LAST_NS))
