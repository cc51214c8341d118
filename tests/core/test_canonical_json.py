"""Canonical JSON: the specification's examples, and agreement with the reference library."""

import json
import tracemalloc
from typing import Any

import canonicaljson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hs.core.canonical_json import (
    MAX_INTEGER,
    canonical_json,
    check_unique_keys,
    encode_lenient,
    parse_json,
    parse_json_object,
    shrink_to_fit,
)
from hs.core.errors import BadJson, NotJson

_JOHN = """{"auth": {"success": true, "mxid": "@john.doe:example.com", "profile": {
    "display_name": "John Doe", "three_pids": [
        {"medium": "email", "address": "john.doe@example.org"},
        {"medium": "msisdn", "address": "123456789"}]}}}"""
_JOHN_CANONICAL = (
    '{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":'
    '[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":'
    '"msisdn"}]},"success":true}}'
)

_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | _TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(_TEXT, inner),
    max_leaves=30,
)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("{}", "{}"),
        ('{"one": 1, "two": "Two"}', '{"one":1,"two":"Two"}'),
        ('{"b": "2", "a": "1"}', '{"a":"1","b":"2"}'),
        (_JOHN, _JOHN_CANONICAL),
        ('{"a": "日本語"}', '{"a":"日本語"}'),
        ('{"本": 2, "日": 1}', '{"日":1,"本":2}'),
        (r'{"a": "\u65E5"}', '{"a":"日"}'),
        ('{"a": null}', '{"a":null}'),
        ('{"a": -0, "b": 10000000000}', '{"a":0,"b":10000000000}'),
        (r'{"a": "\b\t\n\f\r\"\\\u0001\u007f/"}', '{"a":"\\b\\t\\n\\f\\r\\"\\\\\\u0001\x7f/"}'),
    ],
)
def test_examples_of_the_specification(text: str, canonical: str) -> None:
    assert canonical_json(parse_json(text.encode())) == canonical.encode()


@given(_JSON)
def test_output_equals_reference_library_and_round_trips(value: Any) -> None:
    encoded = canonical_json(value)

    assert encoded == canonicaljson.encode_canonical_json(value)
    assert encode_lenient(value) == encoded
    assert parse_json(encoded) == value


@pytest.mark.parametrize(
    "value",
    [1.0, 1.5, float("nan"), MAX_INTEGER + 1, -MAX_INTEGER - 1, 2**70, "\ud800", b"x", object()],
)
def test_floats_large_integers_and_foreign_types_are_rejected(value: object) -> None:
    for holder in (value, [value], {"a": {"b": [1, value]}}):
        with pytest.raises(BadJson):
            canonical_json(holder)


def test_lenient_encoding_accepts_floats_and_large_integers() -> None:
    value = {"b": 1e20, "a": [1.5, 2**60]}

    assert encode_lenient(value) == canonicaljson.encode_canonical_json(value)


@pytest.mark.parametrize("leaf", [1, 1.5])
def test_deeply_nested_values_are_rejected(leaf: float) -> None:
    value: Any = leaf
    for _ in range(300):
        value = [value]

    with pytest.raises(BadJson, match="deep"):
        canonical_json(value)
    with pytest.raises(BadJson, match="deep"):
        encode_lenient(value)


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"{'a': 1}", b'{"a": NaN}', b"\xff", b'"\\ud800"', b"\xef\xbb\xbf{}", b"[" * 5000],
)
def test_invalid_json_is_rejected(raw: bytes) -> None:
    with pytest.raises(NotJson):
        parse_json(raw)


def test_json_that_is_not_an_object_is_rejected() -> None:
    assert parse_json_object(b'{"a": 1}') == {"a": 1}
    with pytest.raises(BadJson):
        parse_json_object(b"[]")


def test_duplicate_keys_are_rejected() -> None:
    check_unique_keys(json.dumps({"a": {"a": 1}}).encode())
    with pytest.raises(BadJson):
        check_unique_keys(b'{"x": [{"a": 1, "a": 2}]}')
    with pytest.raises(NotJson):
        check_unique_keys(b"{")


def test_for_keeping_drops_spare_capacity() -> None:
    value, count = {"body": "x" * 100}, 50
    tracemalloc.start()
    try:
        copies = [shrink_to_fit(canonical_json(value)) for _ in range(count)]
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert set(copies) == {canonical_json(value)}
    assert held_bytes < count * 1000
