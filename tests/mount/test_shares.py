"""Folders that two users see: invited, changed on both sides, read only, and ended.

Owns the lines about sharing of SEMANTICS.md.
"""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from drivefs.cli.exit_codes import ExitCode
from tests.mount.conftest import mount_options
from tests.mount.oracle import write_file
from tests.support.link import Link
from tests.support.mounts import READY_SECONDS, Device, Workbench, wait_until

MEBIBYTE = 2**20


class Two(NamedTuple):
    """The mounted devices of the owner and of another user."""

    ada: Device
    bert: Device
    link: Link
    """Between bert and the server."""

    def share(self, name: str, role: str) -> Path:
        """Have a folder of ada's in both drives; gives where bert sees it."""
        self.ada.run("share", str(self.ada.mountpoint / name), "bert", "--role", role)
        self.bert.run("invitations", "accept", name)
        wait_until("the share is there", (self.bert.mountpoint / name).exists)
        return self.bert.mountpoint / name


@pytest.fixture
def two(workbench: Workbench) -> Two:
    server = workbench.server()
    server.add_user("bert")
    link = workbench.link(server)
    users = Two(workbench.device(server), workbench.device(server, "bert", link), link)
    for device in (users.ada, users.bert):
        device.mount(*mount_options())
    return users


def fails(call: Callable[[], object]) -> int:
    with pytest.raises(OSError, match=r".") as raised:
        call()
    assert raised.value.errno is not None
    return raised.value.errno


def listed(device: Device, *command: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(device.run(*command, "--json"))
    return found


def test_a_folder_is_shared_when_it_is_accepted_and_both_sides_work_in_it(two: Two) -> None:
    """[share-invite] [share-live] [share-border] [share-name] [link]"""
    ada, bert, _ = two
    plans = ada.mountpoint / "plans"
    (plans / "sub").mkdir(parents=True)
    write_file(plans / "sub" / "old", os.urandom(300_000))
    (bert.mountpoint / "plans").mkdir()
    ada.run("share", str(plans), "bert", "--role", "editor")
    (invitation,) = listed(bert, "invitations", "list")
    assert (invitation["name"], invitation["from"], invitation["role"]) == ("plans", "ada", "editor")
    assert os.listdir(bert.mountpoint) == ["plans"]
    assert bert.command("invitations", "accept", "12345").returncode != 0
    bert.run("invitations", "accept", invitation["id"])
    wait_until("the share is there", (bert.mountpoint / "plans (2)").exists)
    theirs = bert.mountpoint / "mine"
    (bert.mountpoint / "plans (2)").rename(theirs)
    assert (theirs / "sub" / "old").read_bytes() == (plans / "sub" / "old").read_bytes()
    write_file(theirs / "new", b"bert")
    wait_until("ada sees it", (plans / "new").exists)
    write_file(plans / "new", b"ada")
    wait_until("bert sees it", lambda: (theirs / "new").read_bytes() == b"ada")
    assert [each["user"] for each in listed(bert, "revisions", str(theirs / "new"))] == ["bert", "ada"]
    made = json.loads(bert.run("link", "create", str(theirs / "new"), "--json"))
    ((link, path, user),) = ((each["id"], each["path"], each["user"]) for each in listed(ada, "link", "list"))
    assert (link, path, user) == (made["id"], "plans/new", "bert")
    assert "made by bert" in ada.run("link", "list")
    ada.run("link", "revoke", link)
    assert listed(bert, "link", "list") == []
    assert sorted(os.listdir(ada.mountpoint)) == ["plans"]
    assert fails(lambda: (theirs / "new").rename(bert.mountpoint / "out")) == errno.EXDEV
    assert fails(lambda: (bert.mountpoint / "plans").rename(theirs / "in")) == errno.EXDEV
    assert fails(lambda: os.link(plans / "new", ada.mountpoint / "linked")) == errno.EXDEV
    empty = ada.mountpoint / "empty"
    empty.mkdir()
    shared = two.share("empty", "editor")
    assert fails(shared.rmdir) == errno.EBUSY
    assert fails(lambda: (bert.mountpoint / "plans").rename(shared)) == errno.EBUSY
    assert {each["path"]: each["role"] for each in listed(bert, "shares")} == {"mine": "editor", "empty": "editor"}


def test_a_viewer_reads_and_a_role_holds_at_once(two: Two) -> None:
    """[share-viewer] [share-role] [trash-empty]"""
    ada, bert, _ = two
    (ada.mountpoint / "plans").mkdir()
    write_file(ada.mountpoint / "plans" / "file", b"content")
    theirs = two.share("plans", "editor")
    assert (theirs / "file").stat().st_mode & 0o777 == 0o644
    with (theirs / "file").open("r+b", buffering=0) as opened:
        ada.run("share", str(ada.mountpoint / "plans"), "bert", "--role", "viewer")
        wait_until("bits are off", lambda: (theirs / "file").stat().st_mode & 0o777 == 0o444)
        assert fails(lambda: opened.write(b"x")) == errno.EACCES
    assert (theirs / "file").read_bytes() == b"content"
    assert fails(lambda: (theirs / "file").write_bytes(b"x")) == errno.EACCES
    assert fails((theirs / "file").unlink) == errno.EACCES
    assert fails(lambda: (theirs / "file").chmod(0o600)) == errno.EACCES
    assert fails((theirs / "new").mkdir) == errno.EACCES
    assert fails(lambda: os.setxattr(theirs / "file", "user.x", b"x")) == errno.EACCES
    refused = bert.command("revisions", "restore", str(theirs / "file"), "1")
    assert (refused.returncode != 0, "read only" in refused.stderr) == (True, True)
    refused = bert.command("rewind", str(theirs), "--to", "2100-01-01")
    assert (refused.returncode, "not taken back: it is shared with you to be read" in refused.stderr) == (1, True)
    theirs = theirs.rename(bert.mountpoint / "called otherwise")
    ada.run("share", str(ada.mountpoint / "plans"), "bert", "--role", "editor")
    wait_until("bits are on", lambda: (theirs / "file").stat().st_mode & 0o777 == 0o644)
    write_file(theirs / "file", b"changed")
    wait_until("ada sees it", lambda: (ada.mountpoint / "plans" / "file").read_bytes() == b"changed")
    (theirs / "file").unlink()
    bert.run("sync", "--wait")
    emptied = bert.command("trash", "empty", "--yes")
    assert ("now: 0" in emptied.stdout, "1 more stay" in emptied.stderr) == (True, True)
    assert json.loads(ada.run("trash", "empty", "--yes", "--json")) == {"count": 1, "left": 0}


def test_a_save_by_rename_onto_a_shared_file_changes_it_for_all(two: Two) -> None:
    """[share-file] [share-aside]"""
    ada, bert, _ = two
    mine = ada.mountpoint / "file"
    write_file(mine, b"first")
    theirs = two.share("file", "editor")
    assert theirs.read_bytes() == b"first"
    for device, path, other, content in ((bert, theirs, mine, b"by bert"), (ada, mine, theirs, b"by ada" * 100_000)):
        with path.open("rb") as opened:
            write_file(device.mountpoint / "file.tmp", content)
            (device.mountpoint / "file.tmp").rename(path)
            assert path.read_bytes() == opened.read() == content
        assert path.stat().st_size == len(content)
        assert os.listdir(device.mountpoint) == ["file"]
        device.sync()
        wait_until("the other sees it", lambda other=other, content=content: other.read_bytes() == content)  # type: ignore[misc]
    assert [each["user"] for each in listed(bert, "revisions", str(theirs))] == ["ada", "bert", "ada"]
    aside = theirs.rename(bert.mountpoint / "before")
    write_file(theirs, b"aside")
    with theirs.open("rb") as opened:
        aside.unlink()
        assert theirs.read_bytes() == opened.read() == b"aside"
    assert (os.listdir(bert.mountpoint), theirs.stat().st_size) == (["file"], len(b"aside"))
    bert.sync()
    wait_until("the other sees it", lambda: mine.read_bytes() == b"aside")
    assert fails(theirs.unlink) == errno.EBUSY
    theirs.rename(bert.mountpoint / "elsewhere")
    ada.run("share", str(mine), "bert", "--role", "viewer")
    theirs = bert.mountpoint / "elsewhere"
    wait_until("it may only be read", lambda: theirs.stat().st_mode & 0o222 == 0)
    write_file(bert.mountpoint / "new", b"x")
    assert fails(lambda: (bert.mountpoint / "new").rename(theirs)) == errno.EACCES
    assert json.loads(bert.run("leave", str(theirs), "--json")) == {"path": str(theirs)}
    wait_until("it is gone", lambda: not theirs.exists())
    assert mine.read_bytes() == b"aside"


def test_a_save_that_keeps_a_backup_is_seen_by_all_and_the_backup_by_nobody_else(two: Two) -> None:
    """[share-aside]"""
    ada, bert, _ = two
    mine = ada.mountpoint / "file"
    write_file(mine, b"first")
    theirs = two.share("file", "editor")
    for device, path, other, content in ((bert, theirs, mine, b"by bert"), (ada, mine, theirs, b"by ada")):
        before = path.read_bytes()
        with path.open("rb", buffering=0) as held:
            aside = path.rename(device.mountpoint / "file~")
            with path.open("xb", buffering=0) as made:
                made.write(content[:3])
                assert (aside.read_bytes(), held.read()) == (before, before)
                assert os.fstat(held.fileno()).st_ino == aside.stat().st_ino != path.stat().st_ino
                made.write(content[3:])
                path.chmod(0o644)
            assert (path.read_bytes(), path.stat().st_size) == (content, len(content))
        assert sorted(os.listdir(device.mountpoint)) == ["file", "file~"]
        device.sync()
        wait_until("the other sees it", lambda other=other, content=content: other.read_bytes() == content)  # type: ignore[misc]
    assert [each["user"] for each in listed(ada, "revisions", str(mine))] == ["ada", "bert", "ada"]
    for device, path, before in ((ada, mine, b"by bert"), (bert, theirs, b"first")):
        device.umount()
        device.mount(*mount_options())
        assert (path.read_bytes(), path.with_name("file~").read_bytes()) == (b"by ada", before)
    ada.run("share", str(mine), "bert", "--role", "viewer")
    wait_until("it may only be read", lambda: theirs.stat().st_mode & 0o222 == 0)
    aside = theirs.rename(bert.mountpoint / "file.old")
    assert fails(lambda: theirs.write_bytes(b"x")) == errno.EACCES
    aside.rename(theirs)
    assert theirs.read_bytes() == b"by ada"


def test_what_was_carried_across_while_it_was_shared_is_where_it_was(workbench: Workbench, two: Two) -> None:
    """[share-meanwhile]"""
    ada = two.ada
    link = workbench.link(ada.server)
    other = workbench.device(ada.server, "ada", link)
    root, theirs = ada.mountpoint, other.mount(*mount_options())
    (root / "plans" / "sub").mkdir(parents=True)
    write_file(root / "plans" / "file", b"content")
    write_file(root / "outside", b"outside")
    wait_until("all is there", lambda: (theirs / "plans" / "file").exists() and (theirs / "outside").exists())
    link.cut()
    (theirs / "plans" / "file").rename(theirs / "out")
    (theirs / "outside").rename(theirs / "plans" / "in")
    (theirs / "plans" / "sub").rename(theirs / "sub")
    write_file(theirs / "plans" / "new", b"made there")
    shared = two.share("plans", "editor")
    link.restore()
    wait_until("what was made there comes", lambda: (shared / "new").exists())
    wait_until("all is settled", lambda: other.status()["pending"]["mutations"] == 0)
    for each in (root, theirs):
        wait_until("it shows that", lambda each=each: sorted(os.listdir(each)) == ["outside", "plans"])
        wait_until("and that", lambda each=each: sorted(os.listdir(each / "plans")) == ["file", "new", "sub"])
    assert "shared meanwhile" in other.run("status")


def in_lost_and_found(device: Device) -> set[bytes]:
    return {path.read_bytes() for path in device.home.rglob("lost+found/*") if path.is_file()}


@pytest.mark.fault(54)
@pytest.mark.parametrize("is_over", [True, False], ids=["unshared", "viewer"])
def test_what_was_not_sent_when_sharing_ends_is_kept_on_the_device(two: Two, is_over: bool) -> None:
    """[share-ended]"""
    ada, bert, link = two
    (ada.mountpoint / "plans").mkdir()
    write_file(ada.mountpoint / "plans" / "file", b"content")
    theirs = two.share("plans", "editor")
    assert (theirs / "file").read_bytes() == b"content"
    bert.sync()
    link.cut()
    write_file(theirs / "file", b"changed without a network")
    write_file(theirs / "new", b"made without a network")
    write_file(bert.mountpoint / "own", b"not shared")
    plans = str(ada.mountpoint / "plans")
    if is_over:
        assert json.loads(ada.run("unshare", plans, "bert", "--json")) == {"path": plans, "user": "bert"}
    else:
        ada.run("share", plans, "bert", "--role", "viewer")
    link.restore()
    if is_over:
        wait_until("the share is gone", lambda: not theirs.exists())
    expected = {b"changed without a network", b"made without a network"}
    wait_until("what was written is kept", lambda: in_lost_and_found(bert) >= expected)
    # What is there is given up a moment later: before this, or meanwhile.
    assert bert.command("sync", "--wait").returncode in (ExitCode.OK, ExitCode.REFUSED)
    assert "lost+found" in bert.run("status")
    assert (bert.mountpoint / "own").read_bytes() == b"not shared"
    assert sorted(os.listdir(bert.mountpoint)) == (["own"] if is_over else ["own", "plans"])
    if not is_over:
        wait_until("what the server has is shown", lambda: (theirs / "file").read_bytes() == b"content")
        wait_until("and no more", lambda: os.listdir(theirs) == ["file"])
    assert (ada.mountpoint / "plans" / "file").read_bytes() == b"content"
    assert os.listdir(ada.mountpoint / "plans") == ["file"]


def got(url: str, *login: str) -> httpx.Response:
    return httpx.get(url, auth=(login[0], login[1]) if login else None, timeout=READY_SECONDS)


def test_a_link_gives_a_file_to_whoever_has_the_address(workbench: Workbench) -> None:
    """[link]"""
    ada = workbench.device(workbench.server())
    root = ada.mount(*mount_options())
    write_file(root / "report", b"first")
    made = json.loads(
        ada.run("link", "create", str(root / "report"), "--expires", "7d", "--password", "open", "--json")
    )
    assert ada.command("link", "create", str(root / "report"), "--expires", "yesterday").returncode == 2
    assert got(made["url"]).status_code == 401
    assert got(made["url"], "", "wrong").status_code == 401
    assert got(made["url"], "", "open").content == b"first"
    write_file(root / "new", b"second")
    (root / "new").rename(root / "report")
    (root / "report").rename(root / "moved")
    ada.sync()
    found = got(made["url"], "anybody", "open")
    assert (found.content, found.headers["content-disposition"].split("''")[1]) == (b"second", "moved")
    open_one = ada.run("link", "create", str(root / "moved")).strip()
    assert got(open_one).content == b"second"
    links = {each["id"]: each for each in listed(ada, "link", "list")}
    assert links[made["id"]]["path"] == "moved"
    ada.run("link", "revoke", made["id"])
    assert got(made["url"], "", "open").status_code == 404
    (root / "moved").unlink()
    ada.sync()
    assert got(open_one).status_code == 404


def test_a_share_is_taken_back_with_its_folder_but_never_removed_or_tried_in_vain(two: Two) -> None:
    """[rewind-shares]"""
    ada, bert, _ = two
    for name in ("plans", "seen", "late"):
        (ada.mountpoint / name).mkdir()
        write_file(ada.mountpoint / name / "file", b"first")
    box = bert.mountpoint / "box"
    box.mkdir()
    for name, role in (("plans", "editor"), ("seen", "viewer")):
        os.rename(two.share(name, role), box / name)
        wait_until("it is here", (box / name / "file").exists)
    write_file(box / "own", b"first")
    bert.run("snapshot", "create", "then")
    (box / "new").mkdir()
    os.rename(two.share("late", "editor"), box / "new" / "late")
    for path in ("own", "plans/file", "new/late/file"):
        write_file(box / path, b"second")
    write_file(ada.mountpoint / "seen" / "file", b"second")
    wait_until("it is here", lambda: (box / "seen" / "file").read_bytes() == b"second")
    ended = bert.command("rewind", str(box), "--to", "then")
    assert ended.returncode == 0, ended.stderr
    assert "late is as it was" in ended.stderr
    assert "seen is as it was" in ended.stderr
    bert.run("sync", "--wait")
    now = {path: (box / path).read_bytes() for path in ("own", "plans/file", "seen/file", "new/late/file")}
    assert now == {"own": b"first", "plans/file": b"first", "seen/file": b"second", "new/late/file": b"second"}
    # It was so at first, too: what was written after that has to have come.
    wait_until("the owner has that", lambda: (ada.mountpoint / "late" / "file").read_bytes() == b"second")
    wait_until("and this", lambda: (ada.mountpoint / "plans" / "file").read_bytes() == b"first")


def test_room_in_a_share_is_its_owners_and_names_outside_are_other_files(workbench: Workbench, two: Two) -> None:
    """[share-room] [share-links]"""
    ada, bert, _ = two
    (server,) = workbench.servers
    mine, outside = ada.mountpoint / "plans" / "file", ada.mountpoint / "outside"
    mine.parent.mkdir()
    write_file(mine, b"content")
    outside.hardlink_to(mine)
    ada.sync()
    server.command("user", "set", "ada", "--quota", "3M")
    theirs = two.share("plans", "editor")
    wait_until("they are two", lambda: outside.stat().st_ino != mine.stat().st_ino)
    wait_until("with a name each", lambda: outside.stat().st_nlink == mine.stat().st_nlink == 1)
    assert outside.read_bytes() == b"content"
    write_file(theirs / "file", b"by bert")
    wait_until("ada sees it", lambda: mine.read_bytes() == b"by bert")
    assert outside.read_bytes() == b"content"
    write_file(theirs / "first", os.urandom(2 * MEBIBYTE))
    bert.sync()
    assert fails(lambda: (theirs / "second").write_bytes(os.urandom(2 * MEBIBYTE))) == errno.EDQUOT
    assert any("ada" in each and "EDQUOT" in each for each in bert.status()["attention"])
    write_file(bert.mountpoint / "mine", os.urandom(4 * MEBIBYTE))
    bert.sync()
    server.command("user", "set", "ada", "--quota", "90M")

    def is_written() -> bool:
        try:
            write_file(theirs / "second", os.urandom(2 * MEBIBYTE))
        except OSError as error:
            if error.errno != errno.EDQUOT:
                raise
            return False
        return True

    wait_until("the room is known", is_written)
    assert not any("ada" in each for each in bert.status()["attention"])
    wait_until("ada has it", lambda: (ada.mountpoint / "plans" / "second").stat().st_size == 2 * MEBIBYTE)
