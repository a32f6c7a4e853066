"""Bytes to typed messages and back; the only place where untrusted msgpack is decoded.

Decoding is always into a type, so depth, counts and lengths are bounded before anything is allocated.
"""

from functools import cache
from typing import Any, TypeVar, cast

import msgspec
import xxhash

from drivefs.protocol.changes import Mutation
from drivefs.protocol.errors import Code, ProtocolError

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()


@cache
def _decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)


def encode(message: Any) -> bytes:
    """Encode a message or a state."""
    return _encoder.encode(message)


def checksum(*parts: bytes | memoryview) -> str:
    """What the header beside a message says of its bytes: their XXH3, 64 bits in hexadecimal digits."""
    summed = xxhash.xxh3_64()
    for part in parts:
        summed.update(part)
    return summed.hexdigest()


def decode(data: bytes | memoryview, kind: type[T]) -> T:
    """Decode bytes that may come from anyone into a message of type `kind`.

    Raises:
        ProtocolError: `malformed`, with where and why.
    """
    try:
        message: T = _decoder(cast(Any, kind)).decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(Code.MALFORMED, f"not a well-formed {kind.__name__}: {error}") from error
    return message


def decode_mutation(data: bytes) -> Mutation:
    """Decode one mutation from a journal row.

    Raises:
        ProtocolError: `malformed`.
    """
    try:
        mutation: Mutation = _decoder(Mutation).decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(Code.MALFORMED, f"not a well-formed mutation: {error}") from error
    return mutation
