"""Which paths ignore rules keep on a device."""

import pathspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from drivefs.fs.ignore_rules import MAX_LINE, MOST_LINES, TEMPORARY, Rules, Temporary


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
    rules = Rules(b"!\n/\n\\\n[q-a]\n[!z-a]*\n[\n" + b"*a" * MAX_LINE + b"\n*.o\n\xff\n")
    assert rules.say(b"a.o", is_directory=False)
    assert not rules.say(b"a", is_directory=False)


@pytest.mark.parametrize("pattern", ["*a" * 40 + "b", "**/a/" * 40 + "b", "**/*a*a/" * 20 + "b", "*[ab]" * 40 + "c"])
@pytest.mark.parametrize("path", ["a" * 255, "a/" * 2000 + "a", "/".join(["a" * 255] * 15)])
def test_rules_that_another_one_wrote_keep_nobody_waiting(pattern: str, path: str) -> None:
    assert Rules(pattern.encode()).say(path.encode(), is_directory=False) is None


LINES = st.lists(
    st.sampled_from(["a", "b", "*", "**", "?", "/", "**/", "/**/", "[ab]", "[!a]", "\\*", ".", "!", " "]), max_size=7
).map("".join)
PATHS = st.text("ab*./", min_size=1, max_size=9).map(lambda path: path.strip("/").replace("//", "/a/")).filter(bool)


@given(LINES, st.lists(PATHS, min_size=1, max_size=20))
def test_wildcards_mean_what_they_mean_to_gitignore(line: str, paths: list[str]) -> None:
    try:
        theirs = pathspec.GitIgnoreSpec.from_lines([line], backend="simple")
    except ValueError:
        assume(False)  # such a line is no pattern
    rules = Rules(line.encode())
    for path in paths:
        assert rules.say(path.encode(), is_directory=False) is theirs.check_file(path).include


@pytest.mark.filterwarnings("ignore:Possible (nested set|set .*) at position:FutureWarning")
@given(st.binary(max_size=60) | st.text("[]!^\\*?/-a\n", max_size=30).map(str.encode), st.binary(min_size=1))
def test_any_bytes_are_rules(text: bytes, path: bytes) -> None:
    """Whoever shares a folder writes them: what is no pattern says nothing, and nothing is raised."""
    rules = Rules(text)
    assert rules.say(path, is_directory=False) in (True, False, None)
    assert rules.say(path, is_directory=True) in (None, False, True)


def test_of_very_many_lines_the_first_count() -> None:
    rules = Rules(b"a\n" * MOST_LINES + b"b\n")
    assert rules.say(b"a", is_directory=False)
    assert rules.say(b"b", is_directory=False) is None
