"""Whatever bytes come in place of a message or a block, they are what they say, or refused in the one way."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from drivefs.protocol import blocks, changes, history, links, messages, notifications, sharing, wire
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ids import BlockId

T = TypeVar("T")
KINDS: list[Any] = [
    kind
    for module in (messages, changes, history, links, notifications, sharing)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
]
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=40)
    | st.text("a٣\0", max_size=4)
)
EDITS = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 6), st.binary(max_size=4)), max_size=4)


def edited(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """The bytes with some of them cut out, and others put in their places."""
    for place, count, instead in edits:
        at = place % (len(data) + 1)
        data = data[:at] + instead + data[at + count :]
    return data


def unless_refused(code: Code, call: Callable[[], T]) -> T | None:
    try:
        return call()
    except ProtocolError as error:
        if error.code is code:
            return None
        raise


@st.composite
def messages_of_sorts(draw: st.DrawFn) -> tuple[Any, bytes]:
    """A kind of message, and the bytes of a map with its names, of values of any kind."""
    kind = draw(st.sampled_from(KINDS))
    names = [field.encode_name for field in msgspec.structs.fields(kind)] or ["none"]
    value = st.recursive(
        PLAIN,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(names), inner, max_size=3),
        max_leaves=6,
    )
    tree = draw(st.dictionaries(st.sampled_from([*names, "type"]), value, max_size=len(names) + 1))
    return kind, edited(msgspec.msgpack.encode(tree), draw(EDITS))


@given(messages_of_sorts())
def test_a_message_of_any_bytes_is_one_of_its_kind_or_malformed(made: tuple[Any, bytes]) -> None:
    kind, data = made
    message = unless_refused(Code.MALFORMED, lambda: wire.decode(data, kind))
    if message is not None:
        assert wire.decode(wire.encode(message), kind) == message or "nan" in repr(message)


@given(
    st.lists(st.binary(min_size=1, max_size=60) | st.builds(bytes, st.integers(1, 5000)), min_size=1, max_size=3),
    EDITS,
    st.integers(1, 50),
)
def test_blocks_of_any_bytes_are_those_that_their_ids_name_or_refused(
    contents: list[bytes], edits: list[tuple[int, int, bytes]], step: int
) -> None:
    framed = b"".join(
        part for each in contents for part in blocks.frame(blocks.block_id(each), blocks.encode_payload(each))
    )
    body = edited(framed, edits)
    taken = unless_refused(Code.BLOCK_INVALID, lambda: list(unframed(body, step)))
    assert taken is not None or body != framed
    for block, content in taken or []:
        assert blocks.block_id(content) == block


def unframed(body: bytes, step: int) -> Iterator[tuple[BlockId, bytes]]:
    """The blocks of a body that arrives in pieces."""
    reader = blocks.FrameReader()
    for at in range(0, len(body), step):
        for frame in reader.feed(body[at : at + step]):
            yield frame.block, blocks.decode_payload(frame.payload or b"", frame.block)
    reader.close()
