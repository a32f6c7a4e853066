"""What the kernel asks for, called as pyfuse3 does: what no single call of a program shows."""

from pathlib import Path

import pyfuse3
import trio

from drivefs.fuse.attributes import Translation
from drivefs.fuse.operations import Operations
from drivefs.protocol.model import InodeKind, InodeState
from tests.fs.bench import FsBench


def test_what_the_kernel_forgets_may_be_older_than_the_directory_that_it_removed_last(tmp_path: Path) -> None:
    """Removed, back, and removed again, while somebody is in both: it forgets the first one by the same number."""
    bench = FsBench(tmp_path)
    translation = Translation(bench.fs.root, bench.fs.owner)
    operations = Operations(bench.fs, translation)
    there = InodeState(inode=bench.mkdir(b"d"), kind=InodeKind.DIRECTORY, mode=0o755, nlink=2)
    generations = [translation.attributes(there).generation]
    for _ in range(2):
        translation.removed(there.inode)
        trio.run(operations.forget, [(pyfuse3.InodeT(there.inode), 1)])
        generations.append(translation.attributes(there).generation)
    bench.close()
    assert generations == [0, 1, 2]
