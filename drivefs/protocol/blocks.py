"""The block codec: cutting contents into blocks, naming them, their payloads, and frames that carry many at once.

Owns the byte formats that `WIRE.md` describes; knows no file, socket or key. All is pure and thread-safe, and the
heavy calls release the interpreter lock.

Invariants: a block has 1 byte to 4 MiB of plaintext; where a content is cut depends on the bytes alone; a payload is
never longer than its plaintext and the header; what `decode_payload` gives has the id that was asked for.
"""

import enum
import struct
from typing import NamedTuple

import zstandard
from blake3 import blake3
from pyfastcdc import FastCDC

from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import BLOCK_ID_BYTES, BlockId

MIN_BLOCK_BYTES = 256 * 2**10
AVERAGE_BLOCK_BYTES = 2**20
MAX_BLOCK_BYTES = 4 * 2**20

PAYLOAD_VERSION = 1
PAYLOAD_HEADER = struct.Struct(">BBI")
"""Version, codec, and the length of the plaintext."""
MAX_PAYLOAD_BYTES = MAX_BLOCK_BYTES + PAYLOAD_HEADER.size

FRAME_HEADER = struct.Struct(f">{BLOCK_ID_BYTES}sI")
"""The block's id, and the length of the payload that follows, or `NOT_HERE`."""
NOT_HERE = 0xFFFFFFFF
"""In place of a length: the sender does not have this block; no payload follows."""

PROBE_BYTES = 64 * 2**10
FAST_LEVEL = 1
DEFAULT_LEVEL = 3
LEAST_SAVING = 32
"""Compressed data is kept if it saves at least one byte in so many: less is not worth the work of unpacking it."""


class Codec(enum.IntEnum):
    """How the plaintext lies in a payload."""

    RAW = 0
    ZSTD = 1


class Compression(enum.Enum):
    """How hard to try: AUTO suits most contents, FAST large streams, RAW those known not to shrink."""

    AUTO = "auto"
    FAST = "fast"
    RAW = "raw"


Bytes = bytes | bytearray
Parts = tuple[bytes, bytes | memoryview]
"""A payload: its header, and what follows it."""


class Frame(NamedTuple):
    """One block on its way; `payload` None says that the sender does not have it."""

    block: BlockId
    payload: bytes | None


def cut(data: bytes | memoryview, *, final: bool) -> list[int]:
    """Cut a content into blocks: the lengths of those that begin `data`, in order.

    `data` starts at a cut. Unless it is `final`, the last block may go on in bytes that are not here yet, and is left
    out; bytes past the sum of the lengths are given again, with more behind them. FastCDC as in Xia et al. 2020 ("The
    design of fast content-defined chunking for data deduplication based storage systems").
    """
    cutter = FastCDC(avg_size=AVERAGE_BLOCK_BYTES, min_size=MIN_BLOCK_BYTES, max_size=MAX_BLOCK_BYTES)
    lengths = [found.length for found in cutter.cut_buf(data)]
    if lengths and not final and lengths[-1] < MAX_BLOCK_BYTES:
        lengths.pop()
    return lengths


def block_id(plaintext: bytes | memoryview) -> BlockId:
    """Name a block: the BLAKE3-256 of its plaintext."""
    return BlockId(blake3(plaintext).digest())


def encode_payload(plaintext: bytes | memoryview, compression: Compression = Compression.AUTO) -> bytes:
    """Pack a block of 1 byte to 4 MiB for the wire and the store: a header, then the bytes, compressed if it helps."""
    return b"".join(payload_parts(plaintext, compression))


def payload_parts(plaintext: bytes | memoryview, compression: Compression = Compression.AUTO) -> Parts:
    """The same in two parts. Where it does not help to compress, the second one is the plaintext itself, no copy."""
    length = len(plaintext)
    if not 0 < length <= MAX_BLOCK_BYTES:
        raise ValueError(f"a block has 1 to {MAX_BLOCK_BYTES} bytes, not {length}")
    if compression is not Compression.RAW and _is_worth_compressing(plaintext):
        level = FAST_LEVEL if compression is Compression.FAST else DEFAULT_LEVEL
        packed = _compressed(plaintext, level)
        if _saves_enough(length, len(packed)):
            return PAYLOAD_HEADER.pack(PAYLOAD_VERSION, Codec.ZSTD, length), packed
    return PAYLOAD_HEADER.pack(PAYLOAD_VERSION, Codec.RAW, length), plaintext


def _is_worth_compressing(plaintext: bytes | memoryview) -> bool:
    if len(plaintext) <= PROBE_BYTES:
        return True
    probe = memoryview(plaintext)[:PROBE_BYTES]
    return _saves_enough(PROBE_BYTES, len(_compressed(probe, FAST_LEVEL)))


def _compressed(plaintext: bytes | memoryview, level: int) -> bytes:
    # A compressor of its own each time (15 µs): one that is shared must not be used by two threads at once.
    return zstandard.ZstdCompressor(level=level, write_content_size=True).compress(plaintext)


def _saves_enough(plain_bytes: int, packed_bytes: int) -> bool:
    return plain_bytes - packed_bytes > plain_bytes // LEAST_SAVING


def decode_payload(payload: bytes | memoryview, expected: BlockId, max_bytes: int = MAX_BLOCK_BYTES) -> bytes:
    """Unpack a payload that may come from anyone; the plaintext has the id `expected` and at most `max_bytes`.

    Allocates no more than the plaintext's declared length, once that is within bounds.

    Raises:
        ProtocolError: `block_invalid`: malformed, too long, or not the block that was asked for.
    """
    return bytes(_verified(payload, expected, max_bytes))


def verify_payload(payload: Bytes | memoryview, expected: BlockId) -> int:
    """Verify a payload as `decode_payload` does, without copying what is raw; gives the length of its plaintext.

    Raises:
        ProtocolError: `block_invalid`.
    """
    return len(_verified(payload, expected, MAX_BLOCK_BYTES))


def _verified(payload: Bytes | memoryview, expected: BlockId, max_bytes: int) -> bytes | memoryview:
    codec, length = _header(payload)
    if length > max_bytes:
        raise _invalid(f"its plaintext has {length} bytes, at most {max_bytes} are allowed")
    body = memoryview(payload)[PAYLOAD_HEADER.size :]
    plaintext = body if codec is Codec.RAW else _decompressed(body, length)
    if len(plaintext) != length:
        raise _invalid(f"it declares {length} bytes of plaintext and holds {len(plaintext)}")
    if block_id(plaintext) != expected:
        raise _invalid("its bytes are not those that its id names")
    return plaintext


def _header(payload: Bytes | memoryview) -> tuple[Codec, int]:
    if not PAYLOAD_HEADER.size < len(payload) <= MAX_PAYLOAD_BYTES:
        raise _invalid(f"a payload of {len(payload)} bytes is out of bounds")
    version, codec, length = PAYLOAD_HEADER.unpack_from(payload)
    if version != PAYLOAD_VERSION or codec not in (Codec.RAW, Codec.ZSTD):
        raise _invalid(f"payload version {version}, codec {codec} is not known here")
    if not 0 < length <= MAX_BLOCK_BYTES:
        raise _invalid(f"its plaintext has {length} bytes, a block has 1 to {MAX_BLOCK_BYTES}")
    return Codec(codec), length


def _decompressed(body: memoryview, length: int) -> bytes:
    try:
        if zstandard.frame_content_size(body) != length:
            raise _invalid("the compressed data does not declare the length that the header does")
        return zstandard.ZstdDecompressor().decompress(body, max_output_size=length, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise _invalid(f"the compressed data is damaged ({error})") from error


def _invalid(why: str) -> ProtocolError:
    return ProtocolError(Code.BLOCK_INVALID, f"A block was refused: {why}.")


def frame(block: BlockId, payload: Bytes | None) -> list[Bytes]:
    """Frame one block for a body of many: its header and its payload; `payload` None says "not here"."""
    if payload is None:
        return [FRAME_HEADER.pack(block, NOT_HERE)]
    return [FRAME_HEADER.pack(block, len(payload)), payload]


def frame_parts(block: BlockId, payload: Parts) -> tuple[bytes, bytes | memoryview]:
    """The same of a payload in parts: all headers, and what follows them."""
    header, body = payload
    return FRAME_HEADER.pack(block, len(header) + len(body)) + header, body


class FrameReader:
    """Takes a framed body apart as it arrives, in pieces of any size; holds at most one incomplete frame."""

    def __init__(self) -> None:
        self._header = b""
        self._block: BlockId | None = None
        self._parts: list[memoryview] = []
        self._wanted_bytes = 0

    def feed(self, data: bytes | memoryview) -> list[Frame]:
        """Take the next bytes of the body; gives the frames that they complete, in order.

        Raises:
            ProtocolError: `block_invalid`: a frame declares a length that no payload has. The reader is of no more use.
        """
        frames: list[Frame] = []
        view = memoryview(data)
        while view:
            if self._block is None:
                view = self._take_header(view, frames)
            else:
                view = self._take_payload(self._block, view, frames)
        return frames

    def close(self) -> None:
        """Say that the body has ended.

        Raises:
            ProtocolError: `block_invalid`: in the middle of a frame.
        """
        if self._header or self._block is not None:
            raise _invalid("the body ends in the middle of it")

    def _take_header(self, view: memoryview, frames: list[Frame]) -> memoryview:
        lacking = FRAME_HEADER.size - len(self._header)
        self._header += view[:lacking]
        if len(self._header) == FRAME_HEADER.size:
            block, length = FRAME_HEADER.unpack(self._header)
            self._header = b""
            if length == NOT_HERE:
                frames.append(Frame(BlockId(block), None))
            elif PAYLOAD_HEADER.size < length <= MAX_PAYLOAD_BYTES:
                self._block, self._wanted_bytes = BlockId(block), length
            else:
                raise _invalid(f"a payload of {length} bytes is out of bounds")
        return view[lacking:]

    def _take_payload(self, block: BlockId, view: memoryview, frames: list[Frame]) -> memoryview:
        part = view[: self._wanted_bytes]
        self._parts.append(part)
        self._wanted_bytes -= len(part)
        if not self._wanted_bytes:
            frames.append(Frame(block, b"".join(self._parts)))
            self._block = None
            self._parts.clear()
        return view[len(part) :]
