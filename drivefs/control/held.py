"""What a mount answers to `drivefs held`: the removals that it asks about, and letting them go or taking them back."""

from typing import Any

from drivefs.control.errors import Refused
from drivefs.control.server import Handler, Report
from drivefs.sync.guard import Guard, Question
from drivefs.sync.publications import Publications
from drivefs.sync.restoring import Restoring


class Deciding:
    """The handlers of one mount."""

    def __init__(self, guard: Guard, restoring: Restoring, publications: Publications) -> None:
        self._guard = guard
        self._restoring = restoring
        self._publications = publications

    def table(self) -> dict[str, Handler]:
        """The commands."""
        return {"held": self.held, "held_release": self.release, "held_restore": self.restore}

    async def held(self, arguments: dict[str, Any], report: Report) -> dict[str, Any] | None:
        """What is asked; None: nothing."""
        question = self._guard.question
        return None if question is None else as_fields(question)

    async def release(self, arguments: dict[str, Any], report: Report) -> dict[str, Any]:
        """Let all that is held go to the server."""
        self._check()
        files = self._guard.release()
        self._publications.changed()
        return {"files": files}

    async def restore(self, arguments: dict[str, Any], report: Report) -> dict[str, Any]:
        """Take all that is held back."""
        self._check()
        files = await self._restoring.restore()
        self._publications.changed()
        return {"files": files}

    def _check(self) -> None:
        if self._guard.question is None:
            raise Refused("nothing_held", "no deletions are held")


def as_fields(question: Question) -> dict[str, Any]:
    """What is asked, for programs."""
    return {"files": question.files, "drive_files": question.drive_files, "since_ns": question.since_ns}


def sentence(question: Question) -> str:
    """What is asked, for people."""
    return (
        f"{question.files:,} files were deleted here, of the {question.drive_files:,} in the drive. Other devices "
        "still have them: drivefs held release deletes them everywhere, drivefs held restore brings them back here"
    )
