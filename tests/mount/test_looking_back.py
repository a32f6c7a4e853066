"""Looking back on a real mount: revisions and past times, by commands and as files.

Owns the promises about revisions, snapshots and past times in SEMANTICS.md.
"""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from drivefs.cli.exit_codes import ExitCode
from drivefs.protocol.times import iso_time
from tests.mount.conftest import mount_options
from tests.mount.oracle import snapshot, write_file
from tests.support.mounts import Device, Workbench

CONTENTS = [b"one\n", b"one\ntwo\n", b"one\n2\n"]


@pytest.fixture
def place(shared_device: Device, request: pytest.FixtureRequest) -> Path:
    """A directory of the test's own on the shared drive."""
    made = shared_device.mountpoint / f"looking-back-{request.node.name}"
    made.mkdir()
    return made


def listed(device: Device, path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(device.run("revisions", str(path), "--json"))
    return found


def history(device: Device, path: Path) -> Path:
    return device.mountpoint / ".drivefs/revisions" / path.relative_to(device.mountpoint)


def written(device: Device, path: Path) -> Path:
    """A file with three revisions, the last of them saved by rename."""
    for content in CONTENTS[:2]:
        write_file(path, content)
        device.sync()
    aside = path.with_name(f".{path.name}.swp")
    write_file(aside, CONTENTS[2])
    os.rename(aside, path)
    return path


def now(device: Device) -> str:
    """A time between what was done and what will be done; the server's clock is this machine's."""
    device.sync()
    found = iso_time(time.time_ns())
    time.sleep(0.001)
    return found


def test_each_content_is_a_revision_that_can_be_listed_read_and_compared(shared_device: Device, place: Path) -> None:
    """[revisions] [revision-files] [revision-diff]"""
    note = written(shared_device, place / "note.txt")
    found = listed(shared_device, note)
    assert [(each["number"], each["size"]) for each in found] == [(1, 4), (2, 8), (3, 6)]
    assert {(each["device"], each["user"]) for each in found} == {(shared_device.name, "ada")}
    assert sorted(each["time"] for each in found) == [each["time"] for each in found]
    entries = sorted(os.listdir(history(shared_device, note)))
    assert [int(name[:6]) for name in entries] == [1, 2, 3]
    assert all(shared_device.name in name and name.endswith(".txt") for name in entries)
    assert [(history(shared_device, note) / name).read_bytes() for name in entries] == CONTENTS
    assert (history(shared_device, note) / "2").stat().st_size == 8
    with pytest.raises(PermissionError):
        (history(shared_device, note) / "2").write_bytes(b"x")
    text = shared_device.run("diff", str(note), "1", "2")
    assert text.splitlines()[2:] == ["@@ -1 +1,2 @@", " one", "+two"]
    told = json.loads(shared_device.run("diff", str(note), "--json"))
    assert (told["old"], told["new"], told["old_size"], told["new_size"]) == (2, None, 8, 6)
    assert "-two\n+2\n" in told["diff"]
    for words in (["revisions"], ["activity"], ["file-status"], ["pin"], ["notifications", "--mute"]):
        refused = shared_device.command(*words, str(shared_device.mountpoint / ".drivefs/status"))
        assert (refused.returncode, "only shows what is in the drive" in refused.stderr) == (1, True), words


def test_other_contents_are_compared_by_blocks(shared_device: Device, place: Path) -> None:
    """[revision-diff]"""
    picture = place / "picture.raw"
    content = random.Random(1).randbytes(3 * 2**20)  # several blocks
    write_file(picture, content)
    shared_device.sync()
    with picture.open("r+b") as file:
        file.write(b"another beginning")
    told = json.loads(shared_device.run("diff", str(picture), "1", "--json"))
    assert told["diff"] is None
    assert told["old_size"] == told["new_size"] == len(content) > told["same_size"] > 0
    assert "in common" in shared_device.run("diff", str(picture))


def test_restoring_and_keeping_a_revision(shared_device: Device, place: Path) -> None:
    """[revision-restore] [revision-keep]"""
    note = written(shared_device, place / "note.txt")
    number, reader = note.stat().st_ino, os.open(note, os.O_RDONLY)
    assert os.pread(reader, 100, 0) == CONTENTS[2]
    write_file(place / "unsent", b"x")
    told = json.loads(shared_device.run("revisions", "restore", str(note), "2", "--json"))
    assert told == {"path": str(note), "restored": 2, "revision": 4}
    assert note.read_bytes() == os.pread(reader, 100, 0) == CONTENTS[1]
    assert note.stat().st_ino == number
    os.close(reader)
    # What was not a revision yet is one before something takes its place.
    write_file(note, b"just written")
    shared_device.run("revisions", "restore", str(note), "1")
    assert note.read_bytes() == CONTENTS[0]
    assert [each["size"] for each in listed(shared_device, note)] == [4, 8, 6, 8, 12, 4]
    shared_device.run("revisions", "keep", str(note), "3")
    assert [each["number"] for each in listed(shared_device, note) if each["kept"]] == [3]
    shared_device.run("revisions", "unkeep", str(note), "3")
    assert not [each for each in listed(shared_device, note) if each["kept"]]
    for words, said in ((("restore", str(note), "99"), "no revision 99"), (("restore", str(place), "1"), "directory")):
        done = shared_device.command("revisions", *words)
        assert (done.returncode, done.stdout) == (ExitCode.FAILED, "")
        assert said in done.stderr
    assert shared_device.command("revisions", "restore", str(note), "x").returncode == ExitCode.USAGE
    assert shared_device.command("revisions", "restore", str(note)).returncode == ExitCode.USAGE


def test_the_whole_tree_as_it_was_is_there_for_ordinary_tools(
    shared_device: Device, place: Path, tmp_path: Path
) -> None:
    """[past-tree]"""
    (place / "sub/empty").mkdir(parents=True)
    written(shared_device, place / "note.txt")
    write_file(place / "sub/large", os.urandom(700_000))
    os.symlink("note.txt", place / "link")
    os.link(place / "note.txt", place / "sub/hard")
    (place / "sub/large").chmod(0o640)
    moment = now(shared_device)
    shutil.copytree(place, tmp_path / "copy", symlinks=True)
    write_file(place / "note.txt", b"changed")
    os.rename(place / "sub/large", place / "renamed")
    os.unlink(place / "link")
    shutil.rmtree(place / "sub")
    write_file(place / "new", b"new")
    shared_device.sync()
    past = shared_device.mountpoint / ".drivefs/at" / moment / place.name
    assert subprocess.run(["diff", "-r", "--no-dereference", past, tmp_path / "copy"], check=False).returncode == 0
    subprocess.run(["cp", "-r", past, tmp_path / "again"], check=True)
    assert sorted(snapshot(tmp_path / "again")) == sorted(snapshot(tmp_path / "copy"))
    found = subprocess.run(["find", past, "-type", "f"], check=True, capture_output=True, text=True).stdout
    assert sorted(Path(line).name for line in found.split()) == ["hard", "large", "note.txt"]
    assert os.readlink(past / "link") == "note.txt"
    assert (past / "sub/large").stat().st_mode & 0o777 == 0o440
    with pytest.raises(FileNotFoundError):
        (past / "new").stat()
    for change in (lambda: (past / "x").mkdir(), lambda: (past / "note.txt").unlink()):
        with pytest.raises(PermissionError):
            change()
    assert (shared_device.mountpoint / ".drivefs/at" / iso_time(time.time_ns()) / place.name / "new").exists()
    for nothing in ("1999-01-01", "not a time", "1950-01-01T00:00:00Z"):
        with pytest.raises(FileNotFoundError):
            os.stat(shared_device.mountpoint / ".drivefs/at" / nothing)


def trash(device: Device, place: Path) -> list[dict[str, Any]]:
    """What was removed below a directory."""
    found: list[dict[str, Any]] = json.loads(device.run("trash", "list", str(device.mountpoint), "--json"))
    return [each for each in found if Path(each["path"]).is_relative_to(place)]


def test_what_was_removed_is_listed_readable_and_comes_back(shared_device: Device, place: Path, tmp_path: Path) -> None:
    """[trash] [trash-files] [trash-restore] [trash-empty]"""
    tree = place / "tree"
    (tree / "sub/empty").mkdir(parents=True)
    note = written(shared_device, tree / "note.txt")
    write_file(tree / "sub/large", os.urandom(300_000))
    os.symlink("note.txt", tree / "link")
    (tree / "sub").chmod(0o750)
    shared_device.sync()  # what never left the device is nowhere once it is removed
    before, history_before = snapshot(tree), listed(shared_device, note)
    shutil.copytree(tree, tmp_path / "copy", symlinks=True)
    shutil.rmtree(tree)
    shared_device.sync()
    (entry,) = trash(shared_device, place)
    assert (entry["path"], entry["kind"]) == (str(tree), "directory")
    assert (entry["device"], entry["user"]) == (shared_device.name, "ada")
    shown = shared_device.mountpoint / ".drivefs/trash/tree"
    assert subprocess.run(["diff", "-r", "--no-dereference", shown, tmp_path / "copy"], check=False).returncode == 0
    with pytest.raises(PermissionError):
        (shown / "note.txt").unlink()
    told = json.loads(shared_device.run("trash", "restore", str(tree), "--json"))
    assert told == [{"path": str(tree), "files": 3}]
    assert snapshot(tree) == before
    assert listed(shared_device, note) == history_before
    assert trash(shared_device, place) == []
    # A name that something else has by now stays with that; what lies deep in a removed tree can come back alone.
    note.unlink()
    note.mkdir()  # a file that is made where one was just now goes on with its history
    shared_device.sync()
    shared_device.run("trash", "restore", str(note))
    assert (note.is_dir(), (tree / "note (restored).txt").read_bytes()) == (True, CONTENTS[2])
    shutil.rmtree(tree)
    shared_device.sync()
    shared_device.run("trash", "restore", str(tree / "sub/large"))
    assert os.listdir(tree / "sub") == ["large"]
    assert shared_device.command("trash", "empty", str(shared_device.mountpoint)).returncode == ExitCode.USAGE
    assert trash(shared_device, place)
    told = json.loads(shared_device.run("trash", "empty", str(shared_device.mountpoint), "--yes", "--json"))
    assert told["count"] > 0
    assert json.loads(shared_device.run("trash", "list", str(shared_device.mountpoint), "--json")) == []
    assert (tree / "sub/large").stat().st_size == 300_000
    done = shared_device.command("trash", "restore", str(place / "never"))
    assert (done.returncode, done.stdout) == (ExitCode.FAILED, "")
    assert "not in the trash" in done.stderr
    assert shared_device.command("trash", "restore").returncode == ExitCode.USAGE


def test_a_snapshot_keeps_what_there_was_and_a_folder_goes_back_to_it(shared_device: Device, place: Path) -> None:
    """[snapshot] [rewind]"""
    (place / "sub").mkdir()
    note = written(shared_device, place / "note.txt")
    write_file(place / "sub/gone", b"gone")
    write_file(place / "sub/moved", b"moved")
    number = (place / "sub/gone").stat().st_ino
    made = json.loads(shared_device.run("snapshot", "create", "back then", "--json"))
    assert (made["name"], made["device"], made["whole"]) == ("back then", shared_device.name, True)
    before = snapshot(place, times=True)
    reader = os.open(note, os.O_RDONLY)
    write_file(note, b"changed")
    (place / "sub/gone").unlink()
    os.rename(place / "sub/moved", place / "elsewhere")
    write_file(place / "new", b"new")
    shared_device.sync()
    shared_device.run("trash", "empty", "--yes")
    then = Path(made["path"]) / place.name
    assert os.listdir(shared_device.mountpoint / ".drivefs/at") == ["back then"]
    assert ((then / "note.txt").read_bytes(), (then / "sub/gone").read_bytes()) == (CONTENTS[2], b"gone")
    after = snapshot(place, times=True)
    told = json.loads(shared_device.run("rewind", str(place), "--to", "back then", "--json"))
    assert {name: told[name] for name in ("changed", "moved", "restored", "removed", "lost", "busy")} == {
        "changed": 1, "moved": 1, "restored": 1, "removed": 1, "lost": [], "busy": []
    }  # fmt: skip
    assert snapshot(place, times=True) == before
    assert ((place / "sub/gone").stat().st_ino, os.pread(reader, 100, 0)) == (number, CONTENTS[2])
    os.close(reader)
    assert [each["size"] for each in listed(shared_device, note)][-2:] == [7, 6]
    shared_device.run("rewind", str(place), "--to", told["before"])
    assert snapshot(place, times=True) == after
    assert [each["name"] for each in json.loads(shared_device.run("snapshot", "list", "--json"))] == ["back then"]
    shared_device.run("snapshot", "delete", "back then")
    assert os.listdir(shared_device.mountpoint / ".drivefs/at") == []
    for words in (("rewind", str(place), "--to", "back then"), ("snapshot", "delete", "back then")):
        done = shared_device.command(*words)
        assert (done.returncode, done.stdout) == (ExitCode.FAILED, "")
    assert shared_device.command("snapshot", "create", "2026-01-01").returncode == ExitCode.FAILED


def test_old_revisions_go_but_those_that_something_holds(workbench: Workbench) -> None:
    """[retention]"""
    server = workbench.server()
    device = workbench.device(server)
    root = device.mount(*mount_options())
    note = root / "note"
    for number in range(6):
        write_file(note, b"content %d" % number)
        device.sync()
        if number == 2:
            device.run("snapshot", "create", "named")
            time.sleep(0.01)
    device.run("revisions", "keep", str(note), "2")
    moment = now(device)
    device.umount()
    server.stop()
    # All of it was two years ago.
    with sqlite3.connect(server.data / "metadata.db") as database:
        database.execute("UPDATE commits SET time_ns = time_ns - ?", [2 * 365 * 86400 * 10**9])
        database.execute("UPDATE snapshots SET time_ns = time_ns - ?", [2 * 365 * 86400 * 10**9])
        database.execute("UPDATE devices SET last_seen_ns = 1")
    database.close()
    server.start()
    told = json.loads(server.command("maintain", "--dry-run", "--json").stdout)["revisions"]
    assert (told["let_go"], told["left"], told["bytes"]) == (3, 3, 3 * 9)
    device.mount(*mount_options())
    assert [each["number"] for each in listed(device, note)] == [1, 2, 3, 4, 5, 6]
    assert json.loads(server.command("maintain", "--json").stdout)["revisions"] == told
    assert [each["number"] for each in listed(device, note)] == [2, 3, 6]
    assert (root / ".drivefs/at/named/note").read_bytes() == b"content 2"
    assert (root / ".drivefs/at" / moment / "note").read_bytes() == note.read_bytes() == b"content 5"
    assert device.command("revisions", "restore", str(note), "4").returncode == ExitCode.FAILED
    device.run("revisions", "restore", str(note), "3")
    assert note.read_bytes() == b"content 2"
    device.umount()
    server.assert_sound()
