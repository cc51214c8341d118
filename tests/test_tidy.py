"""Style rules that no linter checks; known offenders are listed and may only shrink."""

import ast
import json
import re
import sys

import pytest

from tests.support.source_tree import ROOT, name_of, parsed_files, source_files, text_of

BASELINE: dict[str, int] = json.loads((ROOT / "tests" / "tidy_baseline.json").read_text())
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "base", "stuff"}
UNFINISHED = re.compile(r"\b(TO" + "DO|FIX" + "ME|XX" + r"X)\b|\bNotImplemented" + "Error\b")
BARE_IGNORE = re.compile(r"# (type: ignore|noqa)(?!(\[[\w, -]+\]|: [A-Z]+\d+(, ?[A-Z]+\d+)*)\s+\S)")
BARE_CAST = re.compile(r"\bcast\((?![^#]*#)")
# Modules that no other module imports, and their users.
UNIMPORTED = {
    "hs/lib/sandbox/html_pages.py": "runs in the sandbox, called by name",
    "hs/lib/sandbox/pictures.py": "runs in the sandbox, called by name",
    "hs/lib/remote_log.py": "named in log configurations",
    "hs/lib/journal_log.py": "named in log configurations",
    "hs/lib/dns_resolver.py": "imported by name at the first look-up",
    "hs/lib/s3.py": "imported by name if configured",
    "hs/repl/calls/inproc.py": "tests of clusters in one trio run",
    "hs/storage/inline.py": "tests of clusters in one trio run",
}


def over_limit(sizes: dict[str, int], limit: int) -> list[str]:
    """Return what exceeds the limit, or its recorded size if it is a known offender."""
    return [
        f"{name}: {size} lines, allowed {BASELINE.get(name, limit)}"
        for name, size in sizes.items()
        if size > BASELINE.get(name, limit)
    ]


def file_sizes() -> dict[str, int]:
    return {name_of(path): len(text_of(path).splitlines()) for path in source_files()}


def function_sizes() -> dict[str, int]:
    return {
        f"{name}::{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for name, tree in parsed_files()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_files_have_at_most_500_lines() -> None:
    assert over_limit(file_sizes(), MAX_FILE_LINES) == []


def test_functions_have_at_most_60_lines() -> None:
    assert over_limit(function_sizes(), MAX_FUNCTION_LINES) == []


def test_baseline_has_no_stale_sizes() -> None:
    sizes = file_sizes() | function_sizes()

    stale = {name: size for name, size in BASELINE.items() if sizes.get(name, 0) < size}

    assert stale == {}, "record the smaller size, or drop the line when it is within the limit"


def test_module_names_are_not_vague() -> None:
    vague = [name_of(path) for path in source_files() if path.stem in VAGUE_NAMES]

    assert vague == []


def test_no_module_shadows_a_standard_module() -> None:
    shadows = [
        name_of(path)
        for path in source_files()
        if path.stem in sys.stdlib_module_names and not path.stem.startswith("__")
    ]

    assert shadows == []


def test_every_file_has_a_docstring() -> None:
    undocumented = [
        name for name, tree in parsed_files() if tree.body and not ast.get_docstring(tree)
    ]

    assert undocumented == []


def lines_matching(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{name_of(path)}:{number}: {line.strip()}"
        for path in source_files()
        for number, line in enumerate(text_of(path).splitlines(), start=1)
        if pattern.search(line)
    ]


def test_no_unfinished_code_is_marked() -> None:
    assert lines_matching(UNFINISHED) == []


def test_ignore_comments_have_rule_and_reason() -> None:
    assert lines_matching(BARE_IGNORE) == []


def test_imports_are_at_the_top() -> None:
    nested = [
        f"{name}:{inner.lineno}"
        for name, tree in parsed_files()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(function)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    ]

    assert nested == []


def imported_modules() -> set[str]:
    """Return all modules that the package imports, and all names imported from modules."""
    modules: set[str] = set()
    for name, tree in parsed_files():
        if not name.startswith("hs/"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
    return modules


def test_every_module_is_imported() -> None:
    imported = imported_modules()
    modules = {name_of(path): path for path in (ROOT / "hs").rglob("*.py")}
    unimported = {
        name
        for name, path in modules.items()
        if path.name != "__init__.py" and not name.startswith("hs/cli/")  # imported by name
        if name.removesuffix(".py").replace("/", ".") not in imported
    }

    assert unimported == set(UNIMPORTED)


def test_type_checking_imports_are_not_used() -> None:
    uses = [
        f"{name}:{node.lineno}"
        for name, tree in parsed_files()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name | ast.Attribute)
        and (node.id if isinstance(node, ast.Name) else node.attr) == "TYPE_CHECKING"
    ]

    assert uses == []


@pytest.mark.parametrize("line", ["x = f()  # type: " + "ignore[arg-type]", "x = f()  # no" + "qa"])
def test_ignore_without_reason_is_found(line: str) -> None:
    assert BARE_IGNORE.search(line)


def test_ignore_with_rule_and_reason_is_accepted() -> None:
    assert not BARE_IGNORE.search("x = f()  # type: ignore[arg-type]  # stubs lag behind")
    assert not BARE_IGNORE.search("except Exception:  # noqa: BLE001 the supervisor reports it")
