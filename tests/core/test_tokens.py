"""Tokens survive their text form, and those of earlier and later releases are understood."""

from collections.abc import Callable

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from immutables import Map

from hs.core.errors import InvalidParam
from hs.core.positions import EpochPosition, VectorPosition
from hs.core.stream_def import StreamKind
from hs.core.sync_token import SYNCED_STREAMS
from hs.core.tokens import (
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
# The slots of the first release, and their text at the start. Later releases may add slots.
FIRST_SLOTS = (
    "events",
    "receipts",
    "typing",
    "presence",
    "account_data",
    "to_device",
    "device_lists",
    "push_rules",
    "thread_subscriptions",
)
NEW_SLOTS_AT_START = "".join(
    "_.0" if stream.kind is StreamKind.MEMORY else "_0"
    for stream in SYNCED_STREAMS[len(FIRST_SLOTS) :]
)


@given(TOKENS)
def test_sync_token_survives_its_text_form(token: SyncToken) -> None:
    assert SyncToken.parse(token.encode()) == token
    assert parse_room_token(token.encode()) == token


def test_slots_keep_their_places() -> None:
    names = [field.name for field in attrs.fields(SyncToken)]

    assert tuple(names[: len(FIRST_SLOTS)]) == FIRST_SLOTS
    assert [*(stream.name for stream in SYNCED_STREAMS), "sticky", "counted"] == names


@given(st.lists(VECTORS, min_size=len(SYNCED_STREAMS), max_size=len(SYNCED_STREAMS)))
def test_token_at_positions_holds_them_with_empty_epochs(vectors: list[VectorPosition]) -> None:
    token = SyncToken.at(vectors)

    assert token.vectors() == tuple(vectors)
    assert (token.events, token.to_device) == (vectors[0], vectors[5])
    assert token.typing == EpochPosition("", vectors[2])


def test_token_at_too_few_positions_is_a_bug() -> None:
    with pytest.raises(ValueError, match="zip"):
        SyncToken.at([VectorPosition(5)])


def test_quiet_streams_make_short_tokens() -> None:
    token = SyncToken(VectorPosition(5), VectorPosition(7), EpochPosition("ab", VectorPosition(2)))

    assert token.encode() == "s5_7_ab.2_.0_0_0_0_0_0" + NEW_SLOTS_AT_START


def test_writers_that_are_ahead_are_part_of_their_segments() -> None:
    events = VectorPosition(5).advance("w-1", 9)
    token = SyncToken(events=events, presence=EpochPosition("", VectorPosition(3)))

    assert token.encode() == "s5~w-2d1.9_0_.0_.3_0_0_0_0_0" + NEW_SLOTS_AT_START


@given(TOKENS)
def test_segments_of_later_releases_are_ignored(token: SyncToken) -> None:
    assert SyncToken.parse(f"{token.encode()}_newstream.~12") == token


def test_sticky_position_is_in_the_token_only_while_events_wait() -> None:
    events = VectorPosition(9).advance("w", 12)
    token = SyncToken(events=events, sticky=events.capped(10))

    assert token.encode() == attrs.evolve(token, sticky=None).encode() + "_~9~w.10"
    assert token.vectors() == SyncToken(events=events).vectors()
    assert SyncToken.parse("s5_7_~3").sticky == VectorPosition(3)
    with pytest.raises(InvalidParam):
        SyncToken.parse("s5_7_~")


def test_position_of_counts_is_in_the_token_only_while_they_are_late() -> None:
    events = VectorPosition(9).advance("w-1", 12)
    token = SyncToken(events=events, sticky=VectorPosition(8), counted=events.capped(10))

    assert token.encode() == attrs.evolve(token, counted=None).encode() + "_-9~w-2d1.10"
    assert SyncToken.parse(token.encode()) == token
    assert SyncToken.parse("s5_7_-3").counted == VectorPosition(3)
    with pytest.raises(InvalidParam):
        SyncToken.parse("s5_7_-")


def test_segments_that_an_earlier_release_did_not_write_are_at_the_start() -> None:
    assert SyncToken.parse("s5_7") == SyncToken(VectorPosition(5), VectorPosition(7))


@given(NUMBERS, st.integers(-(10**17), 10**17))
def test_topological_token_survives_its_text_form(depth: int, stream: int) -> None:
    token = TopologicalToken(depth, stream)

    assert parse_room_token(token.encode()) == token


def test_topological_tokens_are_ordered_as_history_is() -> None:
    assert TopologicalToken(1, 9) < TopologicalToken(2, -5) < TopologicalToken(2, 3)


@given(st.lists(st.integers(-(2**53), 2**53) | st.text(max_size=9).filter(lambda s: "\0" not in s)))
def test_pagination_token_survives_its_text_form(keys: list[int | str]) -> None:
    token = PaginationToken(tuple(keys))

    assert PaginationToken.parse(token.encode(), *map(type, keys)) == token


@pytest.mark.parametrize("text", ["", "x", "s", "s-1", "s1_", "s1_2_3", "t1", "t1-", "t1-x", "s١"])
def test_malformed_room_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidParam):
        parse_room_token(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "Not a sync token"),
        ("s" + "1" * 9000, "Not a sync token"),
        (SyncToken().encode() + '_"', "Not a sync token"),
        (SyncToken().encode() + "_\ud800", "Not a sync token"),
        ("s", "The token is malformed"),
        ("s1_2_3", "The token is malformed"),
        ("s1_2_a-b.3", "The token is malformed"),
        ("s1" + "~w.2" * 257, "The token names too many writers"),
    ],
)
def test_refusal_of_a_sync_token_says_why(text: str, message: str) -> None:
    with pytest.raises(InvalidParam, match=message):
        SyncToken.parse(text)


def parse_pair(text: str) -> PaginationToken:
    return PaginationToken.parse(text, int, str)


@pytest.mark.parametrize(
    "text",
    ["", "p", "p!!", "pé", PaginationToken((1,)).encode(), PaginationToken(("a", 1)).encode()],
)
@pytest.mark.parametrize("parse", [parse_pair])
def test_pagination_token_of_another_list_is_refused(
    text: str, parse: Callable[[str], PaginationToken]
) -> None:
    with pytest.raises(InvalidParam):
        parse(text)
