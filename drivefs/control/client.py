"""The commands' end of the control socket: plain blocking sockets, so that a command starts fast.

Owns one call: connect, ask, hear progress, get the result. The deadline is on silence: a mount that works for long
reports progress meanwhile.
"""

import select
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from drivefs.control import addresses, frames
from drivefs.control.errors import ControlError, NoAnswer, NotRunning, Refused

Progress = Callable[[Any], None]


def call(
    directory: Path,
    command: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    silence_seconds: float = 5.0,
    on_progress: Progress | None = None,
) -> Any:
    """Ask the mount whose control socket is in `directory`, and give its result.

    `silence_seconds` bounds the wait for each single message. Interrupting it leaves the mount as it is.

    Raises:
        NotRunning: nobody listens there.
        NoAnswer: silence, or the mount went away.
        Refused: the mount said no.
    """
    request = frames.encode({"command": command, "arguments": dict(arguments or {})})
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(silence_seconds)
        _connect(connection, directory)
        try:
            connection.sendall(request)
            while True:
                message = _receive(connection)
                if "progress" not in message:
                    return _result(message)
                if on_progress is not None:
                    on_progress(message["progress"])
        except TimeoutError as error:
            raise NoAnswer(f"the mount said nothing for {silence_seconds:.0f} s") from error
        except (OSError, ValueError) as error:
            raise NoAnswer(f"the mount broke off: {error}") from error


def _connect(connection: socket.socket, directory: Path) -> None:
    try:
        with addresses.short_address(directory) as address:
            connection.connect(address)
    except TimeoutError as error:
        raise NoAnswer("the mount does not take connections") from error
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
        raise NotRunning(f"no mount listens in {directory}") from error
    except OSError as error:
        raise ControlError(f"cannot reach the mount through {directory / addresses.SOCKET_NAME}: {error}") from error


def _result(message: dict[str, Any]) -> Any:
    if "error" in message:
        raise Refused(message["error"]["kind"], message["error"]["message"])
    return message["result"]


def _receive(connection: socket.socket) -> dict[str, Any]:
    length = frames.body_length(_read(connection, frames.HEADER.size))
    return frames.decode(_read(connection, length))


def _read(connection: socket.socket, length: int) -> bytes:
    parts = []
    while length:
        try:
            part = connection.recv(min(length, 2**20))
        except TimeoutError:
            # Who was stopped meanwhile, by Ctrl-Z for instance, did not look: what has come since counts.
            if not select.select([connection], [], [], 0)[0]:
                raise
            part = connection.recv(min(length, 2**20))
        if not part:
            raise ConnectionResetError("it closed the connection")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
