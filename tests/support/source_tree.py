"""The source files of the package and of its tests, parsed once for all checks of style."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@cache
def source_files() -> tuple[Path, ...]:
    """Return every Python file of the package and of its tests."""
    return tuple(sorted([*(ROOT / "hs").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]))


@cache
def text_of(path: Path) -> str:
    """Return the text of a file."""
    return path.read_text()


@cache
def parsed_files() -> tuple[tuple[str, ast.Module], ...]:
    """Return the name of every file, relative to the root, with its syntax tree."""
    return tuple((name_of(path), ast.parse(text_of(path))) for path in source_files())


def name_of(path: Path) -> str:
    """Return a path relative to the root."""
    return path.relative_to(ROOT).as_posix()


def module_of(name: str) -> str:
    """Return the dotted name of the module in a file."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
