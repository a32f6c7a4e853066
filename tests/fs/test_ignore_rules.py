"""Which paths ignore rules keep on a device."""

import pytest

from drivefs.fs.ignore_rules import TEMPORARY, Rules, Temporary


@pytest.mark.parametrize(
    ("name", "is_kept"),
    [
        (b"a~", True),
        (b".a.swp", True),
        (b"~$report.docx", True),
        (b".~lock.report.odt#", True),
        (b"#notes#", True),
        (b"report.docx", False),
        (b".drivefsignore", False),
        (b"n\xff.swp", False),
        (b".n\xff.swp", True),
    ],
)
def test_temporary_files_of_known_programs_stay_here(name: bytes, is_kept: bool) -> None:
    assert Temporary(TEMPORARY).has(name) is is_kept


def test_rules_of_the_drive_are_those_of_gitignore() -> None:
    rules = Rules(b"# a comment\n/top\nbuild/\n*.o\n!keep.o\n!*~\ndoc/**/x\n")
    kept = [b"top", b"a/b.o", b"build/x", b"a/build/x", b"doc/a/b/x"]
    free = [b"keep.o", b"a~"]
    unsaid = [b"a/top", b"build", b"x"]
    assert [rules.say(path, is_directory=False) for path in kept] == [True] * len(kept)
    assert [rules.say(path, is_directory=False) for path in free] == [False] * len(free)
    assert [rules.say(path, is_directory=False) for path in unsaid] == [None] * len(unsaid)
    assert rules.say(b"a/build", is_directory=True)


def test_lines_that_are_no_patterns_are_as_if_they_were_not_there() -> None:
    rules = Rules(b"!\n/\n\\\n*.o\n\xff\n")
    assert rules.say(b"a.o", is_directory=False)
    assert not rules.say(b"a", is_directory=False)
