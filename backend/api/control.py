"""The control socket: administrators' commands, handed to the process that serves.

Owns the socket's protocol (one request per connection: a line of JSON, answered by lines of JSON, the last one with
the result or the refusal) and both its ends. The socket lies in the data directory with mode 0600: whoever can open it
could as well open the database. `perform` is also what the commands do themselves when no server runs.
"""

import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from pathlib import Path

import anyio
import anyio.abc
import msgspec
from anyio.streams.buffered import BufferedByteReceiveStream

from backend.api.services import Services
from backend.metadata.errors import MetadataError
from backend.service import checks
from backend.service.accounts import User
from backend.service.maintenance import Maintained
from drivefs.protocol.errors import Code, ProtocolError
from drivefs.protocol.messages import DeviceInfo

log = logging.getLogger(__name__)

SOCKET_NAME = "control.sock"
MAX_LINE_BYTES = 2**20

Report = Callable[[int, int], Awaitable[None]]
"""Told of progress: how much is done, of how much."""


class AddUser(msgspec.Struct, tag="user_add"):
    """Make a user."""

    name: str
    password: str


class SetPassword(msgspec.Struct, tag="user_password"):
    """Give a user another password."""

    name: str
    password: str


class SetLimits(msgspec.Struct, tag="user_set"):
    """Set what a user may store; 0 gives back what the deployment gives all, None leaves it."""

    name: str
    quota_bytes: int | None = None
    file_bytes: int | None = None


class RemoveUser(msgspec.Struct, tag="user_remove"):
    """Remove a user, who can be brought back for a time."""

    name: str
    ends_shares: bool = False


class RestoreUser(msgspec.Struct, tag="user_restore"):
    """Bring a removed user back."""

    name: str


class ListUsers(msgspec.Struct, tag="user_list"):
    """List all users."""


class Check(msgspec.Struct, tag="check"):
    """Check all that is stored, and mend what can be."""

    is_repair: bool = False


class ListDevices(msgspec.Struct, tag="device_list"):
    """List the devices of all users, or of one."""

    user: str = ""


class RevokeDevice(msgspec.Struct, tag="device_revoke"):
    """End a device, named by its name or its number."""

    user: str
    device: str


class Backup(msgspec.Struct, tag="backup"):
    """Make a backup in a directory, named by its whole path."""

    destination: str


class Maintain(msgspec.Struct, tag="maintain"):
    """Do now what the server does to its data now and then, or only tell what that would be."""

    is_dry_run: bool = False


Users = AddUser | SetPassword | SetLimits | ListUsers | RemoveUser | RestoreUser
Command = Users | Check | Backup | ListDevices | RevokeDevice | Maintain


class UserInfo(msgspec.Struct):
    """A user, as `user list` shows it."""

    name: str
    created_ns: int
    device_count: int
    quota_bytes: int = 0
    file_bytes: int = 0
    stored_bytes: int = 0
    removed_ns: int = 0
    """When the user was removed; 0: not at all."""
    until_ns: int = 0
    """Up to when a removed user can be brought back."""


class EndedShare(msgspec.Struct):
    """A share that a removal has ended, by its path in the drive, and who saw it."""

    path: bytes
    users: list[str]


class RemovedUser(msgspec.Struct):
    """What a removal has ended."""

    name: str
    until_ns: int
    device_count: int
    shares: list[EndedShare]
    left_count: int


class UserDevice(msgspec.Struct):
    """A device, and whose it is."""

    user: str
    device: DeviceInfo


class FindingInfo(msgspec.Struct):
    """A block that is not as it must be."""

    account: int
    block: str
    problem: str
    is_referenced: bool
    files: list[str]


class CheckResult(msgspec.Struct):
    """What a check found."""

    block_count: int
    byte_count: int
    findings: list[FindingInfo]
    orphan_count: int = 0
    orphan_bytes: int = 0
    removed_count: int = 0
    removed_bytes: int = 0
    forgotten_count: int = 0
    quarantined_count: int = 0
    index_problem_count: int = 0
    database: list[str] = []
    """What is wrong with the database: then nothing else was looked at."""
    lost_logs: list[str] = []
    """Damaged logs of it, of which commits are lost."""


class MaintainResult(msgspec.Struct):
    """What maintenance did, or would do; `bytes` are of content, `stored_bytes` as they lie in the store."""

    dry_run: bool
    trash_count: int
    trash_bytes: int
    file_count: int
    revision_count: int
    left_count: int
    revision_bytes: int
    revision_stored_bytes: int
    change_count: int
    condemned_count: int
    deleted_count: int
    object_count: int
    object_bytes: int
    cooled_count: int = 0
    cooled_bytes: int = 0
    user_count: int = 0


class Reply(msgspec.Struct, omit_defaults=True):
    """One line of an answer: progress, or the end with a result or a refusal."""

    done: int = 0
    total: int = 0
    is_last: bool = False
    code: str = ""
    message: str = ""
    users: list[UserInfo] = []
    removed: RemovedUser | None = None
    devices: list[UserDevice] = []
    check: CheckResult | None = None
    maintained: MaintainResult | None = None


_encoder = msgspec.json.Encoder()
_commands = msgspec.json.Decoder(Command)
_replies = msgspec.json.Decoder(Reply)


async def perform(services: Services, command: Command, report: Report) -> Reply:
    """Do what a command says.

    Raises:
        ProtocolError: it is refused.
    """
    if isinstance(command, Users):
        return await _perform_on_users(services, command)
    if isinstance(command, ListDevices):
        everywhere = await services.devices.everywhere(command.user)
        return Reply(is_last=True, devices=[UserDevice(*each) for each in everywhere])
    if isinstance(command, RevokeDevice):
        ended = await services.devices.revoke_named(command.user, command.device)
        return Reply(is_last=True, devices=[UserDevice(*ended)])
    if isinstance(command, Maintain):
        done = await services.maintenance.run(is_dry_run=command.is_dry_run)
        return Reply(is_last=True, maintained=_maintained(done))
    if isinstance(command, Backup):
        found = await services.backups.make(Path(command.destination), report)
    else:
        found = await services.checks.check(report, is_repair=command.is_repair)
    return Reply(is_last=True, check=result_of(found))


async def _perform_on_users(services: Services, command: Users) -> Reply:
    reply, accounts = Reply(is_last=True), services.accounts
    match command:
        case AddUser():
            await accounts.add_user(command.name, command.password)
        case SetPassword():
            await accounts.set_password(command.name, command.password)
        case SetLimits():
            given = {"quota_bytes": command.quota_bytes, "file_bytes": command.file_bytes}
            changed = {name: value or None for name, value in given.items() if value is not None}
            reply.users = [_user(services, await accounts.set_limits(command.name, changed))]
        case ListUsers():
            reply.users = [_user(services, each) for each in await accounts.list_users()]
        case RemoveUser():
            done = await services.departures.remove(command.name, ends_shares=command.ends_shares)
            shares = [EndedShare(*each) for each in done.shares]
            reply.removed = RemovedUser(done.name, done.until_ns, done.device_count, shares, done.left_count)
        case RestoreUser():
            await services.departures.restore(command.name)
            listed = await accounts.list_users()
            reply.users = [_user(services, each) for each in listed if each.name == command.name]
    return reply


def _user(services: Services, user: User) -> UserInfo:
    figures = (user.device_count, user.quota_bytes, user.file_bytes, user.stored_bytes)
    until_ns = services.departures.until_ns(user.removed_ns) if user.removed_ns else 0
    return UserInfo(user.name, user.created_ns, *figures, user.removed_ns or 0, until_ns)


def result_of(found: checks.Report) -> CheckResult:
    """What a check found, as it travels."""
    findings = [
        FindingInfo(each.account, each.block.hex(), each.problem, each.is_referenced, list(each.files))
        for each in found.findings
    ]
    return CheckResult(
        found.block_count,
        found.byte_count,
        findings,
        database=found.database,
        lost_logs=found.lost_logs,
        **asdict(found.mended),
    )


def _maintained(done: Maintained) -> MaintainResult:
    thinned, collected = done.thinned, done.collected
    return MaintainResult(
        dry_run=done.is_dry_run,
        trash_count=done.expired.count,
        trash_bytes=done.expired.freed.size_bytes,
        file_count=thinned.file_count,
        revision_count=thinned.freed.revision_count,
        left_count=thinned.left_count,
        revision_bytes=thinned.freed.size_bytes,
        revision_stored_bytes=thinned.freed.payload_bytes,
        change_count=done.change_count,
        condemned_count=collected.condemned_count,
        deleted_count=collected.deleted_count,
        object_count=collected.object_count,
        object_bytes=collected.object_bytes,
        cooled_count=done.cooled.object_count,
        cooled_bytes=done.cooled.size_bytes,
        user_count=done.user_count,
    )


@asynccontextmanager
async def listening(data: Path) -> AsyncIterator[anyio.abc.SocketListener]:
    """The socket, for the process that holds the lock on the data directory."""
    (data / SOCKET_NAME).unlink(missing_ok=True)
    with _short_path(data) as path:
        listener = await anyio.create_unix_listener(path, mode=0o600)
    async with listener:
        yield listener
    (data / SOCKET_NAME).unlink(missing_ok=True)


async def serve(listener: anyio.abc.SocketListener, services: Services) -> None:
    """Answer commands until cancelled."""

    async def answer(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            try:
                await _answer(stream, services)
            except (anyio.BrokenResourceError, anyio.EndOfStream, anyio.DelimiterNotFound, anyio.IncompleteRead):
                log.info("an administrator's command went away before it was answered")

    await listener.serve(answer)


async def _answer(stream: anyio.abc.SocketStream, services: Services) -> None:
    line = await BufferedByteReceiveStream(stream).receive_until(b"\n", MAX_LINE_BYTES)

    async def say(reply: Reply) -> None:
        await stream.send(_encoder.encode(reply) + b"\n")

    async def report(done: int, total: int) -> None:
        await say(Reply(done=done, total=total))

    try:
        reply = await perform(services, _commands.decode(line), report)
    except ProtocolError as error:
        reply = Reply(is_last=True, code=error.code, message=error.message)
    except MetadataError as error:
        reply = Reply(is_last=True, code=Code.CONFLICT, message=str(error))
    except msgspec.DecodeError as error:
        reply = Reply(is_last=True, code=Code.MALFORMED, message=f"The server does not know this command ({error}).")
    except anyio.BrokenResourceError:
        raise
    except Exception:
        log.exception("an administrator's command failed")
        reply = Reply(is_last=True, code=Code.INTERNAL, message="The server failed at this; its log says why.")
    await say(reply)


def ask(data: Path, command: Command, progress: Callable[[int, int], None]) -> Reply:
    """Have the process that serves this data directory do a command; for programs without an event loop.

    Raises:
        OSError: nobody answers at the socket, or not to the end.
        ProtocolError: the command is refused.
    """
    try:
        line = _encoder.encode(command)
    except UnicodeEncodeError as error:
        raise ProtocolError(
            Code.MALFORMED, "A server that runs takes no names that are not UTF-8. Nothing was changed."
        ) from error
    with _short_path(data) as path, socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(line + b"\n")
        with connection.makefile("rb") as lines:
            for line in lines:
                reply = _replies.decode(line)
                if not reply.is_last:
                    progress(reply.done, reply.total)
                elif reply.code:
                    raise ProtocolError(Code(reply.code), reply.message)
                else:
                    return reply
    raise ConnectionError("the server stopped before it had answered")


@contextmanager
def _short_path(data: Path) -> Iterator[str]:
    """A path of the socket that is short enough for a socket's address, however deep the data directory lies."""
    descriptor = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET_NAME}"
    finally:
        os.close(descriptor)
