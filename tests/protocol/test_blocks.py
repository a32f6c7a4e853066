"""The block codec: cuts depend on content alone, payloads are verified and bounded, frames survive any split."""

import random
import struct

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from drivefs.protocol import blocks
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import BlockId

PAYLOAD_HEADER_BYTES = blocks.PAYLOAD_HEADER.size


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def pieces(data: bytes, lengths: list[int]) -> list[bytes]:
    found, start = [], 0
    for length in lengths:
        found.append(data[start : start + length])
        start += length
    return found


def refused(call: object, *args: object) -> str:
    with pytest.raises(ProtocolError) as caught:
        call(*args)  # type: ignore[operator]
    assert caught.value.code is Code.BLOCK_INVALID
    return caught.value.message


def test_a_content_of_up_to_256_kib_is_one_block() -> None:
    assert blocks.cut(b"", final=True) == []
    assert blocks.cut(b"x", final=True) == [1]
    assert blocks.cut(noise(1, blocks.MIN_BLOCK_BYTES), final=True) == [blocks.MIN_BLOCK_BYTES]


def test_cuts_cover_the_content_within_bounds() -> None:
    data = noise(2, 20 * 2**20 + 12345)
    lengths = blocks.cut(data, final=True)
    assert sum(lengths) == len(data)
    assert all(blocks.MIN_BLOCK_BYTES <= length <= blocks.MAX_BLOCK_BYTES for length in lengths[:-1])
    assert 5 <= len(lengths) <= 60


def test_zeros_are_cut_at_the_upper_bound() -> None:
    assert blocks.cut(bytes(9 * 2**20), final=True) == [blocks.MAX_BLOCK_BYTES, blocks.MAX_BLOCK_BYTES, 2**20]


def test_a_whole_block_of_the_upper_bound_is_complete_even_if_not_final() -> None:
    assert blocks.cut(bytes(blocks.MAX_BLOCK_BYTES), final=False) == [blocks.MAX_BLOCK_BYTES]
    assert blocks.cut(bytes(blocks.MAX_BLOCK_BYTES - 1), final=False) == []


@pytest.mark.parametrize("window", [5 * 2**20, 8 * 2**20 + 1, 12 * 2**20])
def test_cutting_piece_by_piece_gives_the_same_blocks_as_at_once(window: int) -> None:
    data = noise(3, 24 * 2**20 + 777)
    lengths: list[int] = []
    start = 0
    while start < len(data):
        end = min(start + window, len(data))
        found = blocks.cut(memoryview(data)[start:end], final=end == len(data))
        assert found, "a window longer than the longest block always completes one"
        lengths += found
        start += sum(found)
    assert lengths == blocks.cut(data, final=True)


def test_an_insertion_at_the_head_keeps_all_but_the_first_blocks() -> None:
    data = noise(4, 24 * 2**20)
    before = {blocks.block_id(piece) for piece in pieces(data, blocks.cut(data, final=True))}
    changed = b"ten bytes!" + data
    after = {blocks.block_id(piece) for piece in pieces(changed, blocks.cut(changed, final=True))}
    assert len(after - before) <= 2


@pytest.mark.parametrize("compression", list(blocks.Compression))
@pytest.mark.parametrize(
    "plaintext", [b"x", b"text " * 1000, noise(5, 70_000), noise(6, 100) * 9000, bytes(blocks.MAX_BLOCK_BYTES)]
)
def test_a_payload_gives_its_plaintext_back(plaintext: bytes, compression: blocks.Compression) -> None:
    payload = blocks.encode_payload(plaintext, compression)
    assert len(payload) <= len(plaintext) + PAYLOAD_HEADER_BYTES
    assert blocks.decode_payload(memoryview(payload), blocks.block_id(plaintext)) == plaintext


def test_what_shrinks_is_compressed_and_what_does_not_is_raw() -> None:
    assert len(blocks.encode_payload(b"text " * 100_000)) < 5000
    noisy = noise(7, 2**20)
    assert blocks.encode_payload(noisy)[PAYLOAD_HEADER_BYTES:] == noisy
    assert blocks.encode_payload(b"text " * 100, blocks.Compression.RAW)[PAYLOAD_HEADER_BYTES:] == b"text " * 100


def test_the_probe_decides_by_the_first_64_kib() -> None:
    late = noise(8, blocks.PROBE_BYTES) + bytes(2**20)
    assert blocks.encode_payload(late)[PAYLOAD_HEADER_BYTES:] == late


@pytest.mark.parametrize("size", [0, blocks.MAX_BLOCK_BYTES + 1])
def test_no_block_is_empty_or_longer_than_the_bound(size: int) -> None:
    with pytest.raises(ValueError, match="a block has 1 to"):
        blocks.encode_payload(bytes(size))


def header(codec: int, length: int, version: int = blocks.PAYLOAD_VERSION) -> bytes:
    return struct.pack(">BBI", version, codec, length)


def test_a_wrong_id_is_refused() -> None:
    payload = blocks.encode_payload(b"these bytes")
    assert "not those that its id names" in refused(blocks.decode_payload, payload, blocks.block_id(b"other bytes"))


def test_a_damaged_payload_never_gives_other_bytes() -> None:
    plaintext = b"abc " * 50
    payload = blocks.encode_payload(plaintext)
    refusals = 0
    for position in range(len(payload)):
        damaged = bytearray(payload)
        damaged[position] ^= 0x10
        try:
            # A bit that zstd ignores may flip without harm: what counts is the plaintext.
            assert blocks.decode_payload(bytes(damaged), blocks.block_id(plaintext)) == plaintext
        except ProtocolError:
            refusals += 1
    assert refusals > len(payload) // 2


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        header(0, 1),
        header(0, 0) + b"x",
        header(0, 2) + b"x",
        header(0, 1) + b"xy",
        header(0, blocks.MAX_BLOCK_BYTES + 1) + b"x",
        header(7, 1) + b"x",
        header(0, 1, version=2) + b"x",
        header(1, 5) + b"not zstd at all",
        header(1, 10) + zstandard.ZstdCompressor().compress(b"longer than ten bytes"),
        header(1, 10) + zstandard.ZstdCompressor(write_content_size=False).compress(b"0123456789"),
        header(1, 10) + zstandard.ZstdCompressor().compress(b"0123456789") + b"more",
        header(1, 10) + zstandard.ZstdCompressor().compress(b"0123456789")[:-3],
    ],
)
def test_malformed_payloads_are_refused(payload: bytes) -> None:
    refused(blocks.decode_payload, payload, blocks.block_id(b"x"))


@pytest.mark.fault(56)
def test_a_bomb_is_refused_by_what_it_declares() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(512 * 2**20))
    honest = header(1, 512 * 2**20) + bomb
    lying = header(1, 1000) + bomb
    for payload in (honest, lying):
        refused(blocks.decode_payload, payload, blocks.block_id(b"x"))


def test_the_caller_may_bound_the_plaintext_further() -> None:
    plaintext = b"y" * 1001
    payload = blocks.encode_payload(plaintext)
    assert "at most 1000" in refused(blocks.decode_payload, payload, blocks.block_id(plaintext), 1000)


def test_no_room_is_made_for_what_the_compressed_data_declares() -> None:
    """zstd asks for all of it at once, whatever the caller allows (RFC 8878, 3.1.1: a frame of one empty block)."""
    body = b"\x28\xb5\x2f\xfd\xe0" + (2**62).to_bytes(8, "little") + b"\x01\x00\x00"
    payload = blocks.PAYLOAD_HEADER.pack(blocks.PAYLOAD_VERSION, blocks.Codec.ZSTD, 10) + body
    assert "does not declare the length" in refused(blocks.decode_payload, payload, BlockId(bytes(32)))


@pytest.mark.parametrize("length", [0, blocks.MAX_BLOCK_BYTES + 1])
def test_no_block_has_less_or_more_plaintext_than_blocks_have(length: int) -> None:
    body = zstandard.ZstdCompressor().compress(bytes(length))
    payload = blocks.PAYLOAD_HEADER.pack(blocks.PAYLOAD_VERSION, blocks.Codec.ZSTD, length) + body
    assert "a block has 1 to" in refused(blocks.decode_payload, payload, blocks.block_id(bytes(length)))


PAYLOADS = st.one_of(st.none(), st.binary(min_size=PAYLOAD_HEADER_BYTES + 1, max_size=300))


@given(
    st.lists(st.tuples(st.binary(min_size=32, max_size=32), PAYLOADS), max_size=8),
    st.lists(st.integers(1, 97), min_size=1, max_size=30),
)
def test_frames_survive_any_split(frames: list[tuple[BlockId, bytes | None]], steps: list[int]) -> None:
    body = b"".join(part for block, payload in frames for part in blocks.frame(block, payload))
    reader = blocks.FrameReader()
    found = []
    start = 0
    while start < len(body):
        step = steps[start % len(steps)]
        found += reader.feed(body[start : start + step])
        start += step
    reader.close()
    assert found == frames


@pytest.mark.parametrize("kept", [1, 35, 36, 40])
def test_a_body_that_ends_within_a_frame_is_refused(kept: int) -> None:
    body = b"".join(blocks.frame(blocks.block_id(b"x"), b"0123456789"))
    reader = blocks.FrameReader()
    assert reader.feed(body[:kept]) == []
    assert "in the middle" in refused(reader.close)


@pytest.mark.parametrize("length", [0, PAYLOAD_HEADER_BYTES, blocks.MAX_PAYLOAD_BYTES + 1, 0xFFFFFFFE])
def test_a_frame_of_an_impossible_length_is_refused_before_its_payload_comes(length: int) -> None:
    reader = blocks.FrameReader()
    refused(reader.feed, blocks.FRAME_HEADER.pack(blocks.block_id(b"x"), length))
