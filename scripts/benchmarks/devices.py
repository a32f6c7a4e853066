"""`scripts/bench devices`: several devices of one account, their server, and this machine's loopback between them.

Owns the command line of this subject, its sizes, and the order of its workloads; what each does is in the modules
`devices_*`. Invariant: everything lies below one work directory, which is removed in the end.
"""

import argparse
import random
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks import devices_changes, devices_freshness, devices_meeting, devices_report, reconnect
from benchmarks.devices_report import Samples
from benchmarks.devices_work import Settings, Work
from benchmarks.drives import Device, Server
from benchmarks.rounds import EXPECTED_FAILURES
from benchmarks.settings import names, work_directory

DESCRIPTION = """Measures several devices of one account: two mounts and their server on this machine, over loopback.
freshness: from close on one device until the new content is readable on the other, idle and while a source tree is
being unpacked on the first. changes: calls on a device while 1,000 changes a second of another one are applied to it.
meeting: two devices unpack the same source tree into one place at once. reconnect: a device comes back after many
changes on both sides, and calls on it meanwhile."""
EPILOG = "Exit code: 1 when something could not be measured, else 0; a goal that is missed is told in the table."


Workload = Callable[[Work], Samples]
WORKLOADS: dict[str, Workload] = {
    "freshness": devices_freshness.freshness,
    "changes": devices_changes.changes,
    "meeting": devices_meeting.meeting,
    "reconnect": reconnect.reconnect,
}


def parse(arguments: list[str]) -> Settings:
    """Settings from the command line; exits with a message where it is wrong."""
    parser = argparse.ArgumentParser("scripts/bench devices", description=DESCRIPTION, epilog=EPILOG)
    add, known = parser.add_argument, tuple(WORKLOADS)
    add("--rounds", type=int, default=3, metavar="N", help="how often each is measured (default: 3)")
    add("--workloads", type=names(known), default=known, metavar="A,B", help=f"default: {', '.join(known)}")
    add("--quick", action="store_true", help="one round of small sizes: does it work at all?")
    add("--directory", type=Path, default=work_directory(), help="on the disk to measure (default: %(default)s)")
    add("--json", metavar="FILE", help="write all figures to FILE; '-' is standard output")
    given = parser.parse_args(arguments)
    settings = Settings(
        rounds=max(1, given.rounds),
        workloads=given.workloads,
        directory=given.directory.absolute(),
        json=given.json,
    )
    if given.quick:
        settings = replace(
            settings, rounds=1, sample_count=3, tree_file_count=250, feed_seconds=2.0, reconnect_count=400
        )
    return settings


def main(arguments: list[str], say: Callable[[str], None]) -> int:
    """Exit code 0 when all was measured, 1 when something of it failed."""
    settings = parse(arguments)
    settings.directory.mkdir(parents=True, exist_ok=True)
    base = Path(tempfile.mkdtemp(prefix="devices-", dir=settings.directory))
    found = devices_report.Results()
    try:
        measure(settings, base, found, say)
    except EXPECTED_FAILURES as error:
        found.failures.append(("devices", f"could not be set up: {error}"))
    except KeyboardInterrupt:
        found.failures.append(("devices", "interrupted: the figures are of what was measured until then"))
    finally:
        shutil.rmtree(base, ignore_errors=True)
    devices_report.publish(found, settings.rounds, settings.json)
    return int(bool(found.failures))


def measure(settings: Settings, base: Path, found: devices_report.Results, say: Callable[[str], None]) -> None:
    """Starts the server and two devices, runs all rounds, and ends what was started."""
    with ExitStack() as stack:
        server = Server(base / "server")
        stack.callback(server.stop)
        server.start()
        here, there = (Device(base / name, base / name / "mount", name) for name in ("here", "there"))
        for device in (here, there):
            stack.callback(device.abandon)
            device.login(server.url)
            device.mount()
        for number in range(settings.rounds):
            for name in settings.workloads:
                say(f"round {number + 1} of {settings.rounds}: {name}")
                work = Work(
                    server=server,
                    here=here,
                    there=there,
                    place=f"{name}-{number}",
                    scratch=base,
                    chance=random.Random(f"{name} {number}"),
                    settings=settings,
                )
                measure_one(name, work, found, say)


def measure_one(name: str, work: Work, found: devices_report.Results, say: Callable[[str], None]) -> None:
    """One workload in one round, and everything settled again after it."""
    try:
        found.add(WORKLOADS[name](work))
        work.there.wait_synced()
        shutil.rmtree(work.here.directory / work.place, ignore_errors=True)
        work.here.wait_synced()
    except EXPECTED_FAILURES as error:
        found.failures.append((name, f"{type(error).__name__}: {error}"))
        say(f"    failed: {error}")
