"""What the benchmark makes of its figures: ratios, goals, comparisons with peers, and what could not be measured."""

import json
from pathlib import Path

import pytest

from benchmarks import report, settings
from benchmarks.rounds import Results
from benchmarks.rows import ROWS
from benchmarks.settings import Settings


def results(**rows: dict[str, list[float]]) -> Results:
    return Results(values=rows)


def test_speed_counts_the_same_way_for_rates_and_for_seconds() -> None:
    assert report.speed_ratio(ROWS["create"], 50.0, 100.0) == 0.5
    assert report.speed_ratio(ROWS["untar"], 4.0, 2.0) == 0.5


def test_median_is_taken_over_the_rounds() -> None:
    assert report.medians(results(create={"drivefs": [1.0, 900.0, 7.0]})) == {"create": {"drivefs": 7.0}}


@pytest.mark.parametrize(("drivefs", "met"), [(59.0, False), (60.0, True)])
def test_goal_is_a_ratio_to_the_ceiling(drivefs: float, met: bool) -> None:
    middle = report.medians(results(create={"drivefs": [drivefs], "trivial": [100.0]}))
    assert [verdict.met for verdict in report.goal_verdicts(middle, Settings())] == [met]


@pytest.mark.parametrize(("seconds", "met"), [(6.1, False), (6.0, True)])
def test_goal_is_a_value_not_to_be_passed(seconds: float, met: bool) -> None:
    middle = report.medians(results(write_synced={"drivefs": [seconds]}))
    assert [verdict.met for verdict in report.goal_verdicts(middle, Settings())] == [met]


def test_absolute_goals_are_not_judged_on_smaller_sizes() -> None:
    middle = report.medians(results(write_synced={"drivefs": [0.1]}))
    small = settings.parse(["--size", "64M"])
    assert [verdict.met for verdict in report.goal_verdicts(middle, small)] == [None]


def test_drivefs_must_be_ahead_of_the_best_peer() -> None:
    values = {"trivial": [100.0], "drivefs": [60.0], "sshfs": [50.0], "rclone": [70.0]}
    (verdict,) = report.peer_verdicts(report.medians(results(create=values)))
    assert verdict.met is False
    assert "rclone" in verdict.goal


def test_a_peer_ahead_of_the_ceiling_sets_no_goal_but_is_named() -> None:
    values = {"trivial": [100.0], "drivefs": [60.0], "rclone": [170.0]}
    (verdict,) = report.peer_verdicts(report.medians(results(create=values)))
    assert verdict.met is None
    assert "rclone" in verdict.goal


def test_json_holds_every_value_and_every_failure(tmp_path: Path) -> None:
    found = results(create={"drivefs": [1.0, 2.0], "trivial": [2.0, 2.0]})
    found.failures.append(("sshfs", "not installed"))
    document = json.loads(report.as_json(found, Settings(directory=tmp_path)))
    assert document["rows"]["create"]["values"] == {"drivefs": [1.0, 2.0], "trivial": [2.0, 2.0]}
    assert document["speed_to_trivial"]["create"]["drivefs"] == 0.75
    assert document["failures"] == [["sshfs", "not installed"]]


def test_unknown_workload_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        settings.parse(["--workloads", "small,lagre"])
    assert "'lagre' is not one of" in capsys.readouterr().err
