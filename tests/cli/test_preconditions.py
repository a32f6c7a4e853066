"""What is refused before a mount is started, and in which words."""

import argparse
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from cache import workspace
from drivefs import config
from drivefs.cli import drives, mount, preconditions
from drivefs.cli.errors import CommandError
from drivefs.fuse import connection
from drivefs.protocol.ids import AccountId, DeviceId, InodeId, UserId, WorkspaceId


def test_empty_directory_will_do(tmp_path: Path) -> None:
    preconditions.check_mountpoint(tmp_path)


def test_missing_directory_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="mkdir -p"):
        preconditions.check_mountpoint(tmp_path / "missing")


def test_directory_with_content_is_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CommandError, match="not empty"):
        preconditions.check_mountpoint(tmp_path)


def test_file_is_no_mountpoint(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CommandError, match="not a directory"):
        preconditions.check_mountpoint(tmp_path / "file")


def test_missing_device_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="modprobe fuse"):
        preconditions.check_device(tmp_path / "fuse")


def test_device_that_cannot_be_opened_is_said(tmp_path: Path) -> None:
    (tmp_path / "fuse").mkdir()
    with pytest.raises(CommandError, match=r"cannot be opened .* chmod 666"):
        preconditions.check_device(tmp_path / "fuse")


def test_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandError, match=r"fusermount3 is missing.* package fuse3"):
        preconditions.check_program("fusermount3", "fuse3")


def test_directory_that_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CommandError, match=r"cache directory .* cannot be written to"):
        preconditions.check_writable(tmp_path / "file" / "cache", "cache")


def test_writable_check_leaves_nothing_behind(tmp_path: Path) -> None:
    preconditions.check_writable(tmp_path / "cache", "cache")
    assert os.listdir(tmp_path / "cache") == []


def test_a_mount_whose_mountpoint_has_gone_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    places = config.Places.from_environment(variables, 0).of_profile("p")
    preconditions.wait_for_the_last(places)
    places.state.mkdir(parents=True)
    looks = []
    with ExitStack() as ending:

        def end(seconds: float) -> None:
            looks.append(seconds)
            ending.close()

        monkeypatch.setattr(preconditions.time, "sleep", end)
        ending.enter_context(workspace.held_lock(places.state))
        preconditions.wait_for_the_last(places)
    assert looks == [preconditions.LOOK_SECONDS]


def test_a_word_in_the_settings_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wrote it counts on what it does not do."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", config.PROFILE_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    where = drives.places()
    config.write_profile(where, config.Profile("home", "https://a.example", "ann", "laptop"))
    identity = config.Credentials("token", UserId(1), DeviceId(2), AccountId(3), WorkspaceId(4), InodeId(5))
    config.write_credentials(where.of_profile("home"), identity)
    asked = argparse.Namespace(
        mountpoint=str(tmp_path), profile="home", cache_size=None, options=[], read_only=False
    )  # fmt: skip
    assert mount.read_settings(asked).profile.name == "home"
    with where.config_file.open("a") as file:
        file.write("mass_deletion_gard = true\n")
    with pytest.raises(config.ConfigError, match="'mass_deletion_gard' is no setting"):
        mount.read_settings(asked)


@pytest.mark.parametrize("content", ["", "# user_allow_other\n", "mount_max = 1\n"])
def test_allow_other_needs_the_line_in_fuse_conf(tmp_path: Path, content: str) -> None:
    (tmp_path / "fuse.conf").write_text(content)
    with pytest.raises(CommandError, match="user_allow_other"):
        preconditions.check_allow_other(tmp_path / "fuse.conf")


def test_allow_other_is_let_through_by_fuse_conf(tmp_path: Path) -> None:
    (tmp_path / "fuse.conf").write_text("# more\nuser_allow_other # yes\n")
    preconditions.check_allow_other(tmp_path / "fuse.conf")


def test_mount_options_are_taken_apart() -> None:
    assert mount.mount_options(["allow_other,ro", "nosuid"], read_only=False) == {"allow_other", "ro", "nosuid"}
    assert mount.mount_options([], read_only=True) == {"ro"}


def test_later_of_two_opposite_options_wins() -> None:
    assert mount.mount_options(["ro,rw"], read_only=False) == frozenset()
    assert mount.mount_options(["noexec,exec,nodev"], read_only=False) == {"exec", "nodev"}


def test_unknown_mount_option_is_refused_by_name() -> None:
    with pytest.raises(CommandError, match="-o speed=11"):
        mount.mount_options(["ro,speed=11"], read_only=False)


MOUNTINFO = r"""
22 1 0:20 / /proc rw - proc proc rw
90 22 0:50 / /mnt/my\040drive rw,nosuid - fuse.drivefs drivefs:default rw,user_id=0
91 22 0:51 / /mnt/other rw - fuse.sshfs host: rw
92 22 0:52 / /mnt/my\040drive rw,nosuid shared:5 master:1 - fuse.drivefs drivefs:work rw
"""


@pytest.mark.fault(25)
def test_mounts_are_found_without_touching_them() -> None:
    mount = connection.topmost("/mnt/my drive", MOUNTINFO)
    assert mount == connection.Mount("/mnt/my drive", "fuse.drivefs", "drivefs:work", 52)
    assert mount.is_drivefs
    other = connection.topmost("/mnt/other", MOUNTINFO)
    assert other is not None
    assert not other.is_drivefs
    assert connection.topmost("/mnt", MOUNTINFO) is None


def test_abort_goes_by_number(tmp_path: Path) -> None:
    (tmp_path / "52").mkdir()
    (tmp_path / "52" / "abort").touch()
    assert connection.abort(52, tmp_path)
    assert (tmp_path / "52" / "abort").read_text() == "1"
    assert not connection.abort(53, tmp_path / "missing")
