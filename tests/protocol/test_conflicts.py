"""The mark of a conflict copy survives its way through an extended attribute."""

import pytest

from drivefs.protocol.conflicts import ConflictMark, decode_mark, encode_mark
from drivefs.protocol.errors import ProtocolError
from drivefs.protocol.ids import InodeId, RevisionNumber

MARK = ConflictMark(InodeId(2**62), b"a\xff.txt", InodeId(7), RevisionNumber(3), RevisionNumber(4), "läptop", 10**18)


def test_mark_is_read_as_it_was_written() -> None:
    assert decode_mark(encode_mark(MARK)) == MARK


def test_what_is_no_mark_is_refused() -> None:
    with pytest.raises(ProtocolError):
        decode_mark(b"\x91\x01")
