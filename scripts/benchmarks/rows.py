"""The rows of the benchmark: what each figure is, which way is better, and what drivefs must reach.

Owns names, units and goals. Measuring is the workloads', arithmetic the report's.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure. `goal_ratio`: speed of drivefs over that of the trivial file system, at least.

    `goal_most`: the value itself, at most.
    """

    key: str
    label: str
    unit: str
    higher_is_better: bool
    goal_ratio: float | None = None
    goal_most: float | None = None


def rate(key: str, label: str, unit: str, goal_ratio: float | None = None) -> Row:
    return Row(key=key, label=label, unit=unit, higher_is_better=True, goal_ratio=goal_ratio)


def seconds(key: str, label: str, *, goal_ratio: float | None = None, goal_most: float | None = None) -> Row:
    return Row(key=key, label=label, unit="s", higher_is_better=False, goal_ratio=goal_ratio, goal_most=goal_most)


def mebibytes(key: str, label: str, goal_most: float | None = None) -> Row:
    return Row(key=key, label=label, unit="MiB", higher_is_better=False, goal_most=goal_most)


ROWS = {
    row.key: row
    for row in (
        rate("create", "small files: create, write 1 KiB, close", "files/s", 0.6),
        seconds("create_synced", "small files: until synced", goal_most=4.0),
        rate("stat", "small files: stat", "files/s", 0.9),
        rate("scandir", "small files: scandir and stat", "files/s", 0.9),
        rate("small_read", "small files: open, read, close (warm)", "files/s", 0.9),
        rate("small_server", "small files: open, read, close, cold, from the server", "files/s"),
        rate("rename", "small files: rename", "files/s", 0.6),
        rate("unlink", "small files: unlink", "files/s", 0.6),
        rate("write", "large file: sequential write", "MB/s", 0.7),
        seconds("write_synced", "large file: until synced", goal_most=6.0),
        rate("read_warm", "large file: sequential read, warm pages", "MB/s", 0.8),
        rate("read_cold", "large file: sequential read, cold pages, local blocks", "MB/s", 0.8),
        rate("read_server", "large file: sequential read, cold, from the server", "MB/s"),
        rate("random_read", "large file: random 4 KiB reads, cold pages", "reads/s"),
        rate("random_write", "large file: random 4 KiB overwrites, then fsync", "writes/s"),
        seconds("untar", "source tree: untar", goal_ratio=0.6),
        seconds("untar_synced", "source tree: until synced", goal_most=5.0),
        seconds("find", "source tree: find"),
        seconds("grep", "source tree: grep -r"),
        seconds("copy", "source tree: cp -r"),
        seconds("remove", "source tree: rm -rf"),
        seconds("git_add_commit", "git: add and commit", goal_ratio=0.6),
        seconds("git_add", "git: add"),
        seconds("git_commit", "git: commit"),
        seconds("git_status", "git: status"),
        rate("sqlite", "SQLite: transactions", "1/s", 0.8),
        seconds("mount", "mount to first ls", goal_most=1.5),
        seconds("mount_many", "mount to first ls, 100,000 files", goal_most=1.5),
        seconds("status", "drivefs status", goal_most=0.5),
        mebibytes("memory", "memory of the mount process after each round"),
        mebibytes("memory_many", "memory with 100,000 files", 150.0),
        mebibytes("memory_huge", "memory after 3 GiB written and read back", 150.0),
        mebibytes("memory_growth", "growth of it from 256 MiB to 3 GiB", 16.0),
    )
}
