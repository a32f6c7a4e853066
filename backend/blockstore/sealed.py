"""Encryption at rest: a block's payload sealed for the store, and opened again.

Owns the sealed form: a header (version, algorithm, key number, nonce), then the ciphertext with its tag. The associated
data is the whole header and the block's name (account, id, generation), so that no sealed block passes for another.
Knows no store and no database; where account keys come from is the service's business.

Invariants: the key of each block is derived from the account key and the block's name, so that one can be released
without the others; a nonce is drawn for each sealing, from the randomness that is passed in. AEGIS-256 as in
draft-irtf-cfrg-aegis-aead; XChaCha20-Poly1305 where the processor has no AES instructions.
"""

import enum
import struct
from dataclasses import dataclass

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


NONCE_BYTES: dict[Algorithm, int] = {
    Algorithm.AEGIS_256: bindings.crypto_aead_aegis256_NPUBBYTES,
    Algorithm.XCHACHA20_POLY1305: bindings.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES,
}

TAG_BYTES: dict[Algorithm, int] = {
    Algorithm.AEGIS_256: bindings.crypto_aead_aegis256_ABYTES,
    Algorithm.XCHACHA20_POLY1305: bindings.crypto_aead_xchacha20poly1305_ietf_ABYTES,
}


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


def preferred_algorithm(has_aes: bool) -> Algorithm:
    """AEGIS-256 where the processor has AES instructions, which it lives on."""
    return Algorithm.AEGIS_256 if has_aes else Algorithm.XCHACHA20_POLY1305


def seal(
    payload: bytes, name: BlockName, key: AccountKey, algorithm: Algorithm, random_bytes: RandomBytes
) -> tuple[bytes, bytes]:
    """Seal a payload for the store; gives header and ciphertext, which are stored one behind the other."""
    nonce = random_bytes(NONCE_BYTES[algorithm])
    header = _HEADER.pack(SEAL_VERSION, algorithm, key.number) + nonce
    packed = name.packed()
    secret = _block_secret(key, packed)
    if algorithm is Algorithm.AEGIS_256:
        return header, bindings.crypto_aead_aegis256_encrypt(payload, header + packed, nonce, secret)
    return header, bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(payload, header + packed, nonce, secret)


def key_number(sealed: bytes) -> int:
    """Say which of the account's keys opens these bytes.

    Raises:
        SealBroken: the header is not one.
    """
    return _split(sealed)[1]


def unseal(sealed: bytes, name: BlockName, key: AccountKey) -> bytes:
    """Open what `seal` made and give the payload.

    Raises:
        SealBroken: damaged, another block's bytes, or another key.
    """
    algorithm, _, header, body = _split(sealed)
    packed = name.packed()
    nonce = header[_HEADER.size :]
    secret = _block_secret(key, packed)
    try:
        if algorithm is Algorithm.AEGIS_256:
            return bindings.crypto_aead_aegis256_decrypt(body, header + packed, nonce, secret)
        return bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(body, header + packed, nonce, secret)
    except (exceptions.CryptoError, exceptions.ValueError) as error:
        raise errors.SealBroken(f"block {name.block.hex()} does not open: damaged, or of another key") from error


def _block_secret(key: AccountKey, packed_name: bytes) -> bytes:
    return blake3(_DERIVE + packed_name, key=key.secret).digest()


def _split(sealed: bytes) -> tuple[Algorithm, int, bytes, bytes]:
    if len(sealed) < _HEADER.size:
        raise errors.SealBroken(f"{len(sealed)} bytes are too few for a sealed block")
    version, algorithm, number = _HEADER.unpack_from(sealed)
    if version != SEAL_VERSION or algorithm not in NONCE_BYTES:
        raise errors.SealBroken(f"seal version {version}, algorithm {algorithm} is not known here")
    header_bytes = _HEADER.size + NONCE_BYTES[algorithm]
    if len(sealed) < header_bytes + TAG_BYTES[algorithm]:
        raise errors.SealBroken(f"{len(sealed)} bytes are too few for a sealed block")
    return Algorithm(algorithm), number, sealed[:header_bytes], sealed[header_bytes:]
