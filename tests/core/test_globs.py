"""Globs match what the specification says, and never slowly."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hs.core.globs import compile_glob
from hs.core.property_paths import ABSENT, parse_property_path, property_at

PATTERNS = st.text(alphabet="ab_ *?", max_size=8)
TEXTS = st.text(alphabet="ab_ -\n", max_size=12)


def naive(pattern: str) -> str:
    return "".join({"*": r"[\s\S]*", "?": r"[\s\S]"}.get(char, re.escape(char)) for char in pattern)


@given(PATTERNS, TEXTS)
def test_a_glob_matches_what_its_regular_expression_matches(pattern: str, text: str) -> None:
    expected = re.fullmatch(naive(pattern), text) is not None

    assert compile_glob(pattern).matches(text) is expected


@given(PATTERNS, TEXTS)
def test_word_matching_tries_every_part_between_boundaries(pattern: str, text: str) -> None:
    def boundary(at: int) -> bool:
        return at in (0, len(text)) or not (is_word(text[at - 1]) and is_word(text[at]))

    def is_word(char: str) -> bool:
        return re.fullmatch(r"[A-Za-z0-9_]", char) is not None

    expected = any(
        boundary(start) and boundary(end) and re.fullmatch(naive(pattern), text[start:end])
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
def test_the_examples_of_the_specification(pattern: str, body: str, expected: bool) -> None:
    assert compile_glob(pattern).matches_words(body) is expected


@pytest.mark.parametrize("pattern", ["*a" * 100 + "b", "a*" * 100 + "b", "?" * 200 + "b*c"])
def test_hostile_patterns_take_no_time(pattern: str) -> None:
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
def test_property_paths_are_taken_apart(text: str, path: tuple[str, ...]) -> None:
    assert parse_property_path(text) == path


def test_a_path_leads_to_its_property_or_to_nothing() -> None:
    tree = {"content": {"m.federate": None, "body": "x"}}

    assert property_at(tree, ("content", "m.federate")) is None
    assert property_at(tree, ("content", "m", "federate")) is ABSENT
    assert property_at(tree, ("content", "body", "x")) is ABSENT
