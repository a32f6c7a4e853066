"""Which paths ignore rules keep on a device."""

import pytest

from drivefs.fs.ignore_rules import TEMPORARY, Rules


@pytest.mark.parametrize(
    ("path", "is_directory", "is_kept"),
    [
        (b"a~", False, True),
        (b"d/.a.swp", False, True),
        (b"~$report.docx", False, True),
        (b".~lock.report.odt#", False, True),
        (b"#notes#", False, True),
        (b"a~", True, False),
        (b"report.docx", False, False),
        (b".drivefsignore", False, False),
        (b"n\xff.swp", False, False),
        (b".n\xff.swp", False, True),
    ],
)
def test_temporary_files_of_known_programs_stay_here_and_directories_never(
    path: bytes, is_directory: bool, is_kept: bool
) -> None:
    assert Rules(TEMPORARY, b"").keep_here(path, is_directory=is_directory) is is_kept


def test_rules_of_the_drive_are_those_of_gitignore_and_come_last() -> None:
    rules = Rules(TEMPORARY, b"# a comment\n/top\nbuild/\n*.o\n!keep.o\n!*~\ndoc/**/x\n")
    kept = [b"top", b"a/b.o", b"build/x", b"a/build/x", b"doc/a/b/x"]
    free = [b"a/top", b"keep.o", b"a~", b"build", b"x"]
    assert [rules.keep_here(path, is_directory=False) for path in kept] == [True] * len(kept)
    assert [rules.keep_here(path, is_directory=False) for path in free] == [False] * len(free)
    assert rules.keep_here(b"a/build", is_directory=True)


def test_lines_that_are_no_patterns_are_as_if_they_were_not_there() -> None:
    rules = Rules([], b"!\n/\n\\\n*.o\n\xff\n")
    assert rules.keep_here(b"a.o", is_directory=False)
    assert not rules.keep_here(b"a", is_directory=False)
