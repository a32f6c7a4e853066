"""Encryption at rest: a block's payload sealed for the store, and opened again.

Owns the sealed form: a header (version, algorithm, key number, nonce), then the ciphertext with its tag. The associated
data is the whole header and the block's name (account, id, generation), so that no sealed block passes for another.
Knows no store and no database; where account keys come from is the service's business.

Invariants: the key of each block is derived from the account key and the block's name, so that one can be released
without the others; a nonce is drawn for each sealing, from the randomness that is passed in. AEGIS-256 and AEGIS-256X4
as in draft-irtf-cfrg-aegis-aead; XChaCha20-Poly1305 where the processor has no AES instructions.
"""

import enum
import struct
from dataclasses import dataclass
from typing import Any

from aeg import aegis256, aegis256x4
from blake3 import blake3
from nacl import bindings, exceptions

from backend.blockstore import errors
from drivefs.protocol import ids
from drivefs.protocol.ground import RandomBytes

SEAL_VERSION = 1
KEY_BYTES = 32

_HEADER = struct.Struct(">BBI")
"""Version, algorithm, number of the account key; the nonce follows."""
_NAME = struct.Struct(f">Q{ids.BLOCK_ID_BYTES}sQ")
_DERIVE = b"drivefs block key v1\0"


class Algorithm(enum.IntEnum):
    """How a block is sealed."""

    AEGIS_256 = 1
    XCHACHA20_POLY1305 = 2
    AEGIS_256X4 = 3


NONCE_BYTES: dict[Algorithm, int] = {
    Algorithm.AEGIS_256: aegis256.NONCEBYTES,
    Algorithm.XCHACHA20_POLY1305: bindings.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES,
    Algorithm.AEGIS_256X4: aegis256x4.NONCEBYTES,
}

TAG_BYTES: dict[Algorithm, int] = {
    Algorithm.AEGIS_256: aegis256.MACBYTES_LONG,
    Algorithm.XCHACHA20_POLY1305: bindings.crypto_aead_xchacha20poly1305_ietf_ABYTES,
    Algorithm.AEGIS_256X4: aegis256x4.MACBYTES_LONG,
}

_AEGIS: dict[Algorithm, Any] = {Algorithm.AEGIS_256: aegis256, Algorithm.AEGIS_256X4: aegis256x4}


@dataclass(frozen=True, slots=True)
class BlockName:
    """Which block: of whose account, with which content, and which life of it."""

    account: ids.AccountId
    block: ids.BlockId
    generation: int

    def packed(self) -> bytes:
        """The name as it enters keys and associated data."""
        return _NAME.pack(self.account, self.block, self.generation)


@dataclass(frozen=True, slots=True)
class AccountKey:
    """A key of an account; `number` tells it from the account's other ones. Never shown by repr."""

    number: int
    secret: bytes

    def __repr__(self) -> str:
        return f"AccountKey(number={self.number})"


@dataclass(frozen=True, slots=True)
class Seal:
    """How the blocks of an account are sealed now."""

    key: AccountKey
    algorithm: Algorithm
    random_bytes: RandomBytes

    def length(self, payload_bytes: int) -> int:
        """How long a payload of so many bytes is when it is sealed."""
        return _HEADER.size + NONCE_BYTES[self.algorithm] + payload_bytes + TAG_BYTES[self.algorithm]

    def seal_into(self, target: memoryview, payload: bytes, name: BlockName) -> None:
        """Seal a payload for the store, into memory of just that length."""
        algorithm = self.algorithm
        nonce = self.random_bytes(NONCE_BYTES[algorithm])
        header = _HEADER.pack(SEAL_VERSION, algorithm, self.key.number) + nonce
        packed = name.packed()
        secret = _block_secret(self.key, packed)
        body = target[len(header) :]
        target[: len(header)] = header
        if algorithm is Algorithm.XCHACHA20_POLY1305:
            body[:] = bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(payload, header + packed, nonce, secret)
        else:
            aegis, tag_bytes = _AEGIS[algorithm], TAG_BYTES[algorithm]
            aegis.encrypt(secret, nonce, payload, header + packed, maclen=tag_bytes, into=body)


def preferred_algorithm(has_aes: bool) -> Algorithm:
    """AEGIS-256X4 where the processor has AES instructions, which it lives on."""
    return Algorithm.AEGIS_256X4 if has_aes else Algorithm.XCHACHA20_POLY1305


def key_number(sealed: bytes) -> int:
    """Say which of the account's keys opens these bytes.

    Raises:
        SealBroken: the header is not one.
    """
    return _split(sealed)[1]


def unseal(sealed: bytes, name: BlockName, key: AccountKey) -> bytes | bytearray:
    """Open what a `Seal` made and give the payload.

    Raises:
        SealBroken: damaged, another block's bytes, or another key.
    """
    algorithm, _, header, body = _split(sealed)
    packed = name.packed()
    nonce = header[_HEADER.size :]
    secret = _block_secret(key, packed)
    try:
        if algorithm is Algorithm.XCHACHA20_POLY1305:
            return bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(bytes(body), header + packed, nonce, secret)
        opened: bytearray = _AEGIS[algorithm].decrypt(secret, nonce, body, header + packed, maclen=TAG_BYTES[algorithm])
        return opened
    except (exceptions.CryptoError, exceptions.ValueError, ValueError) as error:
        raise errors.SealBroken(f"block {name.block.hex()} does not open: damaged, or of another key") from error


def _block_secret(key: AccountKey, packed_name: bytes) -> bytes:
    return blake3(_DERIVE + packed_name, key=key.secret).digest()


def _split(sealed: bytes) -> tuple[Algorithm, int, bytes, memoryview]:
    if len(sealed) < _HEADER.size:
        raise errors.SealBroken(f"{len(sealed)} bytes are too few for a sealed block")
    version, algorithm, number = _HEADER.unpack_from(sealed)
    if version != SEAL_VERSION or algorithm not in NONCE_BYTES:
        raise errors.SealBroken(f"seal version {version}, algorithm {algorithm} is not known here")
    header_bytes = _HEADER.size + NONCE_BYTES[algorithm]
    if len(sealed) < header_bytes + TAG_BYTES[algorithm]:
        raise errors.SealBroken(f"{len(sealed)} bytes are too few for a sealed block")
    return Algorithm(algorithm), number, sealed[:header_bytes], memoryview(sealed)[header_bytes:]
