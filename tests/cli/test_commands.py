"""The command line itself: help, exit codes, choices of drives, and errors without tracebacks."""

import argparse
import ast
import errno
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock

import pytest

from drivefs.cli import cache, differences, drives, held, output, pin
from drivefs.cli import main as program
from drivefs.cli.exit_codes import MEANING, ExitCode
from drivefs.cli.main import COMMANDS, load, main
from drivefs.control import addresses, mounts
from drivefs.fuse import connection

NAMES = list(COMMANDS)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in [name for name in os.environ if name.startswith(("XDG_", "DRIVEFS_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["", *NAMES])
def test_help_has_examples_and_every_exit_code(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*filter(None, [name]), "--help"])
    shown = capsys.readouterr().out
    assert end.value.code == 0
    assert "examples:\n  " in shown
    for code, meaning in MEANING.items():
        assert f"  {int(code)}  {meaning}" in shown


def test_each_command_is_found_under_its_own_name() -> None:
    assert [command.name for command in load(COMMANDS)] == NAMES


def test_a_command_pays_for_its_own_imports_alone() -> None:
    script = (
        "import sys; from drivefs.cli import main\ntry: main.main(['revisions', '--help'])\nexcept SystemExit: pass\n"
        "print([name for name in sys.modules if name in ('drivefs.cli.mount', 'drivefs.cli.check', 'trio')])"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[-1] == "[]"


def test_a_mount_does_not_load_what_its_libraries_show_to_people() -> None:
    script = "import sys, drivefs.mount\nprint([name for name in ('rich', 'pygments', 'click') if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


def test_all_commands_of_the_product_are_there() -> None:
    assert {"login", "logout", "mount", "umount", "sync", "status", "file-status", "check", "cache"} < set(NAMES)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["fly"],
        ["mount"],
        ["umount", "--timeout", "-1"],
        ["snapshot", "create", ""],
        ["snapshot", "delete", "x" * 256],
        ["share", "plans", "", "--role", "editor"],
        ["unshare", "plans", "\udcff"],
        ["login", "https://drive", "--user", "\udcff"],
        ["sync", "--timeout", "soon"],
        ["cache"],
        ["mount", "/mnt", "--cache-size", "10X"],
        ["status", "--js"],
    ],
)
def test_senseless_command_lines_exit_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == ExitCode.USAGE
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "words",
    [
        ["trash", "restore", "--id", "9" * 20],
        ["trash", "restore", "--id", "9" * 5000],
        ["link", "revoke", "9" * 5000],
        ["link", "create", "x", "--expires", "999999w"],
        ["link", "create", "x", "--password", "\udcff"],
        ["link", "create", "x", "--password", "x" * 1025],
    ],
)
def test_what_nothing_can_hold_is_refused_in_a_sentence(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(drives, "containing", lambda where, path: (Mock(), b"x"))
    assert main(words) == ExitCode.USAGE
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "did not expect" not in shown.err


@pytest.mark.parametrize("words", [["status"], ["status", "--json"], ["sync", "--wait"], ["umount"]])
def test_without_a_mount_commands_say_so_on_standard_error(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == ExitCode.NOT_MOUNTED
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "no drive is mounted" in shown.err


def test_directory_that_is_no_mountpoint_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["umount", str(home)]) == ExitCode.NOT_MOUNTED
    assert str(home) in capsys.readouterr().err


def test_path_outside_of_all_drives_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["file-status", str(home / "x")]) == ExitCode.NOT_MOUNTED
    assert "not in a mounted drive" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["check"], ["cache", "show"], ["cache", "clear"], ["export", "rescued"]])
def test_what_looks_into_a_profile_says_how_to_log_in(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == ExitCode.REFUSED
    assert "drivefs login URL" in capsys.readouterr().err


def test_mountpoint_is_named_as_the_kernel_lists_it(home: Path) -> None:
    (home / "real/Drive").mkdir(parents=True)
    (home / "short").symlink_to("real")
    (home / "real/Link").symlink_to("../short/Drive")
    (home / "Circle").symlink_to("Circle")
    assert drives.resolved(str(home / "short/Link")) == str(home / "real/Drive")
    assert drives.resolved(str(home / "short/missing")) == str(home / "real/missing")
    assert drives.resolved(str(home / "Circle")) == str(home / "Circle")


def test_mounting_without_a_login_says_how_to_log_in(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mount", str(home / "Drive")]) == ExitCode.REFUSED
    assert "drivefs login" in capsys.readouterr().err


def test_a_full_disk_is_called_that(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (home / ".local/state/drivefs/default").mkdir(parents=True)
    monkeypatch.setattr("cache.repair.repair", fill)
    assert main(["check", "--repair"]) == ExitCode.FAILED
    assert "make room, then give the command again" in capsys.readouterr().err


def test_unexpected_error_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(runtime: Path) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(mounts, "mounted", fail)
    assert main(["status"]) == ExitCode.FAILED
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert "ZeroDivisionError: oh" in shown.err


def test_home_of_another_user_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(runtime: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(runtime))

    monkeypatch.setattr(mounts, "mounted", refuse)
    assert main(["status"]) == ExitCode.FAILED
    shown = capsys.readouterr().err
    assert "/drivefs is not open to you. Is HOME" in shown
    assert "did not expect" not in shown


def test_unexpected_error_shows_its_place_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(runtime: Path) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(mounts, "mounted", fail)
    monkeypatch.setenv(program.DEBUG_VARIABLE, "1")
    with pytest.raises(ZeroDivisionError):
        main(["status"])


def test_interrupt_ends_with_the_code_that_shells_expect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(runtime: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(mounts, "mounted", interrupt)
    assert main(["status"]) == 130
    assert capsys.readouterr().err == "drivefs: interrupted\n"


def pretend_mount(runtime: Path, profile: str, mountpoint: str, state: str = "/state") -> socket.socket:
    """A socket that listens and never answers, with a record beside it."""
    directory = runtime / "drivefs" / profile
    directory.mkdir(parents=True)
    listening = socket.socket(socket.AF_UNIX)
    with addresses.short_address(directory) as address:
        listening.bind(address)
    listening.listen()
    mounts.write_record(directory, mounts.MountRecord(profile, mountpoint, state, os.getpid()))
    return listening


def test_several_drives_have_to_be_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pretend_mount(home, "one", "/mnt/one"), pretend_mount(home, "two", "/mnt/two"):
        assert main(["status"]) == ExitCode.USAGE
    assert "/mnt/one, /mnt/two" in capsys.readouterr().err


def test_record_of_a_dead_mount_does_not_count(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretend_mount(home, "one", "/mnt/one").close()
    assert main(["status"]) == ExitCode.NOT_MOUNTED
    assert "no drive is mounted" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["status"], ["sync", "/mnt/one"], ["umount", "--profile", "one"], ["file-status", "/mnt/one/file"]]
)
def test_a_killed_mount_that_the_kernel_still_has_is_said_to_be_dead(
    words: list[str], home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = str(drives.places().of_profile("one").state)
    pretend_mount(home, "one", "/mnt/one", state).close()
    listed = home / "mountinfo"
    listed.write_text("90 22 0:50 / /mnt/one rw,nosuid - fuse.drivefs drivefs:one rw,user_id=0\n")
    monkeypatch.setattr(connection, "MOUNTINFO", listed)
    assert main(words) == ExitCode.NOT_MOUNTED
    assert "is dead: the process that served it was killed" in capsys.readouterr().err


def test_second_mount_of_one_place_is_refused_by_process(home: Path) -> None:
    with pretend_mount(home, "one", "/mnt/one"):
        (found,) = mounts.mounted(home / "drivefs")
    assert found.record.pid == os.getpid()


def test_program_answers_fast_because_it_imports_little() -> None:
    heavy = ["trio", "httpx", "pyfuse3", "apsw", "rich", "cache", "drivefs.remote", "drivefs.mount", "asyncio"]
    script = (
        "import sys, json\nfrom drivefs.cli.main import main\n"
        "assert main(['status']) == 4\nprint(json.dumps(sorted(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(json.loads(ended.stdout))
    assert not loaded & set(heavy)


def test_umount_looks_for_a_failed_disk_without_loading_the_cache(home: Path) -> None:
    script = (
        "import sys\nfrom types import SimpleNamespace as Some\nfrom drivefs.cli import umount\n"
        "umount._refuse_suspect(Some(mounted=Some(record=Some(state=sys.argv[1]))))\n"
        "print([name for name in ('trio', 'apsw') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", script, home], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


def test_module_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "drivefs", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith("drivefs ")


def test_output_to_a_reader_that_left_is_no_error(home: Path) -> None:
    command = f"{sys.executable} -m drivefs completion bash | true; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_cache_that_was_cleared_is_said_to_be() -> None:
    found: dict[str, object] = {"used_bytes": 24 * 1024, "limit_bytes": 10 * 2**30, "path": "/c"}
    assert cache.in_words(found, is_cleared=True) == "cleared: 24.0 KiB are left of 10.0 GiB in /c"
    assert cache.in_words(found, is_cleared=False) == "24.0 KiB of 10.0 GiB in /c"


def test_what_is_ignored_is_counted_with_its_directories() -> None:
    assert output.ignored_in_words(1) == "1 ignored file or directory"
    assert output.ignored_in_words(1200) == "1,200 ignored files and directories"


def test_names_that_others_chose_say_nothing_to_a_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    name = "a\x1b]0;b\x07\n\x9b2J\u202ec \u3000\u200d"
    output.tell(name)
    output.say(name)
    (tmp_path / "old").write_text("old\n")
    (tmp_path / "new").write_text("new\n")
    found = differences.sentence_or_lines(tmp_path / "old", tmp_path / "new", name, "new")
    told = capsys.readouterr()
    plain = "a\\x1b]0;b\\x07\\n\\x9b2J\\u202ec \u3000\u200d\n"
    assert (told.out, told.err) == (plain, f"drivefs: {plain}")
    assert found.startswith(f"--- {plain}")


def test_json_is_utf8_whatever_names_are(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    value = {"path": "é \udce9"}
    output.print_json(value)
    assert json.loads(capsysbinary.readouterr().out.decode()) == value


@pytest.mark.parametrize("words", [["diff", "x"], ["conflicts", "diff", "x"]])
def test_a_side_that_cannot_be_read_is_named(
    words: list[str], home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(path: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    for name in ("x", ".drivefs/revisions/x/1", "entry/mine", "entry/theirs"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).touch()
    revision = {"time_ns": 0, "device": "laptop"}
    told = {"revisions": [{"number": 1, **revision}, {"number": 2, **revision}], "is_changed": False, **revision}
    told |= {"path": b"x", "original": b"x", "name": b"x", "original_name": b"x", "entry": b"entry"}
    drive = Mock(mountpoint=str(home), call=Mock(return_value=told))
    monkeypatch.setattr(drives, "containing", lambda where, path: (drive, b"x"))
    monkeypatch.setattr(Path, "read_bytes", fail)
    assert main(words) == ExitCode.FAILED
    assert "cannot be read now (Input/output error)" in capsys.readouterr().err


def test_only_texts_that_are_no_lines_for_people_are_printed_as_they_are() -> None:
    """Names are in all others, and go through `output.tell`."""
    printing = Counter[str]()
    for path in Path(drives.__file__).parent.glob("*.py"):
        for call in [each for each in ast.walk(ast.parse(path.read_text())) if isinstance(each, ast.Call)]:
            is_line = "end" not in {keyword.arg for keyword in call.keywords}
            if isinstance(call.func, ast.Name) and call.func.id == "print" and is_line:
                printing[path.stem] += 1
    assert printing == {"output": 3, "fstab": 2}


@pytest.mark.parametrize(
    ("run", "module", "chosen"),
    [(pin.pin, pin, "_inodes"), (pin.unpin, pin, "_inodes"), (held.release, held, "_drive")],
)
def test_what_is_durable_when_it_is_answered_is_waited_for_on_a_slow_disk(
    run: Callable[[argparse.Namespace], int], module: ModuleType, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = Mock(call=Mock(return_value={"covered": [], "unpinned": [1], "files": 1}))
    monkeypatch.setattr(module, chosen, lambda _: (drive, {1: "path"}) if chosen == "_inodes" else drive)
    assert run(argparse.Namespace(paths=["path"], wait=False, json=False)) == ExitCode.OK
    assert drive.call.call_args.kwargs["silence_seconds"] >= pin.SILENCE_SECONDS
