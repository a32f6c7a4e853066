"""What the commands of `drivefs-server` print of checks, maintenance and progress, for people and as JSON.

Owns the words and the exit codes of checks; knows only what comes from the control socket.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from backend.api import control

DONE, DAMAGED, MENDED, UNMENDED = 0, 3, 4, 5
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def tell_check(
    found: control.CheckResult | None, about: Mapping[str, object], as_json: bool, *, is_repair: bool = False
) -> int:
    """Print what a check found; gives the exit code."""
    assert found is not None
    code = _code_of(found, is_repair=is_repair)
    if as_json:
        print(json.dumps({**about, **_summary_of(found)}, indent=2))
        return code
    for problem in found.database:
        print(f"database: {problem}")
    if found.database:
        print(
            "The database is damaged. check --repair makes its indexes again; what else is wrong with it takes a"
            " backup, put back with restore: blocks are kept, and devices send what they have that is newer."
        )
    for name in found.lost_logs:
        print(
            f"{name}: the log of the database was damaged, and what was committed last is lost. Devices send what they"
            " have of it, a backup may have the rest. Remove the file when that is done: until then no object goes."
        )
    if found.index_problem_count:
        print(f"{found.index_problem_count} things were wrong with indexes of the database: they were made again.")
    for each in found.findings:
        needed = f"needed by {', '.join(each.files) or 'a file'}" if each.is_referenced else "no file needs it"
        print(f"block {each.block} of account {each.account}: {each.problem}; {needed}")
    print(f"{found.block_count} blocks, {found.byte_count} bytes checked: {len(found.findings)} damaged or missing.")
    if found.forgotten_count:
        print(f"{found.forgotten_count} blocks could not be read and were needed by nothing: forgotten.")
    if found.quarantined_count:
        print(f"{found.quarantined_count} objects that cannot be read were put aside, in blocks/quarantine.")
    if found.removed_count:
        print(f"{found.removed_count} objects ({found.removed_bytes} bytes) that nothing names were removed.")
    if found.orphan_count:
        print(
            f"{found.orphan_count} objects ({found.orphan_bytes} bytes) are named by nothing: uploads under way, or"
            " what a crash left. check --repair removes those that are older than a day."
        )
    if found.findings:
        print("Devices are asked for blocks that files need: at each mount, and every ten minutes. Check again then.")
    return code


def _code_of(found: control.CheckResult, *, is_repair: bool) -> int:
    if found.findings or found.database or found.lost_logs:
        return UNMENDED if is_repair else DAMAGED
    changes = (found.index_problem_count, found.forgotten_count, found.quarantined_count, found.removed_count)
    return MENDED if any(changes) else DONE


def _summary_of(found: control.CheckResult) -> dict[str, object]:
    names = ("orphan_count", "orphan_bytes", "removed_count", "removed_bytes", "quarantined_count")
    return {
        "sound": not (found.findings or found.database or found.lost_logs),
        "database": found.database,
        "lost_logs": found.lost_logs,
        "blocks": found.block_count,
        "bytes": found.byte_count,
        "findings": msgspec.to_builtins(found.findings),
        "objects": {name: getattr(found, name) for name in names},
        "forgotten_blocks": found.forgotten_count,
        "mended_indexes": found.index_problem_count,
    }


def tell_maintenance(done: control.MaintainResult, as_json: bool) -> None:
    """Print what maintenance did, or would do."""
    if as_json:
        print(json.dumps(_maintenance(done), indent=2))
        return
    would = "would be " if done.dry_run else ""
    print(
        f"trash: {done.trash_count} things older than their time {would}let go"
        + ("" if done.dry_run else f", {in_units(done.trash_bytes)} of content freed")
    )
    print(
        f"revisions: {done.revision_count} of {done.file_count} files {would}let go, which keep {done.left_count}; "
        f"{in_units(done.revision_bytes)} of content {would}freed ({in_units(done.revision_stored_bytes)} as stored)"
    )
    print(
        f"blocks: {done.condemned_count} that nothing has needed for three days {would}condemned, "
        f"{done.deleted_count} condemned a day ago {would}deleted"
        + ("" if done.dry_run else f", {in_units(done.object_bytes)} freed on the disk")
    )
    if done.cooled_count:
        print(f"cold store: {done.cooled_count} objects, {in_units(done.cooled_bytes)}, {would}moved there")
    print(f"feeds: {done.change_count} old changes {would}forgotten")
    if done.user_count:
        print(f"users: {done.user_count} who were removed, and whose time is over, {would}gone for good")


def _maintenance(done: control.MaintainResult) -> dict[str, object]:
    return {
        "dry_run": done.dry_run,
        "trash": {"count": done.trash_count, "bytes": None if done.dry_run else done.trash_bytes},
        "revisions": {
            "files": done.file_count,
            "let_go": done.revision_count,
            "left": done.left_count,
            "bytes": done.revision_bytes,
            "stored_bytes": done.revision_stored_bytes,
        },
        "blocks": {
            "condemned": done.condemned_count,
            "deleted": done.deleted_count,
            "objects": None if done.dry_run else done.object_count,
            "stored_bytes": None if done.dry_run else done.object_bytes,
        },
        "cold": {"objects": done.cooled_count, "stored_bytes": done.cooled_bytes},
        "changes": done.change_count,
        "users": done.user_count,
    }


def in_units(size_bytes: float) -> str:
    """Write a size for people."""
    size, unit = float(size_bytes), 0
    while size >= 1000 and unit < len(UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.0f} {UNITS[unit]}" if unit == 0 else f"{size:.1f} {UNITS[unit]}"


@contextmanager
def bar(text: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error."""
    columns = (TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bars:
        bar = bars.add_task(text, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)
