"""What one run measures: workloads, targets, sizes, rounds. Owns the command line of scripts/bench and its defaults."""

import argparse
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

STANDARD = ("small", "large", "tree", "git", "sqlite", "mount")
HEAVY = ("many", "huge")
OWN_TARGETS = ("plain", "trivial", "drivefs")
JUICEFS = ("juicefs-sqlite", "juicefs-sqlite-writeback", "juicefs-redis", "juicefs-redis-writeback")
PEERS = ("rclone", *JUICEFS, "sshfs", "s3ql")
MEBIBYTE = 1 << 20

DESCRIPTION = """Measures drivefs against a plain directory, against a trivial pyfuse3 file system (the ceiling of this
stack) and, with --peers, against what one would use instead. Everything runs on this machine, over loopback, and each
target has its own backend. Rounds are interleaved; the table shows medians."""

EPILOG = """Workloads: small (3,000 small files), large (one incompressible file of --size), tree (a generated source
tree of 2,450 files), git, sqlite (500 transactions), mount; and, only when named, many (100,000 files) and huge (3 GiB
written and read back), which look at the memory of drivefs. --peers installs rclone and JuiceFS into a virtual
environment in the work directory, and the Debian packages sshfs, openssh-server and redis-server; s3ql is measured
where it is installed or Debian has it. Cold reads need root: without it the kernel's pages of the file are dropped, but
not those of the files behind it. Exit code: 1 when something of ours could not be measured, else 0; a peer that is not
to be had is named at the end.

Other subjects, each with its own options and --help: scripts/bench devices (two devices of one account), scripts/bench
large (a drive of a million files, kept for the next time), scripts/bench polls (10,000 idle polls of one server),
scripts/bench history (looking back, sharing, and collecting what nobody needs)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One run. Sizes in bytes; `directory` holds all data of the run, on the disk that is measured."""

    rounds: int = 3
    workloads: tuple[str, ...] = STANDARD
    targets: tuple[str, ...] = OWN_TARGETS
    directory: Path = Path("/var/tmp")
    large_bytes: int = 1024 * MEBIBYTE
    huge_bytes: int = 3072 * MEBIBYTE
    small_file_count: int = 3000
    many_file_count: int = 100_000
    random_count: int = 2000
    tree_file_count: int = 2450
    transaction_count: int = 500
    json: str | None = None

    @property
    def is_full_size(self) -> bool:
        """Whether the absolute goals, which are about the default sizes, can be judged."""
        default = Settings()
        return (self.large_bytes, self.small_file_count) == (default.large_bytes, default.small_file_count)


def names(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    def split(text: str) -> tuple[str, ...]:
        chosen = tuple(part.strip() for part in text.split(",") if part.strip())
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of: {', '.join(known)}")
        return chosen

    return split


def size(text: str) -> int:
    """Bytes of "64M" or "1G"."""
    factors = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    digits, factor = (text[:-1], factors[text[-1].upper()]) if text[-1:].upper() in factors else (text, 1)
    if not digits.isdigit() or int(digits) * factor < MEBIBYTE:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size of at least 1M, such as 64M or 1G")
    return int(digits) * factor


def work_directory() -> Path:
    """Not /tmp, which is memory on many machines."""
    base = os.environ.get("TMPDIR") or ("/var/tmp" if os.path.isdir("/var/tmp") else tempfile.gettempdir())
    return Path(base) / f"drivefs-bench-{os.getuid()}"


def parse(arguments: list[str]) -> Settings:
    """Settings from the command line; exits with a message where it is wrong."""
    parser = argparse.ArgumentParser("scripts/bench", description=DESCRIPTION, epilog=EPILOG)
    add = parser.add_argument
    standard, targets = ", ".join(STANDARD), ", ".join(OWN_TARGETS + PEERS)
    add("--rounds", type=int, default=3, metavar="N", help="how often each is measured (default: 3)")
    add("--workloads", type=names(STANDARD + HEAVY), default=STANDARD, metavar="A,B", help=f"default: {standard}")
    add("--targets", type=names(OWN_TARGETS + PEERS), metavar="A,B", help=f"of: {targets}")
    add("--peers", action="store_true", help="measure all peers too")
    add("--size", type=size, metavar="BYTES", help="of the large file (default: 1G)")
    add("--quick", action="store_true", help="one round of small sizes: does it work at all?")
    add("--directory", type=Path, default=work_directory(), help="on the disk to measure (default: %(default)s)")
    add("--json", metavar="FILE", help="write all figures to FILE; '-' is standard output")
    given = parser.parse_args(arguments)
    settings = Settings(
        rounds=max(1, given.rounds),
        workloads=given.workloads,
        targets=given.targets or OWN_TARGETS + (PEERS if given.peers else ()),
        directory=given.directory.absolute(),
        json=given.json,
    )
    if given.quick:
        settings = quick(settings)
    return replace(settings, large_bytes=given.size) if given.size else settings


def quick(settings: Settings) -> Settings:
    return replace(
        settings,
        rounds=1,
        large_bytes=32 * MEBIBYTE,
        huge_bytes=64 * MEBIBYTE,
        small_file_count=300,
        many_file_count=2000,
        random_count=200,
        tree_file_count=250,
        transaction_count=50,
    )
