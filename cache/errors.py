"""What can go wrong with the local state, as one tree; `fs` gives each an errno.

CacheError
 +-- StateInUse        another process has this state directory open
 +-- NewerState        a newer drivefs wrote this state; nothing was touched
 +-- Poisoned          an fsync or a write of the journal failed: nothing more is accepted until a restart
 +-- DiskFull          refused before acceptance; nothing was changed
 +-- Corrupt           bytes on this disk do not verify
 |    +-- ReplicaCorrupt    the replica: it can be reset and fetched again
 |    +-- Unusable          the journal as a whole; it was left as it is, and the message says what to do
 +-- Misfit            transactions that were kept do not fit the journal; nothing was changed
 +-- Foreign           what lies in the place of a file of the state is none; nothing was touched
 +-- OutOfIds          no inode id is left; the server has to hand out a range
"""

SUSPECT = "suspect"
"""This file in a state directory says that the disk had failed, or gave what was not written: all is to be verified."""


class CacheError(Exception):
    """Base of all errors of the local state."""


class StateInUse(CacheError):
    """Another process holds the lock of the state directory."""


class NewerState(CacheError):
    """The state was written by a newer version of drivefs."""


class Poisoned(CacheError):
    """A sync or a write of the journal failed; what it covered may not be on disk, so nothing more is accepted."""


class DiskFull(CacheError):
    """There is no room on the local disk; nothing was changed."""


class Corrupt(CacheError):
    """Bytes that exist only on this disk do not match their checksum; they are never sent."""


class ReplicaCorrupt(Corrupt):
    """The replica is damaged; everything in it can be fetched again after `Replica.reset`."""


class Unusable(Corrupt):
    """The journal cannot be opened, or is gone; nothing was changed, and nothing can be accepted."""


class Misfit(CacheError):
    """Transactions that the file `redo` has cannot be run on the journal as it is; nothing was changed."""


class Foreign(CacheError):
    """Something lies in the place of a file of the state that is none; it was left as it is."""


class OutOfIds(CacheError):
    """All ranges of inode ids are used up."""
