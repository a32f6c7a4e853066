"""When waiting for the server is given up, and how what is left is put into words."""

from typing import Any

import pytest

from drivefs.cli import drain, output


def progress(mutations: int, *, online: bool = True, reason: str = "") -> dict[str, Any]:
    return {"mutations": mutations, "bytes": 10 * mutations, "online": online, "reason": reason}


def test_waits_as_long_as_something_moves() -> None:
    patience = drain.Patience(None, 0.0)
    for step in range(100):
        assert not patience.is_over(progress(1000 - step), step * (drain.STALL_SECONDS - 1))


def test_gives_up_when_nothing_moves() -> None:
    patience = drain.Patience(None, 0.0)
    assert not patience.is_over(progress(5), 1.0)
    assert not patience.is_over(progress(5), drain.STALL_SECONDS)
    assert "over quota" in patience.is_over(progress(5, reason="over quota"), drain.STALL_SECONDS + 1)


def test_gives_up_on_a_server_that_stays_away() -> None:
    patience = drain.Patience(None, 0.0)
    away = progress(5, online=False, reason="connection refused")
    assert not patience.is_over(away, drain.OFFLINE_SECONDS - 1)
    assert "connection refused" in patience.is_over(away, drain.OFFLINE_SECONDS)


def test_server_that_comes_back_is_waited_for_again() -> None:
    patience = drain.Patience(None, 0.0)
    assert not patience.is_over(progress(5, online=False), drain.OFFLINE_SECONDS - 1)
    assert not patience.is_over(progress(5), drain.OFFLINE_SECONDS)
    assert not patience.is_over(progress(5, online=False), 2 * drain.OFFLINE_SECONDS - 1)


def test_limit_of_the_user_counts_and_nothing_else() -> None:
    patience = drain.Patience(1000.0, 0.0)
    assert not patience.is_over(progress(5, online=False), 999.0)
    assert "1000 s" in patience.is_over(progress(4), 1000.0)


@pytest.mark.parametrize(
    ("size", "shown"), [(0, "0 B"), (999, "999 B"), (1024, "1.0 KiB"), (10 * 2**30, "10.0 GiB"), (2**50, "1024 TiB")]
)
def test_sizes_are_shown_in_few_digits(size: int, shown: str) -> None:
    assert output.in_units(size) == shown


@pytest.mark.fault(22)
def test_what_is_pending_is_put_into_words() -> None:
    assert output.pending_in_words(0, 0) == "nothing"
    assert output.pending_in_words(1, 2048) == "1 change (2.0 KiB of content)"
    assert output.pending_in_words(1234, 0) == "1,234 changes (0 B of content)"


def test_a_limit_of_no_time_is_enough_where_nothing_is_left() -> None:
    patience = drain.Patience(0.0, 0.0)
    assert not patience.is_over(progress(0), 0.0)
    assert "time limit" in patience.is_over(progress(1), 0.0)
