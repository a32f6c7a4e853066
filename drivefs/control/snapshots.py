"""What a mount answers to `drivefs snapshot`: naming a moment of the drive, and what names there are.

Owns the shape of the answers, their refusals, and the wait for what was written before: a snapshot is of what the
server has.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cache.workspace import LocalState
from drivefs.control import waiting
from drivefs.control.errors import Refused
from drivefs.control.paths import past_refusals
from drivefs.control.server import Handler, Report
from drivefs.fs import errors
from drivefs.fs.past import Past
from drivefs.protocol.history import SnapshotInfo
from drivefs.sync.engine import Engine

SENT_SECONDS = 60.0


class Naming:
    """The handlers of one mount."""

    def __init__(self, past: Past, engine: Engine, local: LocalState) -> None:
        self._past = past
        self._engine = engine
        self._local = local

    def table(self) -> dict[str, Handler]:
        """The commands."""
        return {"snapshots": self.show, "snapshot_create": self.create, "snapshot_delete": self.delete}

    async def show(self, arguments: dict[str, Any], report: Report) -> list[dict[str, Any]]:
        """All snapshots, in the order of their moments."""
        with _refusing(""):
            return [_fields(each) for each in await self._past.snapshots()]

    async def create(self, arguments: dict[str, Any], report: Report) -> dict[str, Any]:
        """Call the moment `time_ns` by `name`; 0 is now, when all that was written before has been sent.

        `is_whole`: the server had all of it.
        """
        name, time_ns = arguments["name"], arguments["time_ns"]
        is_whole = bool(time_ns) or await waiting.all_sent(self._engine, self._local, SENT_SECONDS)
        with _refusing(name):
            made = await self._past.create_snapshot(name, time_ns)
        return {**_fields(made), "is_whole": is_whole}

    async def delete(self, arguments: dict[str, Any], report: Report) -> None:
        """Take `name` away."""
        with _refusing(arguments["name"]):
            await self._past.delete_snapshot(arguments["name"])


def _fields(snapshot: SnapshotInfo) -> dict[str, Any]:
    return {
        "name": snapshot.name,
        "time_ns": snapshot.time_ns,
        "created_ns": snapshot.created_ns,
        "device": snapshot.device or None,
        "user": snapshot.user or None,
    }


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Say what the errors of the file system mean here."""
    with past_refusals("snapshots", "nothing was changed"):
        try:
            yield
        except errors.NotFound as error:
            what = f"there is no snapshot {name!r}, or no drive at that time" if name else "there is no such drive"
            raise Refused("not_found", f"{what}. drivefs snapshot list shows what there is") from error
        except (errors.Exists, errors.Invalid, errors.NoSpace) as error:
            raise Refused("refused", str(error).rstrip(".")) from error
