"""Logging in again over changes that were never sent: the device is a new one, what it made stays what it is.

Owns the path login, renumber, mount, commit; what a login refuses is in `test_bad_days`.
"""

import os
from dataclasses import replace

from drivefs import config
from drivefs.cli.exit_codes import ExitCode
from drivefs.protocol.ids import UserId
from tests.mount.conftest import mount_options
from tests.mount.oracle import rename2, snapshot, write_file
from tests.support.mounts import PASSWORD, Workbench

EXCHANGE = 2


def test_what_was_made_offline_survives_a_new_login(workbench: Workbench) -> None:
    server = workbench.server()
    device = workbench.device(server)
    root = device.mount(*mount_options())
    write_file(root / "known", b"sent")
    (root / "shared").mkdir()
    device.sync()
    server.stop()
    (root / "new/inner").mkdir(parents=True)
    write_file(root / "new/small", b"small")
    write_file(root / "new/inner/large", os.urandom(3_000_000))
    write_file(root / "shared/leaf", b"leaf")
    write_file(root / "known", b"changed offline")
    os.link(root / "new/small", root / "shared/second name")
    (root / "new/link").symlink_to("inner/large")
    os.rename(root / "new/inner", root / "shared/moved")
    write_file(root / "temporary", b"saved by rename")
    os.rename(root / "temporary", root / "new/small")
    write_file(root / "left", b"left")
    rename2(root / "left", root / "shared/leaf", EXCHANGE)
    os.setxattr(root / "new", "user.note", b"kept")
    expected = snapshot(root, times=True)
    device.umount("--now")
    server.start()
    device.login()
    device.assert_sound()
    root = device.mount(*mount_options())
    assert snapshot(root, times=True) == expected
    device.sync()
    assert snapshot(root, times=True) == expected
    second = workbench.device(server)
    assert snapshot(second.mount(*mount_options()), times=True) == expected
    second.umount()
    device.umount()
    device.assert_sound()
    server.assert_sound()


def test_a_login_without_a_server_leaves_what_waits_as_it_is(workbench: Workbench) -> None:
    server = workbench.server()
    device = workbench.device(server)
    root = device.mount(*mount_options())
    server.stop()
    write_file(root / "file", b"kept")
    expected = snapshot(root)
    device.umount("--now")
    done = device.command("login", server.url, "--user", "ada", "--password-stdin", stdin="x\n")
    assert done.returncode != 0
    assert "Nothing was changed" in done.stderr
    root = device.mount(*mount_options())
    server.start()
    device.sync()
    assert snapshot(root) == expected
    device.umount()
    device.assert_sound()


def test_another_user_of_the_same_name_gets_nothing_of_what_is_here(workbench: Workbench) -> None:
    """[login-other-user] The profile is of one who was removed long ago, whose name is another one's since."""
    server = workbench.server()
    device = workbench.device(server)
    root = device.mount(*mount_options())
    server.stop()
    write_file(root / "file", b"of the first one")
    expected = snapshot(root)
    device.umount("--now")
    server.start()
    places = config.Places.from_environment(device.environment, os.getuid()).of_profile(config.DEFAULT_PROFILE)
    first = config.read_credentials(places, config.DEFAULT_PROFILE)
    config.write_credentials(places, replace(first, user_id=UserId(first.user_id + 1)))
    done = device.command("login", server.url, "--user", "ada", "--password-stdin", stdin=PASSWORD + "\n")
    assert done.returncode == ExitCode.REFUSED
    assert "another user now" in done.stderr
    assert config.read_credentials(places, config.DEFAULT_PROFILE).token == first.token
    assert snapshot(device.mount(*mount_options())) == expected
