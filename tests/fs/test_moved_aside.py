"""A file that is moved aside for another: removing what is aside is a step of saving, removing another name is not."""

from drivefs.protocol.changes import Create, Rename, Unlink
from tests.fs.bench import ROOT, FsBench


def moved_aside(bench: FsBench) -> None:
    """A file with another name, moved aside for a new one."""
    inode = bench.file(b"f", b"old")
    bench.run(bench.fs.link, inode, ROOT, b"other")
    bench.rename(b"f", b"f.old")
    bench.file(b"f", b"new")


def changes(bench: FsBench) -> list[tuple[type, bytes]]:
    return [(type(each), each.name) for each in bench.mutations() if isinstance(each, Create | Rename | Unlink)]


def test_removing_what_is_aside_is_a_step_of_saving(bench: FsBench) -> None:
    moved_aside(bench)
    bench.unlink(b"f.old")
    assert changes(bench) == [(Create, b"f"), (Unlink, b"f"), (Create, b"f")]
    assert bench.lookup(b"f.old") is None
    assert bench.lookup(b"other") is not None


def test_removing_another_name_of_it_is_not(bench: FsBench) -> None:
    moved_aside(bench)
    bench.unlink(b"other")
    assert changes(bench) == [(Create, b"f"), (Rename, b"f"), (Create, b"f"), (Unlink, b"other")]
    assert bench.lookup(b"f.old") is not None
