"""Every fault that drivefs is to survive has its row in FAULTS.md and its tests, and each side names the other.

Owns the comparison of the table with the marks `@pytest.mark.fault(…)`. Does not run the tests that it finds.
Invariant: all 70 faults stand in the table; one that no test shows says that it is missing, and what is.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "tests" / "FAULTS.md"
FAULTS = range(1, 71)
MISSING = "**missing**: "

Pair = tuple[int, str]
"""A fault, and a test that shows what comes out of it, as pytest names it."""


def rows(table: str) -> dict[int, str]:
    """What the table says of each fault about its tests."""
    found = re.findall(r"^\| (\d+) \|.*\| ([^|]*) \|$", table, re.MULTILINE)
    assert len({number for number, _ in found}) == len(found), "a fault stands in the table twice"
    return {int(number): cell for number, cell in found}


def promised(table: str) -> set[Pair]:
    return {(fault, test) for fault, cell in rows(table).items() for test in re.findall(r"`(tests/[^`]+)`", cell)}


def marked(path: str, text: str) -> Iterator[Pair]:
    """The faults that the tests of a file are marked with."""
    for node in ast.parse(text).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{path}::{node.name}::" if isinstance(node, ast.ClassDef) else f"{path}::"
        for test in inside:
            if not isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef) or not test.name.startswith("test_"):
                continue
            for mark in test.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                    yield from ((ast.literal_eval(fault), prefix + test.name) for fault in mark.args)


def all_marked() -> set[Pair]:
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    return {pair for path in paths for pair in marked(path.relative_to(ROOT).as_posix(), path.read_text())}


def complaints(table: str, marks: set[Pair]) -> list[str]:
    """What is wrong between the table and the marks."""
    told = rows(table)
    found = [f"fault {fault} has no row" for fault in FAULTS if fault not in told]
    found += [f"there is no fault {fault}" for fault in told if fault not in FAULTS]
    found += [
        f"fault {fault} has neither a test nor a word on what is missing"
        for fault, cell in told.items()
        if "`tests/" not in cell and not re.search(re.escape(MISSING) + r"\w", cell)
    ]
    found += [f"no test {test} is marked with fault {fault}" for fault, test in sorted(promised(table) - marks)]
    found += [f"{test} is marked with fault {fault}: no row says so" for fault, test in sorted(marks - promised(table))]
    return found


def test_every_fault_has_its_tests_and_they_name_it() -> None:
    found = complaints(TABLE.read_text(), all_marked())
    assert not found, "\n" + "\n".join(found)


SOUND = "\n".join(f"| {fault} | what → out | `tests/a.py::test_a{fault}` |" for fault in FAULTS)
SOUND_MARKS = {(fault, f"tests/a.py::test_a{fault}") for fault in FAULTS}


def test_the_check_sees_both_sides() -> None:
    assert complaints(SOUND, SOUND_MARKS) == []
    assert len(complaints(SOUND, SOUND_MARKS - {(5, "tests/a.py::test_a5")})) == 1
    assert len(complaints(SOUND, SOUND_MARKS | {(5, "tests/a.py::test_a6")})) == 1
    assert complaints(SOUND.replace("| 70 |", "| 71 |"), SOUND_MARKS)
    assert len(complaints(SOUND.replace("`tests/a.py::test_a7`", f"{MISSING}why"), SOUND_MARKS)) == 1
    without = SOUND_MARKS - {(7, "tests/a.py::test_a7")}
    assert complaints(SOUND.replace("`tests/a.py::test_a7`", f"{MISSING}why"), without) == []
    assert len(complaints(SOUND.replace("`tests/a.py::test_a7`", "later"), without)) == 1


def test_marks_are_found_in_files_and_classes() -> None:
    text = """
@pytest.mark.fault(1, 2)
@pytest.mark.needs_root
def test_one(): ...

class TestAll:
    @pytest.mark.fault(3)
    async def test_two(self): ...

def test_three(): ...
"""
    assert list(marked("tests/a.py", text)) == [
        (1, "tests/a.py::test_one"),
        (2, "tests/a.py::test_one"),
        (3, "tests/a.py::TestAll::test_two"),
    ]
