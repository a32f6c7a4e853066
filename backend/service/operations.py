"""What devices were answered that had something done, in case they ask again since the answer was lost.

Owns the table `operations`. A device names what it asks for by random bytes; what it is answered is written in the
transaction that does it. Invariants: what is asked twice is done once, and answered alike both times; only a hash of
the request is kept, since the address of a link is made of its name.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from blake3 import blake3
from sqlalchemy import Connection, bindparam, delete, insert, select

from backend.metadata.schema import operations
from backend.service.caller import Caller
from drivefs.protocol import wire
from drivefs.protocol.messages import Doing

KEPT_SECONDS = 24 * 3600
"""Nobody waits for an answer for so long."""
MOST_KEPT = 1000
"""Of one device: whoever asks again does so within moments, and not after so many others."""

T = TypeVar("T")

_o = operations.c
_ANSWER = select(_o.answer).where(_o.device == bindparam("by"), _o.request == bindparam("asked"))
_LATEST = select(_o.done_ns).where(_o.device == bindparam("by")).order_by(_o.done_ns.desc())
_FORGET = delete(operations).where(_o.device == bindparam("by"), _o.done_ns < bindparam("before"))
_NOTE = insert(operations)


class Asked(NamedTuple):
    """What is to be done, by whom it was asked, and when."""

    caller: Caller
    request: Doing
    now_ns: int


def once(connection: Connection, asked: Asked, kind: type[T], work: Callable[[], T]) -> T:
    """Do it, or give the answer, a `kind`, of the time when it was done. A request without a name is done each time.

    What is refused is not done, and judged anew when it is asked for again.
    """
    if not asked.request.op:
        return work()
    kind_of_request = type(asked.request).__name__.encode()
    key = {"by": asked.caller.device, "asked": blake3(kind_of_request + wire.encode(asked.request)).digest()}
    known = connection.execute(_ANSWER, key).scalar_one_or_none()
    if known is not None:
        return wire.decode(known, kind)
    answer = work()
    oldest = connection.execute(_LATEST.offset(MOST_KEPT - 1).limit(1), {"by": key["by"]}).scalar_one_or_none() or 0
    before = max(asked.now_ns - KEPT_SECONDS * 10**9, oldest)
    connection.execute(_FORGET, {"by": key["by"], "before": before})
    row = {"device": key["by"], "request": key["asked"], "done_ns": asked.now_ns, "answer": wire.encode(answer)}
    connection.execute(_NOTE, row)
    return answer
