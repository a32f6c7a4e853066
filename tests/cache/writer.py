"""A process that writes into a local state until it is killed, and says after each call that it has returned.

Each line on standard output is `NAME LENGTH`: the file and how many bytes of it the calls that returned have written.
"""

import sys
from itertools import count
from pathlib import Path

import msgspec

from cache.workspace import LocalState
from drivefs.protocol.ids import NO_OP
from tests.cache.states import CACHE_BYTES, FIRST_ID, create, inline

PART = 3000
STAGED = 100_000


def pattern(length: int) -> bytes:
    return bytes(index * 7 % 251 for index in range(length))


def main(state: str, cache: str) -> None:
    """Write files of growing length, by parts, the later ones staged."""
    local = LocalState(Path(state), Path(cache), offload=inline, cache_limit_bytes=CACHE_BYTES)
    journal = local.journal
    journal.add_id_range(FIRST_ID)
    parts, bytes_of_file = [PART, PART, STAGED], pattern(2 * PART + STAGED)
    for number in count():
        name = b"file-%d" % number
        inode, _ = create(journal, name, content=bytes_of_file[:PART])
        length = PART
        print(name.decode(), length, flush=True)
        for part in parts[1:]:
            data = bytes_of_file[length : length + part]
            staged = local.staging.append(inode, data) if part == STAGED else None
            with journal.transaction():
                journal.drafts.add_record(inode, length, data, staged)
                length += part
                state_now = journal.overlay.inode(inode)
                assert state_now is not None
                journal.overlay.put_inode(msgspec.structs.replace(state_now, size=length), NO_OP)
            print(name.decode(), length, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
