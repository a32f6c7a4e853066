"""Places, profiles, credentials and sizes: what a drive is told, and that none of it is half-written."""

import os
import stat
from pathlib import Path

import pytest

from drivefs import config
from drivefs.protocol.ids import AccountId, DeviceId, InodeId, UserId, WorkspaceId

CREDENTIALS = config.Credentials("token", UserId(1), DeviceId(2), AccountId(3), WorkspaceId(4), InodeId(5))


def places_in(home: Path) -> config.Places:
    return config.Places.from_environment({"HOME": str(home), "XDG_RUNTIME_DIR": str(home)}, 0)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("512", 512), ("4K", 4096), ("10G", 10 * 2**30), ("1.5 TiB", 3 * 2**39), ("7mb", 7 * 2**20)],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert config.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "10X", "1e9", "10 G B", "ten"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(config.ConfigError, match="is not a size"):
        config.parse_size(text)


def test_written_sizes_are_read_again() -> None:
    for size in (0, 1, 1023, 1024, 10 * 2**30, 2**30 + 1, 3 * 2**50):
        assert config.parse_size(config.format_size(size)) == size


def test_cache_too_small_to_work_with_is_refused() -> None:
    with pytest.raises(config.ConfigError, match="too small"):
        config.parse_cache_size("1M")


def test_xdg_variables_choose_the_places(tmp_path: Path) -> None:
    environ = {
        "HOME": "/nowhere",
        "XDG_CONFIG_HOME": str(tmp_path / "c"),
        "XDG_STATE_HOME": str(tmp_path / "s"),
        "XDG_CACHE_HOME": str(tmp_path / "k"),
        "XDG_RUNTIME_DIR": str(tmp_path),
    }
    places = config.Places.from_environment(environ, 0)
    assert places.config_file == tmp_path / "c" / "drivefs" / "config.toml"
    assert places.of_profile("p").state == tmp_path / "s" / "drivefs" / "p"
    assert places.of_profile("p").cache == tmp_path / "k" / "drivefs" / "p"
    assert places.of_profile("p").runtime.parent == tmp_path / "drivefs"


def test_home_serves_where_variables_are_missing_or_relative(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "XDG_STATE_HOME": "relative", "XDG_CACHE_HOME": ""}
    places = config.Places.from_environment(environ, 0)
    assert places.state == tmp_path / ".local/state/drivefs"
    assert places.cache == tmp_path / ".cache/drivefs"
    assert places.config == tmp_path / ".config/drivefs"


def test_what_exists_here_only_does_not_lie_in_what_may_be_deleted(tmp_path: Path) -> None:
    """To log out deletes the cache, and keeps what was rescued."""
    environ = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "x"), "XDG_CACHE_HOME": f"{tmp_path}/y/../x/"}
    with pytest.raises(config.ConfigError, match="one directory"):
        config.Places.from_environment(environ, 0)


def test_runtime_lies_below_state_where_the_session_has_none(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "missing")}
    assert config.Places.from_environment(environ, 0).runtime == tmp_path / ".local/state/drivefs/.run"


def test_two_devices_of_one_session_have_different_sockets(tmp_path: Path) -> None:
    one = places_in(tmp_path / "one").of_profile("default")
    environ = {"HOME": str(tmp_path / "two"), "XDG_RUNTIME_DIR": str(tmp_path)}
    two = config.Places.from_environment(environ, 0).of_profile("default")
    assert one.runtime.name != two.runtime.name


def test_no_home_at_all_is_said() -> None:
    with pytest.raises(config.ConfigError, match="HOME"):
        config.Places.from_environment({}, 0)


def test_profiles_are_read_as_written(tmp_path: Path) -> None:
    places = places_in(tmp_path)
    plain = config.Profile("default", "https://a.example", "ann", "laptop")
    full = config.Profile("work", "http://b.example", "bob", 'a "b"\\c', 2**40, allow_insecure_http=True)
    config.write_profile(places, plain)
    config.write_profile(places, full)
    assert config.read_profiles(places) == {"default": plain, "work": full}


def test_other_settings_survive_a_change(tmp_path: Path) -> None:
    places = places_in(tmp_path)
    places.config.mkdir(parents=True)
    places.config_file.write_text('theme = "dark"\n[profiles.old]\nurl = "u"\nuser = "n"\ndevice = "d"\nextra = 1\n')
    config.write_profile(places, config.Profile("new", "u", "n", "d"))
    config.remove_profile(places, "old")
    assert list(config.read_profiles(places)) == ["new"]
    assert 'theme = "dark"' in places.config_file.read_text()


@pytest.mark.parametrize(
    "text",
    [
        "profiles = 1",
        "[profiles]\na = 1",
        "[profiles.a]\nurl = 1",
        '[profiles.a]\nurl = "u"\nuser = "n"\ndevice = "d"\ncache_size = "big"',
        '[profiles."../a"]\nurl = "u"\nuser = "n"\ndevice = "d"',
        "not toml",
        "\0",
    ],
)
def test_configuration_without_sense_is_refused_by_file_name(tmp_path: Path, text: str) -> None:
    places = places_in(tmp_path)
    places.config.mkdir(parents=True)
    places.config_file.write_text(text)
    with pytest.raises(config.ConfigError, match=r"config\.toml"):
        config.read_profiles(places)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('{}cach_size = "1G"', "cach_size"),
        ("{}[more]", "more"),
        ('cache_size = "1G"\n{}', "cache_size"),
    ],
)
def test_a_setting_that_would_have_no_effect_is_named(tmp_path: Path, text: str, word: str) -> None:
    where = places_in(tmp_path)
    where.config.mkdir(parents=True)
    profile = '[profiles.home]\nurl = "https://x"\nuser = "u"\ndevice = "d"\n'
    where.config_file.write_text(text.format(profile))
    with pytest.raises(config.ConfigError, match=f"config.toml: .*'{word}' is no setting"):
        config.check_names(where, "home")


def test_all_that_is_written_is_a_setting(tmp_path: Path) -> None:
    places = places_in(tmp_path)
    full = config.Profile(
        "work", "http://b.example", "bob", "d", 2**40, 2**30, 2**20, 20.0, True, 0.25, False, ("*~",)
    )  # fmt: skip
    config.write_profile(places, full)
    config.check_names(places, "work")
    assert all(f"{name} = " in places.config_file.read_text() for name in config.SETTINGS)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".run", "-o", "a" * 65, "a b"])
def test_profile_names_that_are_no_directory_are_refused(name: str) -> None:
    with pytest.raises(config.ConfigError, match="cannot name a profile"):
        config.check_profile_name(name)


def test_credentials_are_for_their_owner_alone(tmp_path: Path) -> None:
    places = places_in(tmp_path).of_profile("default")
    config.write_credentials(places, CREDENTIALS)
    assert config.read_credentials(places, "default") == CREDENTIALS
    assert stat.S_IMODE(places.credentials_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(places.state.stat().st_mode) == 0o700


def test_missing_credentials_say_how_to_log_in(tmp_path: Path) -> None:
    with pytest.raises(config.NotLoggedIn, match=r"drivefs login .* --profile work"):
        config.read_credentials(places_in(tmp_path).of_profile("work"), "work")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"token": 1, "more": 2}', b"\xff"])
def test_damaged_credentials_are_an_error_and_no_login(tmp_path: Path, content: bytes) -> None:
    places = places_in(tmp_path).of_profile("default")
    config.write_durably(places.credentials_file, content)
    with pytest.raises(config.ConfigError, match="log in again") as error:
        config.read_credentials(places, "default")
    assert not isinstance(error.value, config.NotLoggedIn)


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    config.write_durably(file, b"old")

    def fail(descriptor: int) -> None:
        raise OSError("no")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no"):
        config.write_durably(file, b"new")
    assert file.read_bytes() == b"old"


def test_leftover_of_a_crash_does_not_widen_the_rights(tmp_path: Path) -> None:
    leftover = tmp_path / ".file.new"
    leftover.write_bytes(b"half")
    leftover.chmod(0o644)
    config.write_durably(tmp_path / "file", b"whole")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    assert (tmp_path / "file").read_bytes() == b"whole"
    assert not leftover.exists()


def test_what_pins_and_waiting_may_take_is_set_by_people_and_kept(tmp_path: Path) -> None:
    where = places_in(tmp_path)
    where.config.mkdir(parents=True)
    where.config_file.write_text(
        '[profiles.home]\nurl = "https://x"\nuser = "u"\ndevice = "d"\n'
        'pin_size = "2G"\nahead_size = "0"\nanswer_seconds = 30\n'
    )
    profile = config.read_profiles(where)["home"]
    assert profile.pin_limit_bytes == 2 * 2**30
    assert profile.ahead_limit_bytes == 0
    assert profile.answer_seconds == 30.0
    config.write_profile(where, profile)
    assert config.read_profiles(where)["home"] == profile


@pytest.mark.parametrize("value", ['"*~"', "[1]", '["*~", "[q-a]"]'])
def test_ignored_names_that_make_no_sense_are_refused(tmp_path: Path, value: str) -> None:
    where = places_in(tmp_path)
    where.config.mkdir(parents=True)
    where.config_file.write_text(f'[profiles.home]\nurl = "https://x"\nuser = "u"\ndevice = "d"\nignore = {value}\n')
    with pytest.raises(config.ConfigError, match="ignore"):
        config.read_profiles(where)


@pytest.mark.parametrize("value", ["1", "true", '"soon"', "1000"])
def test_a_wait_that_makes_no_sense_is_refused(tmp_path: Path, value: str) -> None:
    where = places_in(tmp_path)
    where.config.mkdir(parents=True)
    where.config_file.write_text(
        f'[profiles.home]\nurl = "https://x"\nuser = "u"\ndevice = "d"\nanswer_seconds = {value}\n'
    )
    with pytest.raises(config.ConfigError, match="answer_seconds"):
        config.read_profiles(where)
