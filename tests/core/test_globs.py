"""Globs and property paths: agreement with the specification, and bounded time."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hs.core.globs import compile_glob
from hs.core.property_paths import ABSENT, parse_property_path, property_at

PATTERNS = st.text(alphabet="ab_ *?", max_size=8)
TEXTS = st.text(alphabet="ab_ -\n", max_size=12)


def regex_of(pattern: str) -> str:
    return "".join({"*": r"[\s\S]*", "?": r"[\s\S]"}.get(char, re.escape(char)) for char in pattern)


@given(PATTERNS, TEXTS)
def test_glob_agrees_with_regular_expression(pattern: str, text: str) -> None:
    expected = re.fullmatch(regex_of(pattern), text) is not None

    assert compile_glob(pattern).matches(text) is expected


@given(PATTERNS, TEXTS)
def test_word_matching_agrees_with_exhaustive_search(pattern: str, text: str) -> None:
    def boundary(index: int) -> bool:
        return index in (0, len(text)) or not (is_word(text[index - 1]) and is_word(text[index]))

    def is_word(char: str) -> bool:
        return re.fullmatch(r"[A-Za-z0-9_]", char) is not None

    expected = any(
        boundary(start) and boundary(end) and re.fullmatch(regex_of(pattern), text[start:end])
        for start in range(len(text) + 1)
        for end in range(start, len(text) + 1)
    )

    assert compile_glob(pattern).matches_words(text) is expected


@pytest.mark.parametrize(
    ("pattern", "body", "expected"),
    [
        ("ex*ple", "An example event.", True),
        ("ex*ple", "exple", True),
        ("ex*ple", "An exciting triple-whammy", True),
        ("ex*ple", "Anexample", False),
        ("cake", "CAKE!", True),
        ("cake", "pancakes", False),
    ],
)
def test_word_matching_examples_of_the_specification(
    pattern: str, body: str, expected: bool
) -> None:
    assert compile_glob(pattern).matches_words(body) is expected


@pytest.mark.parametrize("pattern", ["*a" * 100 + "b", "a*" * 100 + "b", "?" * 200 + "b*c"])
def test_hostile_patterns_are_matched_quickly(pattern: str) -> None:
    glob = compile_glob(pattern)
    started = time.perf_counter()

    assert not glob.matches("a" * 60_000)
    assert not glob.matches_words("a " * 30_000)

    assert time.perf_counter() - started < 2.0


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("content.body", ("content", "body")),
        (r"content.m\.relates_to", ("content", "m.relates_to")),
        (r"content.m\\foo", ("content", "m\\foo")),
        (r"content.m\x", ("content", r"m\x")),
        ("", ("",)),
        ("a..b", ("a", "", "b")),
        ("trailing\\", ("trailing\\",)),
    ],
)
def test_property_path_is_split_at_unescaped_dots(text: str, path: tuple[str, ...]) -> None:
    assert parse_property_path(text) == path


def test_property_at_returns_value_or_absent() -> None:
    tree = {"content": {"m.federate": None, "body": "x"}}

    assert property_at(tree, ("content", "m.federate")) is None
    assert property_at(tree, ("content", "m", "federate")) is ABSENT
    assert property_at(tree, ("content", "body", "x")) is ABSENT
