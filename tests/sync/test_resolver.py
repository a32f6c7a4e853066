"""What is decided about refused mutations, and what conflict copies are called."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivefs.protocol.changes import Base, Create, Rename, SetAttributes, Store, Unlink
from drivefs.protocol.ids import InodeId, OpNumber
from drivefs.protocol.model import InodeKind
from drivefs.protocol.names import MAX_NAME_BYTES, is_valid_name
from drivefs.sync.resolver import Action, conflict_name, resolve

N, INODE, ROOT = OpNumber(1), InodeId(7), InodeId(1)
CREATE = Create(n=N, time_ns=1, inode=INODE, parent=ROOT, name=b"a", kind=InodeKind.FILE, mode=0o644)
STORE = Store(n=N, time_ns=1, inode=INODE, base=Base(), size=0, runs=[], mtime_ns=1)
RENAME = Rename(n=N, time_ns=1, parent=ROOT, name=b"a", new_parent=ROOT, new_name=b"b", inode=INODE)
UNLINK = Unlink(n=N, time_ns=1, parent=ROOT, name=b"a", inode=INODE)
ATTRIBUTES = SetAttributes(n=N, time_ns=1, inode=INODE, mode=0o600)


@pytest.mark.parametrize(
    ("mutation", "reason", "action"),
    [
        (STORE, "changed", Action.COPY_CONTENT),
        (STORE, "absent", Action.COPY_CONTENT),
        (CREATE, "exists", Action.OTHER_NAME),
        (CREATE, "no_parent", Action.OTHER_NAME),
        (RENAME, "changed", Action.OTHER_NAME),
        (RENAME, "cycle", Action.GIVE_UP),
        (UNLINK, "changed", Action.GIVE_UP),
        (ATTRIBUTES, "absent", Action.GIVE_UP),
        (STORE, "predecessor", Action.TRY_AGAIN),
        (UNLINK, "predecessor", Action.TRY_AGAIN),
    ],
)
def test_content_is_kept_and_stale_deletions_are_dropped(mutation, reason, action) -> None:  # type: ignore[no-untyped-def]
    assert resolve(mutation, reason) is action


def test_conflict_copy_keeps_the_extension_and_tells_device_and_date() -> None:
    name = conflict_name(b"thesis.tex", device="laptop", date="2026-11-21", taken=0)
    assert name == b"thesis (conflicted copy, laptop, 2026-11-21).tex"
    assert conflict_name(b"a", device="d", date="t", taken=1) == b"a (conflicted copy, d, t 2)"


def test_hidden_file_is_not_all_extension() -> None:
    assert conflict_name(b".bashrc", device="d", date="t", taken=0) == b".bashrc (conflicted copy, d, t)"


@given(st.binary(min_size=1, max_size=255).filter(is_valid_name), st.text(max_size=128), st.integers(0, 10**6))
def test_any_name_gives_a_valid_name_that_differs(name: bytes, device: str, taken: int) -> None:
    derived = conflict_name(name, device=device, date="2026-11-21", taken=taken)
    assert is_valid_name(derived)
    assert len(derived) <= MAX_NAME_BYTES
    assert derived != name
