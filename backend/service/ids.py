"""New identifiers: the deployment's incarnation, ranges of inode ids, and random ids.

Owns how ids are drawn, and the table of incarnations that ended. Inode ids are unique in the whole deployment, over all
its restores: a range's number begins with the incarnation. Invariant: no range is handed out twice.
"""

from sqlalchemy import Connection, bindparam, func, insert, select, update

from backend.metadata.schema import deployment, devices, id_ranges, restores, workspaces
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.ground import RandomBytes
from drivefs.protocol.ids import ID_RANGE_LENGTH, MAX_ID, DeviceId, Epoch, Incarnation, InodeId, UserId

INCARNATION_BITS = 20
RANGE_BITS = 23
MAX_RANGES_OF_USER = 2**13
"""Enough for 8,000 million files that were ever made; so a thousand users cannot use up the ranges of all."""
BACKEND_DEVICE = DeviceId(0)
"""The device in whose name the backend itself commits and takes ids."""
_INCARNATION = select(deployment.c.incarnation)
_COUNT_OF_USER = (
    select(func.count())
    .select_from(devices.join(id_ranges, id_ranges.c.device == devices.c.device))
    .where(devices.c.user == bindparam("user"))
)


def random_id(random_bytes: RandomBytes) -> int:
    """An unpredictable number from 1 to MAX_ID."""
    return int.from_bytes(random_bytes(8), "big") % MAX_ID + 1


def establish_deployment(connection: Connection, *, now_ns: int, random_bytes: RandomBytes) -> Incarnation:
    """The incarnation of this deployment, which begins its life here if it has none yet."""
    known = connection.execute(select(deployment.c.incarnation)).scalar_one_or_none()
    if known is not None:
        return Incarnation(known)
    drawn = _draw(random_bytes)
    row = {"deployment": 1, "incarnation": drawn, "next_range": 0, "next_inode": 0, "created_ns": now_ns}
    connection.execute(insert(deployment), row)
    return Incarnation(drawn)


def _draw(random_bytes: RandomBytes) -> int:
    drawn: int = int.from_bytes(random_bytes(4), "big") % (2**INCARNATION_BITS - 1) + 1
    return drawn


def renew_incarnation(connection: Connection, *, random_bytes: RandomBytes) -> Incarnation | None:
    """Begin a new incarnation: the data may be older than what devices know. None: there is no deployment yet.

    From here on no id is one that was handed out before, whether or not this data knows of it.
    """
    ended = connection.execute(select(deployment.c.incarnation)).scalar_one_or_none()
    if ended is None:
        return None
    known = {ended, *connection.execute(select(restores.c.ended).distinct()).scalars()}
    drawn = ended
    while drawn in known:
        drawn = _draw(random_bytes)
    number = (connection.execute(select(func.max(restores.c.number))).scalar() or 0) + 1
    heads = connection.execute(select(workspaces.c.account, workspaces.c.workspace, workspaces.c.head_seq)).all()
    if heads:
        rows = [{**row._asdict(), "number": number, "ended": ended} for row in heads]
        connection.execute(insert(restores), rows)
    connection.execute(update(deployment).values(incarnation=drawn, next_range=0, next_inode=0))
    return Incarnation(drawn)


def incarnation(connection: Connection) -> Incarnation:
    """The incarnation of a deployment that has been established."""
    return Incarnation(connection.execute(_INCARNATION).scalar_one())


def take_ranges(connection: Connection, device: DeviceId, epoch: Epoch, *, count: int) -> list[InodeId]:
    """Hand `count` new ranges of `ID_RANGE_LENGTH` inode ids to a device's epoch; gives the first id of each.

    Raises:
        ProtocolError: `unavailable`: there are none left, since those of the next incarnation begin there.
    """
    taken = update(deployment).values(next_range=deployment.c.next_range + count)
    number, drawn = connection.execute(taken.returning(deployment.c.next_range, deployment.c.incarnation)).one()
    if number > 2**RANGE_BITS:
        raise ProtocolError(Code.UNAVAILABLE, "This server has no numbers for new files left. Nothing was changed.")
    starts = [(drawn << RANGE_BITS | each) * ID_RANGE_LENGTH for each in range(number - count, number)]
    rows = [{"start": start, "device": device, "epoch": epoch} for start in starts]
    connection.execute(insert(id_ranges), rows)
    return [InodeId(start) for start in starts]


def check_share(connection: Connection, user: UserId, *, more: int) -> None:
    """See that a user, with so many ranges more, has no more than one may have.

    Raises:
        ProtocolError: `forbidden`.
    """
    if connection.execute(_COUNT_OF_USER, {"user": user}).scalar_one() + more > MAX_RANGES_OF_USER:
        raise ProtocolError(
            Code.FORBIDDEN, "The devices of this user have asked for numbers for more files than anybody makes."
        )


def take_inode(connection: Connection) -> InodeId:
    """The next inode id that the backend uses itself."""
    inode = connection.execute(select(deployment.c.next_inode)).scalar_one()
    if inode % ID_RANGE_LENGTH == 0:
        # The first id of a range stands for "the last range is used up" and is not used itself.
        inode = take_ranges(connection, BACKEND_DEVICE, Epoch(0), count=1)[0] + 1
    connection.execute(update(deployment).values(next_inode=inode + 1))
    return InodeId(inode)
