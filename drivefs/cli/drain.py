"""Waiting until the server has what this device holds, with progress: what `sync --wait` and `umount` do.

Owns the decision when waiting is pointless (pure: `Patience`) and the progress bar. The mount does the work; hanging up
leaves it at it.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from drivefs.cli import output
from drivefs.cli.drives import Drive

OFFLINE_SECONDS = 15.0
"""How long an unreachable server is waited for, without a limit set by the user."""
NOTHING_LEFT_SECONDS = 2.0
"""How long the mount may take, whatever the limit, to say that nothing is left: that is no waiting for the server."""
SILENCE_SECONDS = 30.0
"""How long the mount itself may say nothing; a limit set by the user makes it less."""
STALL_SECONDS = 120.0
"""How long nothing at all may be finished, though the server is reachable."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the wait ended; what is left is counted in mutations and bytes of content."""

    is_done: bool
    reason: str
    mutations: int
    size_bytes: int
    is_revoked: bool = False
    held_files: int = 0
    """Of what is left, deletions that wait for someone to decide."""
    refused_count: int = 0
    """Of so many files, directories and links the server did not take something, and never will."""
    ignored_count: int = 0
    """So many are on this device only, since a rule says so."""


class Patience:
    """Decides whether to go on waiting, from what the mount reports."""

    def __init__(self, limit_seconds: float | None, now: float) -> None:
        self._limit = limit_seconds
        self._began = now
        self._moved = now
        self._least: tuple[int, int] | None = None
        self._online_at = now

    def is_over(self, progress: dict[str, Any], now: float) -> str:
        """Why to give up, or an empty string to go on."""
        left = (progress["mutations"], progress["bytes"])
        if left != self._least:
            self._least, self._moved = left, now
        if progress["online"]:
            self._online_at = now
        if progress.get("revoked") and progress["mutations"]:
            return output.clause(progress["reason"] or "this device was revoked")
        if self._limit is not None:
            if left == (0, 0) and now - self._began < NOTHING_LEFT_SECONDS:
                return ""
            return f"the time limit of {self._limit:g} s is over" if now - self._began >= self._limit else ""
        if now - self._online_at >= OFFLINE_SECONDS:
            return progress["reason"] or "the server cannot be reached"
        if now - self._moved >= STALL_SECONDS:
            return f"nothing has been accepted for {STALL_SECONDS:.0f} s ({progress['reason'] or 'no reason given'})"
        return ""


class _GaveUp(Exception):
    """Ends the call from within its progress."""


def drain(drive: Drive, limit_seconds: float | None) -> Outcome:
    """Wait until the server has everything written before the call, or until waiting is pointless.

    Raises:
        CommandError: the mount has gone or does not answer.
    """
    patience = Patience(limit_seconds, time.monotonic())
    last: dict[str, Any] = {"mutations": 0, "bytes": 0}
    reason = ""
    silence_seconds = SILENCE_SECONDS if limit_seconds is None else min(SILENCE_SECONDS, limit_seconds + 5.0)

    with _bar(drive.mountpoint) as show:

        def on_progress(progress: dict[str, Any]) -> None:
            nonlocal last, reason
            last = progress
            show(progress)
            reason = patience.is_over(progress, time.monotonic())
            if reason:
                raise _GaveUp

        try:
            last = drive.call("sync", {"wait": True}, on_progress, silence_seconds=silence_seconds)
        except _GaveUp:
            return Outcome(False, reason, last["mutations"], last["bytes"], is_revoked=bool(last.get("revoked")))
        show(last)
    return Outcome(
        True,
        "",
        last["mutations"],
        last["bytes"],
        held_files=_held_files(last),
        refused_count=last.get("refused", 0),
        ignored_count=last.get("ignored", 0),
    )


def _held_files(progress: dict[str, Any]) -> int:
    held = progress.get("held")
    return held["files"] if held else 0


def held_in_words(outcome: Outcome) -> str:
    """Say that deletions are held, and how to decide."""
    return (
        f"the deletion of {output.count_of(outcome.held_files, 'file')} is held, as a large share of the drive: "
        "drivefs held release deletes them everywhere, drivefs held restore brings them back here"
    )


def refused_in_words(outcome: Outcome) -> str:
    """Say that the server did not take something, and where that is."""
    return (
        f"of {output.count_of(outcome.refused_count, 'file')} the server did not take what was changed here, and never "
        "will: it is kept in lost+found on this device, drivefs status says where and why"
    )


@contextmanager
def _bar(mountpoint: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A progress bar on the terminal; elsewhere nothing, since a log is no place for one."""
    if not sys.stderr.isatty():
        yield lambda progress: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"uploading {mountpoint}", total=None, left="")
        most = 0

        def show(report: dict[str, Any]) -> None:
            nonlocal most
            # A change counts as much as 4 KiB of content: many empty files are work too.
            weight = report["bytes"] + 4096 * report["mutations"]
            most = max(most, weight, 1)
            left = f"{output.pending_in_words(report['mutations'], report['bytes'])} left"
            if not report["online"]:
                left += ", offline"
            progress.update(task, total=most, completed=most - weight, left=left)

        yield show
