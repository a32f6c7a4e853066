"""Two devices change the same things while the server is gone, and meet: each pair of the conflict rules at once.

Which of the two is first is left to chance here; `tests/sync/test_conflicts.py` has each pair in both orders. Owns the
promises about what is kept and under which names.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.conftest import mount_options
from tests.support.mounts import Device, Workbench, wait_until

MEET_SECONDS = 60.0
Change = Callable[[Path], object]


def contents(root: Path) -> dict[str, bytes | None]:
    """All paths below a directory: the content of files, None for directories."""
    return {str(p.relative_to(root)): None if p.is_dir() else p.read_bytes() for p in sorted(root.rglob("*"))}


def save(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def meet(workbench: Workbench, before: Change, one: Change, other: Change) -> tuple[dict[str, bytes | None], Device]:
    """Both devices know what `before` made; each makes its changes without a server, and then there is one again."""
    server = workbench.server()
    devices = [workbench.device(server), workbench.device(server)]
    roots = [device.mount(*mount_options()) for device in devices]
    before(roots[0])
    devices[0].sync()
    wait_until("both show the same", lambda: contents(roots[1]) == contents(roots[0]), MEET_SECONDS)
    server.stop()
    one(roots[0])
    other(roots[1])
    server.start()
    for device in [*devices, *devices]:
        device.sync()
    wait_until("both show the same", lambda: contents(roots[1]) == contents(roots[0]), MEET_SECONDS)
    tree = contents(roots[0])
    for device in devices:
        device.umount()
        device.assert_sound()
    return tree, devices[0]


@pytest.mark.fault(58, 67)
def test_contents_of_both_sides_survive(workbench: Workbench) -> None:
    """[meet-edits] [meet-same] [meet-deleted] [meet-renamed]"""

    def before(root: Path) -> None:
        for name in ("edited", "saved", "mixed", "same", "deleted", "renamed"):
            (root / name).write_bytes(b"old")

    def change(mine: bytes) -> Change:
        def make(root: Path) -> None:
            (root / "edited").write_bytes(mine)
            save(root / "saved", mine)
            (save if mine == b"one" else Path.write_bytes)(root / "mixed", mine)
            (root / "same").write_bytes(b"the same on both")
            (root / "made").write_bytes(mine)
            (root / "made the same").write_bytes(b"the same on both")
            os.rename(root / "renamed", root / f"renamed by {mine.decode()}")
            if mine == b"one":
                (root / "deleted").write_bytes(b"edited here")
            else:
                (root / "deleted").unlink()

        return make

    tree, _ = meet(workbench, before, change(b"one"), change(b"two"))
    for name in ("edited", "saved", "mixed", "made"):
        found = {path: content for path, content in tree.items() if path == name or path.startswith(f"{name} (conf")}
        assert sorted(found.values()) == [b"one", b"two"], (name, tree)  # type: ignore[type-var]
        assert name in found
    assert tree["same"] == tree["made the same"] == b"the same on both"
    assert tree["deleted"] == b"edited here"
    assert [path for path in tree if path.startswith("renamed")] in (["renamed by one"], ["renamed by two"])
    assert len(tree) == 12, tree


@pytest.mark.fault(60, 65)
def test_directories_of_both_sides_become_one(workbench: Workbench) -> None:
    """[meet-directories] [meet-removed-directory] [meet-cycle]"""

    def before(root: Path) -> None:
        for name in ("removed", "left", "right"):
            (root / name).mkdir()
            (root / name / "old").write_bytes(b"old")

    def unpack(root: Path, mine: bytes) -> None:
        for directory in ("tree", "tree/a", "tree/a/b"):
            (root / directory).mkdir()
            for number in range(5):
                (root / directory / f"file {number}").write_bytes(b"%d" % number * 100)
        (root / "tree/a/b" / mine.decode()).write_bytes(mine)

    def one(root: Path) -> None:
        unpack(root, b"one")
        shutil.rmtree(root / "removed")
        os.rename(root / "left", root / "right/left")

    def other(root: Path) -> None:
        unpack(root, b"two")
        (root / "removed/new").write_bytes(b"new")
        os.rename(root / "right", root / "left/right")

    tree, _ = meet(workbench, before, one, other)
    assert not [path for path in tree if "conflicted copy" in path]
    assert {path: tree[path] for path in ("tree/a/b/one", "tree/a/b/two")} == {
        "tree/a/b/one": b"one",
        "tree/a/b/two": b"two",
    }
    assert len([path for path in tree if path.startswith("tree/")]) == 19
    assert tree["removed/new"] == b"new"
    assert "removed/old" not in tree
    assert sorted(path for path in tree if path.endswith("old")) in (
        ["left/old", "left/right/old"],
        ["right/left/old", "right/old"],
    )


def test_programs_below_a_directory_that_becomes_one_with_another_notice_nothing(workbench: Workbench) -> None:
    """[meet-directories]"""
    server = workbench.server()
    devices = [workbench.device(server), workbench.device(server)]
    roots = [device.mount(*mount_options()) for device in devices]
    wait_until("both know the empty drive", lambda: all(contents(root) == {} for root in roots), MEET_SECONDS)
    server.stop()
    below = ("tree", "tree/a", "tree/a/b")
    for number, root in enumerate(roots):
        for directory in below:
            (root / directory).mkdir()
            assert not (root / directory / f"of {1 - number}").exists(), "the kernel keeps that it is not there"
            (root / directory / f"of {number}").write_bytes(b"own")
            (root / directory / "same").write_bytes(b"the same")
    numbers = [[(root / directory).stat().st_ino for directory in below] for root in roots]
    opened = [os.open(root / "tree/a", os.O_RDONLY) for root in roots]
    try:
        server.start()
        expected = 3 + 3 * 3
        for step in range(10_000):
            for number, root in enumerate(roots):
                path = root / below[step % 3] / f"{number} passing"
                path.write_bytes(b"passing")
                path.unlink()
            if all(len(contents(root)) == expected for root in roots):
                break
            time.sleep(0.02)
        for device in devices:
            device.sync()
        assert [[(root / directory).stat().st_ino for directory in below] for root in roots] == numbers
        for number, descriptor in enumerate(opened):
            # What passed on the other device may come, and go, a moment later.
            there = {"b", "same", "of 0", "of 1"}
            wait_until("all is there", lambda there=there, fd=descriptor: set(os.listdir(fd)) == there)
            assert (roots[number] / f"tree/a/b/of {1 - number}").read_bytes() == b"own"
    finally:
        for descriptor in opened:
            os.close(descriptor)
    for device in devices:
        device.umount()
        device.assert_sound()
