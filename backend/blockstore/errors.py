"""What goes wrong where sealed bytes are kept.

StoreError
 +-- ObjectMissing   the object, or the part of it that was asked for, is not in the store
 +-- SealBroken      the bytes do not open: damaged, exchanged for others, or sealed with another key
"""


class StoreError(Exception):
    """Base of all errors of this package; its text says what happened to which object."""


class ObjectMissing(StoreError):
    """The store has no such object, or it is shorter than the part that was asked for."""


class SealBroken(StoreError):
    """Sealed bytes do not open with the key, or are not those of the block that was asked for."""
