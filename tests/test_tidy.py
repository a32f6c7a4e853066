"""The house style, as far as a machine can check it. Each rule is a function from a source file to complaints.

Owns the limits, the banned names and calls, and the short list of places that may break a rule, each with its reason.
Formatting and typing are ruff's and mypy's; import directions are import-linter's.
Invariant: every rule is shown to be able to fail, by a planted violation.
"""

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 500
MAX_PARAMETERS = 5

TOP_LEVEL = {"drivefs", "backend", "cache", "tests", "scripts", "pyproject.toml", "README.md", "LICENSE"}

# Words that name nothing, and words for which the project has others (block, inode).
VAGUE_WORDS = {"manager", "helper", "helpers", "util", "utils", "common", "misc"}
OTHER_WORDS = {"chunk", "chunks", "chunker", "node", "nodes"}

# Clock, randomness and threads are passed in, so that a simulation can own them.
PASSED_IN_MODULES = {"time", "random", "uuid", "secrets", "threading", "_thread", "multiprocessing", "concurrent"}
PASSED_IN_CALLS = {
    "os.urandom",
    "os.getrandom",
    "os.fork",
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
    "date.today",
    "trio.to_thread",
    "anyio.to_thread",
    "asyncio.to_thread",
}
PURE_OF_CLOCKS = ("drivefs/", "cache/", "backend/service/")
COMPOSITION_ROOTS = ("drivefs/mount.py", "drivefs/threads.py", "drivefs/cli/", "backend/app.py", "backend/cli.py")

# Where an unexpected exception may be caught whole: error boundaries and the tops of tasks.
EXCEPTION_BOUNDARIES = {
    "drivefs/fuse/": "an exception that escapes a handler ends the process",
    "drivefs/remote/": "translates HTTP errors",
    "drivefs/control/": "one bad request must not end the control socket",
    "drivefs/sync/engine.py": "top of the sync tasks",
    "drivefs/sync/refusals.py": "one refused change that cannot be dealt with must not end the mount",
    "drivefs/mount.py": "top of the process",
    "drivefs/cli/": "top of the process",
    "backend/api/": "translates errors to HTTP",
    "backend/app.py": "top of the process",
    "backend/cli.py": "top of the process",
    "tests/": "a test may look at whatever is raised",
}

# (rule, "path" or "path:function") → why it may.
ALLOWED: dict[tuple[str, str], str] = {
    ("few_parameters", "drivefs/fuse/operations.py:rename"): "pyfuse3 fixes the signature",
    ("few_parameters", "scripts/benchmarks/trivial.py:rename"): "pyfuse3 fixes the signature",
}

# Written in pieces, so that this file does not find itself.
FOREIGN = [
    re.compile(pattern)
    for pattern in (
        r"/wo" r"rk/",
        r"/ro" r"ot/",
        r"/opt/" r"(pypi|wheels)",
        r"pypi\." r"org",
        r"pythonhosted\." r"org",
        r"npmjs\." r"(org|com)",
        r"deb\.debian\." r"org",
        r"proxy\.golang\." r"org",
        r"\bissues " r"show\b",
        r"\bshared/" r"[A-Z]+\.md",
    )
]


@dataclass(frozen=True, slots=True)
class Source:
    """A tracked text file; `path` is relative to the project's root."""

    path: str
    text: str

    @property
    def is_python(self) -> bool:
        return self.path.endswith(".py") or self.text.startswith(("#!/usr/bin/env python", "#!/usr/bin/python"))

    @property
    def is_product(self) -> bool:
        return self.path.startswith(("drivefs/", "cache/", "backend/"))

    @property
    def tree(self) -> ast.Module:
        return parse(self.text)


@cache
def parse(text: str) -> ast.Module:
    return ast.parse(text)


Function = ast.FunctionDef | ast.AsyncFunctionDef
Rule = Callable[[Source], Iterator[str]]


def functions(source: Source) -> Iterator[Function]:
    for found in ast.walk(source.tree):
        if isinstance(found, Function):
            yield found


def is_allowed(rule: str, source: Source, name: str = "") -> bool:
    return (rule, source.path) in ALLOWED or (rule, f"{source.path}:{name}") in ALLOWED


def short_functions(source: Source) -> Iterator[str]:
    for function in functions(source):
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        if lines > MAX_FUNCTION_LINES and not is_allowed("short_functions", source, function.name):
            yield f"{function.lineno}: {function.name} has {lines} lines, {MAX_FUNCTION_LINES} are the limit"


def short_files(source: Source) -> Iterator[str]:
    lines = len(source.text.splitlines())
    if lines > MAX_FILE_LINES:
        yield f"{lines} lines, {MAX_FILE_LINES} are the limit"


def few_parameters(source: Source) -> Iterator[str]:
    for function in functions(source):
        arguments = function.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        count = len([each for each in named if each.arg not in ("self", "cls")])
        if count > MAX_PARAMETERS and not is_allowed("few_parameters", source, function.name):
            yield f"{function.lineno}: {function.name} takes {count} parameters, {MAX_PARAMETERS} are the limit"


def module_docstrings(source: Source) -> Iterator[str]:
    if (source.text.strip() or source.is_product) and not ast.get_docstring(source.tree):
        yield "1: no module docstring: say what the module owns, what not, and its invariants"


def public_docstrings(source: Source) -> Iterator[str]:
    if not source.is_product:
        return
    for found in source.tree.body:
        if not isinstance(found, Function | ast.ClassDef) or found.name.startswith("_"):
            continue
        if not ast.get_docstring(found) and not is_allowed("public_docstrings", source, found.name):
            yield f"{found.lineno}: {found.name} is public and has no docstring"


def words_of(name: str) -> set[str]:
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    return {word.lower() for word in re.split(r"[^A-Za-z0-9]+", spaced)}


def plain_names(source: Source) -> Iterator[str]:
    for part in Path(source.path).parts:
        if bad := words_of(Path(part).stem) & (VAGUE_WORDS | OTHER_WORDS):
            yield f"the path says {', '.join(sorted(bad))}: name what it holds"
    for found in ast.walk(source.tree):
        # Names of tests are sentences, which may speak of a service manager.
        if not isinstance(found, Function | ast.ClassDef) or found.name.startswith("test_"):
            continue
        if bad := words_of(found.name) & (VAGUE_WORDS | OTHER_WORDS):
            yield f"{found.lineno}: {found.name} says {', '.join(sorted(bad))}: use the project's words"


def type_checking_only(tree: ast.Module) -> set[ast.AST]:
    """Imports that only a type checker sees."""
    inside: set[ast.AST] = set()
    for found in ast.walk(tree):
        if isinstance(found, ast.If) and ast.unparse(found.test).endswith("TYPE_CHECKING"):
            for statement in found.body:
                inside.update(ast.walk(statement))
    return inside


def clocks_are_passed_in(source: Source) -> Iterator[str]:
    if not source.path.startswith(PURE_OF_CLOCKS) or source.path.startswith(COMPOSITION_ROOTS):
        return
    if is_allowed("clocks_are_passed_in", source):
        return
    unseen = type_checking_only(source.tree)
    for found in ast.walk(source.tree):
        if found in unseen:
            continue
        for name in forbidden_uses(found):
            yield f"{getattr(found, 'lineno', 1)}: {name}: clock, randomness and threads are passed in"


def forbidden_uses(found: ast.AST) -> list[str]:
    if isinstance(found, ast.Import):
        return [each.name for each in found.names if each.name.split(".")[0] in PASSED_IN_MODULES]
    if isinstance(found, ast.ImportFrom) and not found.level:
        module = found.module or ""
        if module.split(".")[0] in PASSED_IN_MODULES:
            return [module]
        whole = [f"{module}.{each.name}" for each in found.names]
        return [name for name in whole if name in PASSED_IN_CALLS]
    if isinstance(found, ast.Attribute):
        tail = ".".join(ast.unparse(found).split(".")[-2:])
        return [tail] if tail in PASSED_IN_CALLS else []
    return []


def narrow_excepts(source: Source) -> Iterator[str]:
    is_boundary = source.path.startswith(tuple(EXCEPTION_BOUNDARIES))
    for found in ast.walk(source.tree):
        if not isinstance(found, ast.ExceptHandler):
            continue
        if found.type is None:
            yield f"{found.lineno}: a bare except: name what you expect"
        elif catches_everything(found.type) and not isinstance(found.body[-1], ast.Raise) and not is_boundary:
            yield f"{found.lineno}: {ast.unparse(found.type)} is caught only at boundaries: name what you expect"


def catches_everything(caught: ast.expr) -> bool:
    names = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(isinstance(name, ast.Name) and name.id in ("Exception", "BaseException") for name in names)


def no_skipped_tests(source: Source) -> Iterator[str]:
    if not source.path.startswith("tests/"):
        return
    for found in ast.walk(source.tree):
        if isinstance(found, ast.Attribute):
            tail = found.attr
            if tail in ("skip", "skipif", "xfail", "importorskip") and ast.unparse(found).startswith("pytest."):
                yield f"{found.lineno}: pytest.{tail}: a test runs or is not there"


def no_foreign_places(source: Source) -> Iterator[str]:
    for number, line in enumerate(source.text.splitlines(), start=1):
        for pattern in FOREIGN:
            if found := pattern.search(line):
                yield f"{number}: {found.group()!r} belongs to one machine or one registry"


PYTHON_RULES: list[Rule] = [
    short_functions,
    few_parameters,
    module_docstrings,
    public_docstrings,
    plain_names,
    clocks_are_passed_in,
    narrow_excepts,
    no_skipped_tests,
]
TEXT_RULES: list[Rule] = [short_files, no_foreign_places]

LONG_TEXTS = (".md", ".txt", "LICENSE")


@cache
def tracked_paths() -> list[str]:
    """What git tracks or would track: ignored files are nobody's business."""
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    return sorted({path for path in listed.decode().split("\0") if path and (ROOT / path).is_file()})


@cache
def sources() -> list[Source]:
    found = []
    for path in tracked_paths():
        content = (ROOT / path).read_bytes()
        if b"\0" not in content:
            found.append(Source(path, content.decode()))
    return found


def complaints(rule: Rule) -> list[str]:
    chosen = [source for source in sources() if source.is_python] if rule in PYTHON_RULES else sources()
    if rule is short_files:
        chosen = [source for source in chosen if not source.path.endswith(LONG_TEXTS)]
    return [f"{source.path}:{complaint}" for source in chosen for complaint in rule(source)]


@pytest.mark.parametrize("rule", [*PYTHON_RULES, *TEXT_RULES], ids=lambda rule: rule.__name__)
def test_house_style_holds(rule: Rule) -> None:
    found = complaints(rule)
    assert not found, "\n" + "\n".join(found)


def test_top_level_is_fixed() -> None:
    assert foreign_top_level(tracked_paths()) == []


def foreign_top_level(paths: list[str]) -> list[str]:
    tops = {path.split("/")[0] for path in paths}
    return sorted(top for top in tops if not top.startswith(".") and top not in TOP_LEVEL)


def test_there_are_sources_to_check() -> None:
    assert {"pyproject.toml", "tests/test_tidy.py"} <= {source.path for source in sources()}


def test_every_allowance_is_still_needed() -> None:
    for (rule_name, place), reason in ALLOWED.items():
        path, _, name = place.partition(":")
        source = next((each for each in sources() if each.path == path), None)
        if source is None:
            continue
        elsewhere = Source(path.replace("/", "/not_", 1), source.text)
        found = list(globals()[rule_name](elsewhere))
        assert any(not name or f" {name} " in line for line in found), f"{place} no longer needs: {reason}"


DOCSTRING = '"""A module."""\n'
LONG_FUNCTION = "def long():\n" + "    pass\n" * 60
PLANTED: list[tuple[Rule, str, str]] = [
    (short_functions, "drivefs/fs/names.py", LONG_FUNCTION),
    (short_functions, "tests/test_names.py", "async " + LONG_FUNCTION),
    (short_files, "drivefs/fs/names.py", "x = 1\n" * 501),
    (few_parameters, "cache/replica.py", "def many(a, b, c, d, e, f): ..."),
    (few_parameters, "cache/replica.py", "class C:\n    def many(self, a, b, c, *, d, e, f): ..."),
    (module_docstrings, "drivefs/fs/names.py", "x = 1\n"),
    (module_docstrings, "drivefs/fs/names.py", ""),
    (module_docstrings, "tests/test_names.py", "x = 1\n"),
    (public_docstrings, "backend/app.py", "def serve(): ..."),
    (public_docstrings, "backend/app.py", "class Server: ..."),
    (plain_names, "drivefs/fs/utils.py", DOCSTRING),
    (plain_names, "drivefs/common/names.py", DOCSTRING),
    (plain_names, "drivefs/fs/names.py", "class BlockManager: ..."),
    (plain_names, "drivefs/fs/names.py", "def path_helper(): ..."),
    (plain_names, "drivefs/fs/names.py", "def next_chunk(): ..."),
    (clocks_are_passed_in, "drivefs/sync/engine.py", "import time"),
    (clocks_are_passed_in, "cache/journal.py", "from random import Random"),
    (clocks_are_passed_in, "cache/journal.py", "import concurrent.futures"),
    (clocks_are_passed_in, "backend/service/commits.py", "import os\nos.urandom(8)"),
    (clocks_are_passed_in, "backend/service/commits.py", "from os import urandom"),
    (clocks_are_passed_in, "drivefs/fs/files.py", "import trio\nawait trio.to_thread.run_sync(f)"),
    (clocks_are_passed_in, "drivefs/fs/files.py", "import datetime\ndatetime.datetime.now()"),
    (narrow_excepts, "cache/journal.py", "try:\n    f()\nexcept:\n    raise"),
    (narrow_excepts, "cache/journal.py", "try:\n    f()\nexcept Exception:\n    pass"),
    (narrow_excepts, "cache/journal.py", "try:\n    f()\nexcept (OSError, BaseException):\n    pass"),
    (no_skipped_tests, "tests/test_names.py", "import pytest\n@pytest.mark.skip\ndef test_it(): ..."),
    (no_skipped_tests, "tests/test_names.py", "import pytest\npytest.importorskip('x')"),
    (no_foreign_places, "README.md", "see /ro" + "ot/x"),
    (no_foreign_places, "scripts/setup", "pip install -i https://pypi" + ".org/simple"),
]


@pytest.mark.parametrize(("rule", "path", "text"), PLANTED, ids=lambda each: getattr(each, "__name__", None))
def test_each_rule_can_fail(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Source(path, text)))


FINE: list[tuple[Rule, str, str]] = [
    (short_functions, "drivefs/fs/names.py", "def short():\n" + "    pass\n" * 59),
    (few_parameters, "cache/replica.py", "class C:\n    def some(self, a, b, c, d, e): ..."),
    (few_parameters, "drivefs/fuse/operations.py", "def rename(a, b, c, d, e, f): ..."),
    (module_docstrings, "tests/mount/__init__.py", ""),
    (public_docstrings, "backend/app.py", "def _serve(): ..."),
    (clocks_are_passed_in, "drivefs/cli/mount.py", "import time"),
    (clocks_are_passed_in, "drivefs/sync/engine.py", "if TYPE_CHECKING:\n    import random"),
    (clocks_are_passed_in, "drivefs/sync/engine.py", "self.clock.time()"),
    (narrow_excepts, "cache/journal.py", "try:\n    f()\nexcept BaseException:\n    close()\n    raise"),
    (narrow_excepts, "drivefs/fuse/errors.py", "try:\n    f()\nexcept Exception:\n    pass"),
]


@pytest.mark.parametrize(("rule", "path", "text"), FINE, ids=lambda each: getattr(each, "__name__", None))
def test_each_rule_lets_good_code_pass(rule: Rule, path: str, text: str) -> None:
    assert not list(rule(Source(path, text)))


def test_a_foreign_top_level_entry_is_noticed() -> None:
    assert foreign_top_level(["drivefs/mount.py", "docs/index.md", "setup.py", ".gitignore"]) == ["docs", "setup.py"]
