"""What mount(8) passes for a line of fstab, and what `drivefs mount` is asked for."""

import pytest

from drivefs.cli import fstab
from drivefs.cli.exit_codes import ExitCode
from drivefs.cli.fstab import translate


@pytest.mark.parametrize("source", ["work", "drivefs:work"])
def test_a_line_names_profile_and_mountpoint(source: str) -> None:
    assert translate([source, "/mnt/drive"]).words == ("mount", "/mnt/drive", "--quiet", "--profile", "work")


@pytest.mark.parametrize("source", ["none", "drivefs"])
def test_a_line_without_a_profile_takes_the_default(source: str) -> None:
    assert translate([source, "/mnt/drive"]).words == ("mount", "/mnt/drive", "--quiet")


def test_options_of_ours_are_passed_on() -> None:
    asked = translate(["p", "/mnt", "-o", "ro,allow_other,cache_size=5G"])
    assert asked.words == ("mount", "/mnt", "--quiet", "--cache-size", "5G", "--profile", "p", "-o", "ro,allow_other")


@pytest.mark.parametrize(
    "options",
    ["defaults", "_netdev,nofail,noauto", "x-systemd.automount,x-systemd.idle-timeout=60", "comment=a", "x-gvfs-hide"],
)
def test_options_for_others_are_accepted(options: str) -> None:
    assert translate(["p", "/mnt", "-o", options]).words == ("mount", "/mnt", "--quiet", "--profile", "p")


def test_user_implies_what_mount_says() -> None:
    asked = translate(["p", "/mnt", "-o", "rw,user,exec"])
    assert asked.words[-1] == "rw,noexec,nosuid,nodev,exec"


def test_flags_of_mount_are_understood_anywhere() -> None:
    asked = translate(["-n", "p", "-orw", "/mnt", "-s", "-v", "-t", "drivefs"])
    assert asked.words == ("mount", "/mnt", "--profile", "p", "-o", "rw")
    assert translate(["p", "/mnt", "-r"]).words[-1] == "ro"


def test_fake_mounts_nothing() -> None:
    assert translate(["p", "/mnt", "-f"]).is_fake
    assert fstab.main(["p", "/nowhere", "-f"]) == ExitCode.OK


def test_setuid_names_the_user() -> None:
    asked = translate(["p", "/mnt", "-o", "setuid=ann"])
    assert asked.user == "ann"


def test_unknown_user_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert fstab.main(["p", "/mnt", "-o", "setuid=no-such-user"]) == ExitCode.FAILED
    assert "no-such-user" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [[], ["p"], ["p", "/a", "/b"], ["p", "/mnt", "-o"], ["p", "/mnt", "-o", "speed=11"], ["p", "/mnt", "-x"]]
)
def test_senseless_lines_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert fstab.main(words) == ExitCode.USAGE
    assert fstab.USAGE in capsys.readouterr().err


def test_remounting_is_refused_with_what_to_do_instead(capsys: pytest.CaptureFixture[str]) -> None:
    assert fstab.main(["p", "/mnt", "-o", "remount,ro"]) == ExitCode.USAGE
    assert "unmount it and mount it again" in capsys.readouterr().err
