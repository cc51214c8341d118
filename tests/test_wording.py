"""The rules of CONTRIBUTING.md that a program can check; what is not yet kept may only shrink."""

import ast
import json
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache

import pytest

from tests.support.source_tree import ROOT, module_of, parsed_files, source_files

# The number of offenders of each rule in each file; only ever lowered.
LEFT: dict[str, dict[str, int]] = json.loads((ROOT / "tests" / "wording_baseline.json").read_text())
MAX_MODULES = 30
MAX_POSITIONAL = 5
MAX_SUBJECT = 72
# The first commit whose subject follows the rule.
SUBJECTS_SINCE = "02e222d"
RIDDLES = re.compile(r"(Give|Tell)s?\b")


def docstrings(tree: ast.Module) -> Iterator[str]:
    """Yield the docstrings of a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            text = ast.get_docstring(node)
            if text is not None:
                yield text


def count_riddles(tree: ast.Module) -> int:
    return sum(RIDDLES.match(text) is not None for text in docstrings(tree))


def count_ones(tree: ast.Module) -> int:
    """Count the places that bind a variable or parameter called `one`."""
    bound = sum(
        isinstance(node, ast.Name) and node.id == "one" and isinstance(node.ctx, ast.Store)
        for node in ast.walk(tree)
    )
    return bound + sum(isinstance(node, ast.arg) and node.arg == "one" for node in ast.walk(tree))


def count_positional(name: str, tree: ast.Module) -> int:
    """Count the constructor calls with more positional arguments than anybody can count."""
    imported = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    own = {
        node.name: f"{module_of(name)}.{node.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    known = imported | own
    return sum(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and len(node.args) > MAX_POSITIONAL
        and known.get(node.func.id) in our_classes()
        for node in ast.walk(tree)
    )


@cache
def our_classes() -> frozenset[str]:
    """Return the dotted names of all classes of the package and its tests."""
    return frozenset(
        f"{module_of(name)}.{node.name}"
        for name, tree in parsed_files()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    )


def above_baseline(rule: str, counts: dict[str, int]) -> list[str]:
    allowed = LEFT.get(rule, {})
    return [
        f"{name}: {count}, allowed {allowed.get(name, 0)}"
        for name, count in counts.items()
        if count > allowed.get(name, 0)
    ]


@cache
def counts_by_rule() -> dict[str, dict[str, int]]:
    """Count the offenders of each rule, for each file that has any."""
    counts: dict[str, dict[str, int]] = {"give or tell": {}, "one": {}, "positional": {}}
    for name, tree in parsed_files():
        for rule, count in (
            ("give or tell", count_riddles(tree)),
            ("one", count_ones(tree)),
            ("positional", count_positional(name, tree)),
        ):
            if count:
                counts[rule][name] = count
    return counts


def test_docstrings_say_return_instead_of_give_or_tell() -> None:
    assert above_baseline("give or tell", counts_by_rule()["give or tell"]) == []


def test_no_variable_is_called_one() -> None:
    assert above_baseline("one", counts_by_rule()["one"]) == []


def test_constructors_take_at_most_five_positional_arguments() -> None:
    assert above_baseline("positional", counts_by_rule()["positional"]) == []


def test_baseline_only_shrinks() -> None:
    counts = counts_by_rule()

    stale = {
        f"{rule}: {name}": allowed
        for rule, files in LEFT.items()
        if rule in counts
        for name, allowed in files.items()
        if counts.get(rule, {}).get(name, 0) < allowed
    }

    assert stale == {}, "lower the numbers in tests/wording_baseline.json"


def duplicate_classes() -> dict[str, list[str]]:
    """Return the public classes of which a layer has several of the same name, and their files."""
    places: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, tree in parsed_files():
        layer, _, rest = name.removeprefix("hs/").partition("/")
        if not name.startswith("hs/") or not rest:
            continue
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[layer, node.name].append(name)

    return {f"{layer}: {cls}": files for (layer, cls), files in places.items() if len(files) > 1}


def test_public_class_names_are_unique_within_a_layer() -> None:
    assert set(duplicate_classes()) <= set(LEFT.get("twice", {}))


def test_no_folder_has_more_than_thirty_modules() -> None:
    sizes = Counter(
        path.parent.relative_to(ROOT).as_posix()
        for path in source_files()
        if path.name != "__init__.py"
    )

    assert above_baseline("modules", {k: v for k, v in sizes.items() if v > MAX_MODULES}) == []


def test_nursery_imports_plainly() -> None:
    dynamic = [
        name
        for name, tree in parsed_files()
        if name.startswith("hs/nursery/")
        for node in ast.walk(tree)
        for imported in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        if imported.partition(".")[0] == "importlib"
    ]

    assert dynamic == []


def test_subjects_of_new_commits_fit_on_a_line() -> None:
    log = subprocess.run(
        ["git", "log", "--format=%s", f"{SUBJECTS_SINCE}..HEAD"],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if log.returncode != 0:
        pytest.skip("the history of commits is not here")

    assert [subject for subject in log.stdout.splitlines() if len(subject) > MAX_SUBJECT] == []
