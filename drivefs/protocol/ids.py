"""The identifiers that client and backend share, and the bounds that every identifier keeps.

Owns the types and their ranges only; drawing new identifiers is the backend's work (ranges of inodes) and the
device's (op numbers within its epoch). Invariant: all integers here fit a signed 64-bit column and are never negative.
"""

from typing import NewType

AccountId = NewType("AccountId", int)
UserId = NewType("UserId", int)
DeviceId = NewType("DeviceId", int)
WorkspaceId = NewType("WorkspaceId", int)
InodeId = NewType("InodeId", int)
LineageId = NewType("LineageId", int)
Seq = NewType("Seq", int)
OpNumber = NewType("OpNumber", int)
Epoch = NewType("Epoch", int)
Incarnation = NewType("Incarnation", int)
RevisionNumber = NewType("RevisionNumber", int)
BlockId = NewType("BlockId", bytes)
RunId = NewType("RunId", bytes)
CommitId = NewType("CommitId", bytes)

BLOCK_ID_BYTES = 32
COMMIT_ID_BYTES = 16
MAX_ID = 2**63 - 1
NO_INODE = InodeId(0)
NO_OP = OpNumber(0)
NO_REVISION = RevisionNumber(0)
"""The revision number of an inode that never had content: its first revision is 1 or, in a lineage, later."""

ID_RANGE_LENGTH = 2**20
"""How many inode ids one range holds; a device keeps two in reserve for work offline."""
