"""Each promise of SEMANTICS.md is quoted by a test on a real mount, and each quoted promise is there.

Owns that check only; the promises are proved by the tests that quote them.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEMANTICS = HERE.parent.parent / "drivefs/SEMANTICS.md"
ID = re.compile(r"\[([a-z0-9]+(?:-[a-z0-9]+)*)\]")


def promised(text: str) -> list[str]:
    """The ids of all lines that make a promise."""
    return re.findall(r"^- `\[([a-z0-9-]+)\]` \S", text, flags=re.MULTILINE)


def quoted(source: str) -> Iterator[str]:
    """The ids in the docstrings of all tests of a module."""
    for found in ast.walk(ast.parse(source)):
        if isinstance(found, ast.FunctionDef) and found.name.startswith("test_"):
            yield from ID.findall(ast.get_docstring(found) or "")


def test_every_promise_is_quoted_and_every_quotation_is_promised() -> None:
    promises = promised(SEMANTICS.read_text())
    quotations = {each for path in HERE.glob("test_*.py") for each in quoted(path.read_text())}
    assert len(promises) > 100
    assert len(promises) == len(set(promises))
    assert set(promises) - quotations == set(), "promised, and proved by no test"
    assert quotations - set(promises) == set(), "quoted by a test, and not promised"


def test_the_check_sees_both_sides() -> None:
    assert promised("- `[one]` A promise.\n- `[two-parts]` Another.\nand `[three]` in passing") == ["one", "two-parts"]
    source = 'def test_it():\n    """[one] [two-parts]"""\ndef other():\n    """[three]"""'
    assert list(quoted(source)) == ["one", "two-parts"]
