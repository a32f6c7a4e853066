"""How requests and replies lie on the control socket: a length, then msgpack.

Owns the bytes only. Both ends belong to one user on one machine, so the msgpack is trusted; the length is bounded all
the same, since a stray program may connect.

A request is {"command": …, "arguments": {…}}. It is answered by any number of {"progress": …} and then by exactly one
{"result": …} or {"error": {"kind": …, "message": …}}.
"""

import struct
from typing import Any

import msgspec

HEADER = struct.Struct(">I")
MAX_FRAME_BYTES = 16 * 2**20


def encode(message: dict[str, Any]) -> bytes:
    """Turn a message into a frame: its length as a big-endian 32-bit number, then the msgpack."""
    body = msgspec.msgpack.encode(message)
    return HEADER.pack(len(body)) + body


def body_length(header: bytes) -> int:
    """Read a frame's length from its header.

    Raises:
        ValueError: the length is larger than any frame of ours.
    """
    (length,) = HEADER.unpack(header)
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {length} bytes is more than {MAX_FRAME_BYTES}: not a drivefs command")
    return int(length)


def decode(body: bytes) -> dict[str, Any]:
    """Turn a frame's body into a message.

    Raises:
        ValueError: it is not one.
    """
    try:
        message = msgspec.msgpack.decode(body)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a message: {error}") from error
    if not isinstance(message, dict):
        raise ValueError("not a message: no map")
    return message
