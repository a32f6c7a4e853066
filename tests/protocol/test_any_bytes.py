"""Whatever bytes come in place of a message or a block, they are what they say, or refused in the one way.

Making a message takes a hundred times as long as reading one: each is damaged in many ways, by chance alone.
"""

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import msgspec
from hypothesis import given, note
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
DAMAGED_COUNT = 100
"""In so many ways is each message, and each body of blocks, damaged."""
HEADS = [bytes([head]) + b"\xff" * count for head in range(0x80, 0x100) for count in (0, 1, 2, 4, 8)]
"""What begins a value of MessagePack, most with a length that nothing follows."""
SEEDS = st.integers(0, 2**32 - 1)


def damaged(data: bytes, seed: int) -> Iterator[bytes]:
    """The bytes as they are, and with some of them cut out, and others put in their places."""
    yield data
    chance = random.Random(seed)
    for _ in range(DAMAGED_COUNT):
        found = data
        for _ in range(chance.randrange(1, 4)):
            at, count = chance.randrange(len(found) + 1), chance.choice([0, 1, 1, 1, 2, 4, 9])
            sort = chance.randrange(4)
            if sort == 0:
                instead = chance.choice(HEADS)
            elif sort == 1:
                instead = bytes([found[at] ^ 1 << chance.randrange(8)]) if at < len(found) else b""
            elif sort == 2:
                other = chance.randrange(len(found) + 1)
                instead = found[other : other + chance.randrange(40)]
            else:
                instead = chance.randbytes(chance.randrange(5))
            found = found[:at] + instead + found[at + count :]
        yield found


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
    return kind, msgspec.msgpack.encode(tree)


@given(messages_of_sorts(), SEEDS)
def test_a_message_of_any_bytes_is_one_of_its_kind_or_malformed(made: tuple[Any, bytes], seed: int) -> None:
    kind, whole = made
    for data in damaged(whole, seed):
        try:
            message = unless_refused(Code.MALFORMED, partial(wire.decode, data, kind))
            if message is not None:
                assert wire.decode(wire.encode(message), kind) == message or "nan" in repr(message)
        except BaseException:
            note(f"{kind.__name__}: {data!r}")
            raise


@given(
    st.lists(st.binary(min_size=1, max_size=60) | st.builds(bytes, st.integers(1, 5000)), min_size=1, max_size=3),
    SEEDS,
    st.integers(1, 50),
)
def test_blocks_of_any_bytes_are_those_that_their_ids_name_or_refused(
    contents: list[bytes], seed: int, step: int
) -> None:
    framed = b"".join(
        part for each in contents for part in blocks.frame(blocks.block_id(each), blocks.encode_payload(each))
    )
    for body in damaged(framed, seed):
        taken = unless_refused(Code.BLOCK_INVALID, partial(taken_from, body, step))
        assert taken is not None or body != framed, "what is whole is taken"
        for block, content in taken or []:
            assert blocks.block_id(content) == block, body


def taken_from(body: bytes, step: int) -> list[tuple[BlockId, bytes]]:
    """The blocks of a body that arrives in pieces."""
    reader, found = blocks.FrameReader(), list[tuple[BlockId, bytes]]()
    for at in range(0, len(body), step):
        for frame in reader.feed(body[at : at + step]):
            found.append((frame.block, blocks.decode_payload(frame.payload or b"", frame.block)))
    reader.close()
    return found
