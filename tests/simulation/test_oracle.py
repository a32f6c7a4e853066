"""The oracle sees what is wrong: most of what is compared here is no drive that commits could have made."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import trio

from drivefs.fs.errors import NotFound
from drivefs.protocol.changes import Create, Exchange, Rename, SetXattr
from drivefs.protocol.conflicts import CONFLICT_XATTR, ConflictMark, encode_mark
from drivefs.protocol.ids import NO_INODE, InodeId, OpNumber, RevisionNumber
from drivefs.protocol.model import InodeKind, InodeState
from tests.backend.service.drive import open_drive
from tests.simulation.agreement import states, tables_differ, views_differ
from tests.simulation.conflict_copies import RefusedNames, look_for_needless
from tests.simulation.ended_shares import is_without, kept_in_part, wrong_there
from tests.simulation.kept_here import is_covered, is_of_drive, was_sent
from tests.simulation.ledger import Ledger
from tests.simulation.oracle import Oracle, Violated, _compare_replica, _compare_view, _is_of
from tests.simulation.sequence import Marked, Sequence, Sort, Tree
from tests.simulation.server import account
from tests.simulation.turns import Shown, difference

ROOT, FILE, TWIN = InodeId(1), InodeId(2**21), InodeId(2**21 + 1)
STATE = InodeState(inode=FILE, kind=InodeKind.FILE, mode=0o644, mtime_ns=1, ctime_ns=1)


def test_what_the_tables_have_is_what_the_commits_make(tmp_path: Path) -> None:
    async def run() -> tuple[InodeId, dict[str, str]]:
        drive = await open_drive(tmp_path)
        root = next(iter(await drive.database.read(states)))
        trees = {
            "right": Tree(root, {root: Sort(InodeKind.DIRECTORY, 0o755)}),
            "mode": Tree(root, {root: Sort(InodeKind.DIRECTORY, 0o700)}),
            "name": Tree(
                root, {root: Sort(InodeKind.DIRECTORY, 0o755), FILE: Sort(InodeKind.FILE, 0)}, {(root, b"a"): FILE}
            ),
        }
        found = {what: await drive.database.read(tables_differ, tree) for what, tree in trees.items()}
        drive.database.close()
        return root, found

    root, found = trio.run(run)
    assert found.pop("right") == ""
    assert "448" in found["mode"]
    assert f"({root}, b'a') as None" in found["name"]


@pytest.mark.parametrize("field", ["mtime_ns", "ctime_ns", "uid", "gid", "rdev", "revision", "size", "mode", "xattrs"])
def test_a_device_shows_each_attribute_as_the_server_has_it(field: str) -> None:
    assert not views_differ("anna", {"a": STATE}, {FILE: msgspec.structs.replace(STATE, atime_ns=7)}, {})
    changed = msgspec.structs.replace(STATE, **{field: {b"a": b""} if field == "xattrs" else 5})
    assert views_differ("anna", {"a": STATE}, {FILE: changed}, {})


def test_a_content_may_show_the_number_of_its_store_while_only_the_answer_to_a_move_gave_it_another() -> None:
    renumbered = {FILE: msgspec.structs.replace(STATE, revision=RevisionNumber(STATE.revision + 2))}
    assert not views_differ("anna", {"a": STATE}, renumbered, {FILE: renumbered[FILE].revision})
    assert views_differ("anna", {"a": STATE}, renumbered, {FILE: RevisionNumber(STATE.revision + 1)})
    assert views_differ("anna", {"a": STATE}, renumbered, {TWIN: renumbered[FILE].revision})


def test_a_name_leads_to_the_inode_that_it_has_and_to_no_twin() -> None:
    tree = Tree(ROOT, {ROOT: Sort(InodeKind.DIRECTORY, 0o755)})
    tree.inodes |= {inode: Sort(InodeKind.FILE, 0o644) for inode in (FILE, TWIN)}
    tree.names |= {(ROOT, b"a"): FILE, (ROOT, b"b"): TWIN}
    root = InodeState(inode=ROOT, kind=InodeKind.DIRECTORY, mode=0o755, nlink=2)
    twin = msgspec.structs.replace(STATE, inode=TWIN)
    _compare_view("anna", {"": root, "a": STATE, "b": twin}, tree)
    with pytest.raises(Violated, match="I2"):
        _compare_view("anna", {"": root, "a": twin, "b": STATE}, tree)


def test_a_revision_that_is_a_part_of_what_was_written_is_missed_although_it_was_replaced() -> None:
    oracle = Oracle(account())
    oracle.ledger.wrote("anna", b"whole")
    oracle._look_at_contents({b"1": b"whole"})
    with pytest.raises(Violated, match="I1"):
        oracle._look_at_contents({b"1": b"whole", b"2": b"who"})


def test_what_nobody_wrote_over_is_the_content_of_a_file() -> None:
    oracle = Oracle(account())
    oracle.ledger.wrote("anna", b"first")
    oracle.ledger.wrote("bert", b"second", b"first")
    oracle._look_for_lost({b"first", b"second"}, [], {}, is_forgetful=False)
    with pytest.raises(Violated, match=r"I1.*first"):
        oracle._look_for_lost({b"second"}, [], {}, is_forgetful=False)
    oracle.ledger.gave_up(b"first")
    oracle._look_for_lost({b"second"}, [], {}, is_forgetful=False)


def test_a_device_that_was_shown_a_commit_which_is_gone_is_seen() -> None:
    async def read(_: object) -> None:
        pass

    server: Any = SimpleNamespace(is_up=True, ground=SimpleNamespace(database=SimpleNamespace(read=read)))
    device: Any = SimpleNamespace(name="anna", is_mounted=True, seq=20, login=account().logins["anna"], came_of={})
    with pytest.raises(Violated, match="anna was shown commit 20"):
        trio.run(Oracle(account()).look, server, [device])


@pytest.mark.parametrize("is_complete", [False, True])
def test_a_directory_that_is_known_in_part_has_no_other_names(*, is_complete: bool) -> None:
    tree = Tree(ROOT, {ROOT: Sort(InodeKind.DIRECTORY, 0o755)})
    tree.inodes |= {inode: Sort(InodeKind.FILE, 0o644) for inode in (FILE, TWIN)}
    tree.names |= {(ROOT, b"a"): FILE, (ROOT, b"b"): TWIN}

    def compare(*names: tuple[bytes, InodeId]) -> None:
        replica = SimpleNamespace(is_complete=lambda _: is_complete, names=lambda _: names, inode=lambda _: None)
        device: Any = SimpleNamespace(name="anna", local=SimpleNamespace(replica=replica))
        _compare_replica(device, tree, 1)

    compare((b"a", FILE), (b"b", TWIN))
    for wrong in ([(b"a", TWIN)], [(b"c", FILE)], *([[(b"a", FILE)]] if is_complete else [])):
        with pytest.raises(Violated, match="I4"):
            compare(*wrong)


def test_what_a_call_is_refused_stays() -> None:
    ledger = Ledger()
    ledger.wrote("anna", b"one")
    ledger.wrote("anna", b"other")

    def refused() -> None:
        with ledger.giving_up(b"one"):
            raise NotFound

    with pytest.raises(NotFound):
        refused()
    with ledger.giving_up(b"other"):
        pass
    assert ledger.owed() == {b"one"}


def test_a_program_reads_what_some_program_wrote() -> None:
    ledger = Ledger()
    ledger.wrote("anna", b"whole")
    ledger.read(b"whole")
    with pytest.raises(AssertionError, match="which no program wrote"):
        ledger.read(b"who")


def test_what_is_left_of_two_files_that_were_cut_says_nothing_of_what_led_to_it() -> None:
    ledger = Ledger()
    for written, left, then in ((b"anna 1", b"anna", b"bert 2"), (b"anna 3", b"anna", b"carl 4")):
        ledger.wrote("anna", written)
        ledger.cut("bert", left, written)
        ledger.wrote("bert", then, left, written)
    assert ledger.led_to(b"anna 1", b"bert 2")
    assert ledger.led_to(b"anna 3", b"carl 4")
    assert not ledger.led_to(b"anna 3", b"bert 2")
    assert not ledger.led_to(b"anna", b"bert 2")


def test_what_has_another_name_when_it_is_replaced_is_gone_only_once_it_loses_that() -> None:
    ledger = Ledger()
    ledger.wrote("anna", b"one")
    for before, content in ((b"one", b"two"), (b"two", b"three")):
        ledger.wrote("anna", content, before)
    ledger.stays(b"one", b"two")
    assert ledger.led_to(b"one", b"three")
    assert not ledger.led_to(b"one", b"three", gone=True)
    assert ledger.led_to(b"two", b"three", gone=True)
    ledger.gave_up(b"one")
    assert ledger.led_to(b"one", b"three", gone=True)


def test_a_name_that_devices_keep_is_made_on_the_server_for_a_conflict_copy_only() -> None:
    made = Create(
        n=OpNumber(1), after=[], time_ns=1, inode=FILE, parent=ROOT, name=b"c~", kind=InodeKind.FILE, mode=0o644
    )
    marks = [
        SetXattr(n=OpNumber(2), after=[], time_ns=1, inode=inode, name=CONFLICT_XATTR, value=b"")
        for inode in (FILE, TWIN)
    ]
    assert was_sent([made])
    assert was_sent([made, marks[1]])
    assert not was_sent([made, marks[0]])


def test_what_stands_for_a_file_of_the_drive_is_one_and_what_stands_for_another_is_not() -> None:
    tree = Tree(ROOT, {ROOT: Sort(InodeKind.DIRECTORY, 0), FILE: Sort(InodeKind.FILE, 0)})
    fresh, last = InodeId(TWIN + 1), InodeId(TWIN + 2)
    assert is_of_drive(last, {last: fresh, fresh: FILE}, tree)
    assert not is_of_drive(last, {last: fresh, fresh: TWIN}, tree)
    assert not is_of_drive(FILE, {}, tree)


def test_a_part_has_nothing_that_was_not_written() -> None:
    assert _is_of(b"\0\0cd", b"abcd")
    assert not any(_is_of(part, b"abcd") for part in (b"\0\0\0\0", b"cd", b"\0\0ce", b"abcde"))


def test_what_was_written_over_another_content_is_there_where_only_the_other_one_is_lacking() -> None:
    assert is_without(b"\0\0C\0\0\0x", b"abCd\0\0x", b"abcd")
    wrong = [b"ab\0d\0\0x", b"\0\0C\0\0\0\0", b"\0\0C\0", b"xbCd\0\0x", b"\0\0\0\0\0\0\0"]
    assert not any(is_without(part, b"abCd\0\0x", b"abcd") for part in wrong)
    assert not is_without(b"\0\0C", b"abC", b"xyc")


@pytest.mark.parametrize("has_left", [False, True])
def test_only_of_a_share_that_ended_a_part_is_enough(tmp_path: Path, *, has_left: bool) -> None:
    ledger, part = Ledger(), tmp_path / "part"
    ledger.wrote("anna", b"base")
    ledger.wrote("bert", b"Mine and base", b"base")
    ledger.wrote("bert", b"baSe", b"base")
    part.write_bytes(b"\0\0S\0")
    stored = {(FILE, 1): b"packed"}
    orders: Any = SimpleNamespace(
        ever_left=lambda _: {FILE} if has_left else {TWIN}, sequence=SimpleNamespace(stored=stored)
    )
    for name, found in (("bert", {b"baSe"}), ("anna", set())):
        device: Any = SimpleNamespace(name=name, login=account().logins[name], lost_and_found=lambda: [part])
        missing = kept_in_part({b"Mine and base", b"baSe"}, device, orders, ledger, {b"packed": b"base"})
        assert missing == (found if has_left else set())


def test_what_nobody_is_told_of_any_more_is_as_it_was_at_some_time() -> None:
    first = Tree(
        ROOT, {ROOT: Sort(InodeKind.DIRECTORY, 0o755), FILE: Sort(InodeKind.FILE, 0o644)}, {(ROOT, b"a"): FILE}
    )
    later = first.copy()
    later.inodes[FILE] = Sort(InodeKind.FILE, 0o600)
    orders: Any = SimpleNamespace(tree=lambda _, seq: {1: first, 2: later}[seq])

    def wrong(mode: int, seq: int) -> str:
        state = msgspec.structs.replace(STATE, mode=mode)
        replica = SimpleNamespace(inode=lambda _: state, names=lambda _: {}, is_complete=lambda _: False)
        device: Any = SimpleNamespace(
            name="anna", login=account().logins["anna"], local=SimpleNamespace(replica=replica)
        )
        return wrong_there(device, orders, seq, [FILE])

    assert not wrong(0o644, 2)
    assert not wrong(0o600, 2)
    assert wrong(0o600, 1)
    assert wrong(0o700, 2)


def test_a_name_took_who_did_not_know_of_it_by_surprise() -> None:
    refused, bert = RefusedNames(), "bert"
    mark = ConflictMark(FILE, b"x", ROOT, RevisionNumber(0), RevisionNumber(1), "bert", 0)
    rename = Rename(
        n=OpNumber(1), time_ns=0, inode=TWIN, parent=ROOT, name=b"c", new_parent=ROOT, new_name=b"x", replaced=FILE
    )
    refused.hear(bert, rename)
    refused.hear("anna", msgspec.structs.replace(rename, replaced=NO_INODE))
    refused.hear(bert, msgspec.structs.replace(rename, replaced=NO_INODE, new_name=b"y"))
    assert not refused.took_by_surprise(mark)
    refused.hear(bert, msgspec.structs.replace(rename, replaced=NO_INODE))
    assert refused.took_by_surprise(mark)


def test_so_did_who_exchanged_what_had_the_name_until_then() -> None:
    mark = ConflictMark(FILE, b"x", ROOT, RevisionNumber(0), RevisionNumber(1), "bert", 0)
    names = {"parent": ROOT, "name": b"c", "other_parent": ROOT, "other_name": b"x"}
    for before, is_surprised in ((FILE, False), (ROOT, True)):
        refused = RefusedNames()
        refused.hear("bert", Exchange(n=OpNumber(1), time_ns=0, inode=TWIN, other=before, **names))
        assert refused.took_by_surprise(mark) is is_surprised


@pytest.mark.parametrize("is_later", [False, True])
@pytest.mark.parametrize("is_moved", [False, True])
def test_a_copy_is_needless_if_one_came_of_the_other_unless_that_was_moved_back(
    *, is_moved: bool, is_later: bool
) -> None:
    """An old content is moved back over what came of it, sooner or later than an edit of that reaches the server."""
    copy_of = 2**21 + 2
    old, base, edit = b"\1", b"\2", b"\3"
    ledger = Ledger()
    ledger.wrote("bert", b"old")
    ledger.wrote("anna", b"base", b"old")
    ledger.wrote("anna", b"edit", b"base")
    sequence, refused = Sequence(ROOT, 0), RefusedNames()
    sequence.stored = {(FILE, 1): old, (TWIN, 2): base, (TWIN, 4): edit}
    copied, has_kept, number = (old, TWIN, RevisionNumber(4)) if is_later else (edit, FILE, RevisionNumber(1))
    was_made_of = TWIN if is_moved else has_kept
    mark = ConflictMark(has_kept, b"x", ROOT, RevisionNumber(3), number, "bert", 0, was_made_of)
    sequence.trees[1] = Tree(ROOT, {copy_of: Sort(InodeKind.FILE, 0, blocks=copied)})
    sequence.seq = 1
    sequence.marked.append(Marked(1, copy_of, encode_mark(mark), b""))
    moved = Rename(
        n=OpNumber(1), time_ns=0, inode=FILE, parent=ROOT, name=b"c", new_parent=ROOT, new_name=b"x", replaced=TWIN
    )
    if is_moved and is_later:
        refused.hear("bert", moved)
    contents = {old: b"old", base: b"base", edit: b"edit"}
    wrong = look_for_needless(sequence, contents, ledger, refused)
    assert wrong is None if is_moved else wrong is not None and "b'edit' had been shown b'old'" in wrong


def test_each_of_what_was_shown_has_to_be_there_and_nothing_else() -> None:
    was = Shown(FILE, (0o644, 1), b"content")
    assert not difference({"a": was}, {"a": was._replace(content=None)})
    for now in ({}, {"a": was, "b": was}, {"b": was}):
        assert difference({"a": was}, now)
    for other in (was._replace(inode=TWIN), was._replace(attributes=(0o600, 1)), was._replace(content=b"other")):
        assert difference({"a": was}, {"a": other})


def test_what_a_device_keeps_may_lie_behind_a_name_that_it_keeps_and_nowhere_else() -> None:
    directory, kept, cover = 2, 3, 4
    tree = Tree(ROOT, {ROOT: Sort(InodeKind.DIRECTORY, 0), directory: Sort(InodeKind.DIRECTORY, 0)})
    tree.names[ROOT, b"d"] = directory
    place = (directory, b"a.tmp")
    assert not is_covered(place, {place: kept}, tree)
    assert is_covered(place, {place: kept, (ROOT, b"d"): cover}, tree)
    assert is_covered((kept, b"a"), {place: kept, (kept, b"a"): 5, (ROOT, b"d"): cover}, tree)
    assert not is_covered(place, {place: kept, (ROOT, b"e"): cover}, tree)
    del tree.names[ROOT, b"d"]
    assert not is_covered(place, {place: kept, (ROOT, b"d"): cover}, tree)
