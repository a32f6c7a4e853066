"""Which drives are mounted: one record beside each control socket.

Owns the record's file. A record alone proves nothing, since a killed mount leaves it behind: whether the mount lives is
asked of its socket. Needs no answer from the mount, so that a hung one is still found and named.
"""

import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

from drivefs.control import addresses

RECORD_NAME = "mount.json"


@dataclass(frozen=True, slots=True)
class MountRecord:
    """Who serves which mountpoint."""

    profile: str
    mountpoint: str
    state: str
    pid: int


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount that lives; `directory` is where its control socket is."""

    record: MountRecord
    directory: Path


def write_record(directory: Path, record: MountRecord) -> None:
    """Say that this process serves a mountpoint; replaces what a dead mount said."""
    fresh = directory / f".{RECORD_NAME}.new"
    fresh.write_text(json.dumps(asdict(record)))
    os.replace(fresh, directory / RECORD_NAME)


def remove_record(directory: Path) -> None:
    """Take the record and the socket away: the mount ends."""
    (directory / RECORD_NAME).unlink(missing_ok=True)
    (directory / addresses.SOCKET_NAME).unlink(missing_ok=True)


def mounted(runtime: Path) -> list[Mounted]:
    """All mounts that live, of all profiles below one runtime directory, by mountpoint."""
    found = [Mounted(record, directory) for record, directory in _recorded(runtime) if _listens(directory)]
    return sorted(found, key=lambda each: each.record.mountpoint)


def left_behind(runtime: Path) -> list[MountRecord]:
    """What mounts said that nobody serves any more: they were killed, and their mountpoints may still be there."""
    return [record for record, directory in _recorded(runtime) if not _listens(directory)]


def _recorded(runtime: Path) -> list[tuple[MountRecord, Path]]:
    read = ((_read(file), file.parent) for file in runtime.glob(f"*/{RECORD_NAME}"))
    return [(record, directory) for record, directory in read if record is not None]


def _read(file: Path) -> MountRecord | None:
    try:
        return MountRecord(**json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _listens(directory: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as connection:
        try:
            with addresses.short_address(directory) as address:
                connection.connect(address)
        except BlockingIOError:
            # Its queue is full: it lives, and is busy or stopped.
            return True
        except OSError:
            return False
    return True
