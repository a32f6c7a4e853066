"""Entry of scripts/bench: makes the targets in a fresh directory, measures, reports, and removes what it made.

Without a subject it measures one mount against others; a first word such as `devices` names another subject.
"""

import importlib
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks import report, rounds, settings
from benchmarks.drivefs_mount import DrivefsMount
from benchmarks.juicefs import JuicefsRedis, JuicefsRedisWriteback, JuicefsSqlite, JuicefsSqliteWriteback
from benchmarks.rclone import RcloneMount
from benchmarks.s3ql import S3qlMount
from benchmarks.sshfs import SshfsMount
from benchmarks.targets import PlainDirectory, Target, TrivialMount

OWN: tuple[type[Target], ...] = (PlainDirectory, TrivialMount, DrivefsMount)
JUICEFS: tuple[type[Target], ...] = (JuicefsSqlite, JuicefsSqliteWriteback, JuicefsRedis, JuicefsRedisWriteback)
TARGETS: dict[str, type[Target]] = {
    target.name: target for target in (*OWN, RcloneMount, *JUICEFS, SshfsMount, S3qlMount)
}
SUBJECTS = {
    "devices": "benchmarks.devices",
    "history": "benchmarks.history",
    "large": "benchmarks.large_drive",
    "polls": "benchmarks.polls",
}
"""Subjects with a command line of their own; each module has `main(arguments, say)`, which gives the exit code."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Exit code 0 when all was measured that is ours, 1 when something of it failed."""
    if (subject := next(iter(sys.argv[1:]), "")) in SUBJECTS:
        code: int = importlib.import_module(SUBJECTS[subject]).main(sys.argv[2:], say)
        return code
    chosen = settings.parse(sys.argv[1:])
    chosen.directory.mkdir(parents=True, exist_ok=True)
    base = Path(tempfile.mkdtemp(prefix="run-", dir=chosen.directory))
    try:
        targets = [TARGETS[name](base / name) for name in chosen.targets]
        results = rounds.measure(targets, chosen, base, say)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    report.publish(results, chosen)
    return int(any(target in settings.OWN_TARGETS for target, _ in results.failures))


if __name__ == "__main__":
    sys.exit(main())
