"""Two devices unpack one archive into one place at once: how long until both show one tree, and whether it is clean.

Owns what counts as converged: everything sent, and the same names, kinds, sizes and contents on both.
"""

import hashlib
import os
import subprocess
import tarfile
import time
from pathlib import Path

from benchmarks import processes, source_tree
from benchmarks.devices_freshness import seen_after
from benchmarks.devices_report import Samples
from benchmarks.devices_work import Work
from benchmarks.processes import BenchmarkError
from benchmarks.workloads import Stopwatch

CONVERGED_SECONDS = 180.0
COPY_MARK = "(conflicted copy"


def contents(root: Path) -> dict[str, str]:
    """Path → digest of the content, "directory" for directories."""
    found = {}
    for parent, directories, files in os.walk(root):
        for name in directories:
            found[os.path.relpath(os.path.join(parent, name), root)] = "directory"
        for name in files:
            path = os.path.join(parent, name)
            with open(path, "rb") as source:
                found[os.path.relpath(path, root)] = hashlib.file_digest(source, "sha256").hexdigest()
    return found


def archived(tar: Path) -> dict[str, str]:
    """The same of what an archive unpacks to."""
    found = {}
    with tarfile.open(tar) as archive:
        for entry in archive:
            source = archive.extractfile(entry)
            assert source is not None, "the archive has files only"
            found[entry.name] = hashlib.sha256(source.read()).hexdigest()
            for parent in Path(entry.name).parents[:-1]:
                found[str(parent)] = "directory"
    return found


def names(root: Path) -> set[str]:
    return {os.path.join(parent, name) for parent, inner, files in os.walk(root) for name in (*inner, *files)}


def is_settled(work: Work, there: Path, here: Path) -> bool:
    """Nothing is left to send on either side, and both list the same; what is in the files is compared afterwards."""
    for device in (work.here, work.there):
        device.wait_synced()
    strip = [{path.removeprefix(str(root)) for path in names(root)} for root in (here, there)]
    return strip[0] == strip[1]


def meeting(work: Work) -> Samples:
    """Both begin at the same moment, in a directory that both know."""
    tar = work.scratch / f"{work.place}.tar"
    source_tree.make_tar(tar, work.chance, work.settings.tree_file_count)
    here, there = (device.directory / work.place for device in (work.here, work.there))
    here.mkdir()
    seen_after(there.exists, "the common directory")
    watch = Stopwatch()
    both = [processes.start("tar", "-xf", tar, "-C", root, log=tar.with_suffix(".log")) for root in (here, there)]
    wait(both, tar.with_suffix(".log"))
    found = {"meet_untar": [watch.seconds]}
    processes.wait_until(lambda: is_settled(work, there, here), "one tree on both devices", CONVERGED_SECONDS, 0.2)
    found["meet_equal"] = [watch.seconds]
    time.sleep(1.0)
    trees, expected = [contents(here), contents(there)], archived(tar)
    tar.unlink()
    copies = [path for path in trees[0] if COPY_MARK in path]
    wrong = sum(len(set(tree.items()) ^ set(expected.items())) for tree in trees)
    return found | {"meet_copies": [len(copies)], "meet_wrong": [wrong]}


def wait(both: list[subprocess.Popen[bytes]], log: Path) -> None:
    codes = [process.wait(CONVERGED_SECONDS) for process in both]
    if any(codes):
        # One may fail where the other has just made or changed the same thing: that is told too.
        raise BenchmarkError(f"tar failed with {codes}: {log.read_text()[-300:]}")
