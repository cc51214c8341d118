"""Tokens survive their text form, old ones and those of later versions too."""

from collections.abc import Callable

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from immutables import Map

from hs.core.errors import InvalidParam
from hs.core.positions import VectorPosition
from hs.core.tokens import (
    EpochPosition,
    PaginationToken,
    SyncToken,
    TopologicalToken,
    parse_room_token,
)

NUMBERS = st.integers(0, 10**17)
VECTORS = st.builds(
    lambda floor, ahead: VectorPosition(
        floor, Map({name: floor + more for name, more in ahead.items()})
    ),
    NUMBERS,
    st.dictionaries(st.text(min_size=1, max_size=6).filter(str.isprintable), st.integers(1, 99)),
)
EPOCHS = st.builds(EpochPosition, st.from_regex(r"[0-9a-z]{0,8}", fullmatch=True), VECTORS)
TOKENS = st.builds(
    SyncToken,
    **{
        field.name: EPOCHS if field.name in ("typing", "presence") else VECTORS
        for field in attrs.fields(SyncToken)
    },
)


@given(TOKENS)
def test_sync_tokens_survive_their_text(token: SyncToken) -> None:
    assert SyncToken.parse(token.encode()) == token
    assert parse_room_token(token.encode()) == token


def test_quiet_streams_make_short_tokens() -> None:
    token = SyncToken(VectorPosition(5), VectorPosition(7), EpochPosition("ab", VectorPosition(2)))

    assert token.encode() == "s5_7_ab.2_.0_0_0_0_0_0"


@given(TOKENS)
def test_segments_of_later_versions_are_ignored(token: SyncToken) -> None:
    assert SyncToken.parse(f"{token.encode()}_newstream.~12") == token


def test_segments_that_an_earlier_version_lacked_start_at_nought() -> None:
    assert SyncToken.parse("s5_7") == SyncToken(VectorPosition(5), VectorPosition(7))


@given(NUMBERS, st.integers(-(10**17), 10**17))
def test_topological_tokens_survive_their_text(depth: int, stream: int) -> None:
    token = TopologicalToken(depth, stream)

    assert parse_room_token(token.encode()) == token


def test_topological_tokens_are_ordered_as_history_is() -> None:
    assert TopologicalToken(1, 9) < TopologicalToken(2, -5) < TopologicalToken(2, 3)


@given(st.lists(st.integers(-(2**53), 2**53) | st.text(max_size=9).filter(lambda s: "\0" not in s)))
def test_pagination_tokens_survive_their_text(keys: list[int | str]) -> None:
    token = PaginationToken(tuple(keys))

    assert PaginationToken.parse(token.encode(), *map(type, keys)) == token


@pytest.mark.parametrize("text", ["", "x", "s", "s-1", "s1_", "s1_2_3", "t1", "t1-", "t1-x", "s١"])
def test_malformed_room_tokens_are_refused(text: str) -> None:
    with pytest.raises(InvalidParam):
        parse_room_token(text)


def parse_pair(text: str) -> PaginationToken:
    return PaginationToken.parse(text, int, str)


@pytest.mark.parametrize(
    "text",
    ["", "p", "p!!", "pé", PaginationToken((1,)).encode(), PaginationToken(("a", 1)).encode()],
)
@pytest.mark.parametrize("parse", [parse_pair])
def test_pagination_tokens_of_other_lists_are_refused(
    text: str, parse: Callable[[str], PaginationToken]
) -> None:
    with pytest.raises(InvalidParam):
        parse(text)
