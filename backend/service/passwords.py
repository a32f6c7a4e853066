"""Hashing and checking of passwords: argon2id, a bounded number at once.

Owns the cost and the gate; what a wrong password leads to is decided in `accounts`. Invariant: whether a user exists
does not show in how long a check takes.
"""

import anyio
from argon2 import exceptions, extract_parameters, low_level

from drivefs.protocol.ground import Offload, RandomBytes

TIME_COST = 3
MEMORY_KIB = 64 * 1024
PARALLELISM = 4
"""The second recommended option of RFC 9106; 64 MiB and about 0.13 s each."""
HASH_BYTES = 32
SALT_BYTES = 16
MAX_AT_ONCE = 4


class Passwords:
    """Hashes passwords in threads, at most `MAX_AT_ONCE` at a time: each takes 64 MiB."""

    def __init__(self, offload: Offload, random_bytes: RandomBytes) -> None:
        self._offload = offload
        self._random_bytes = random_bytes
        self._gate = anyio.Semaphore(MAX_AT_ONCE)

    async def hash(self, password: str) -> str:
        """Hash a new password; the result holds salt and parameters."""
        salt = self._random_bytes(SALT_BYTES)
        async with self._gate:
            return await self._offload(_hash, password, salt)

    async def matches(self, password: str, known_hash: str | None) -> bool:
        """Check a password; without a hash to check against, take as long and say no."""
        if known_hash is None:
            await self.hash(password)
            return False
        async with self._gate:
            return await self._offload(_matches, password, known_hash)


def _hash(password: str, salt: bytes) -> str:
    secret = password.encode()
    hashed = low_level.hash_secret(secret, salt, TIME_COST, MEMORY_KIB, PARALLELISM, HASH_BYTES, low_level.Type.ID)
    return hashed.decode()


def _matches(password: str, known_hash: str) -> bool:
    kind = extract_parameters(known_hash).type
    try:
        return low_level.verify_secret(known_hash.encode(), password.encode(), kind)
    except exceptions.VerifyMismatchError:
        return False
