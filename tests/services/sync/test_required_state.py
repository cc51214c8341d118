"""Patterns of required state: unions and coverage."""

from hypothesis import given
from hypothesis import strategies as st

from hs.core.ids import UserID
from hs.services.sync.sliding.required_state import RequiredState, parse_required_state

ME = UserID("@me:test")
HALF = st.sampled_from(["*", "a", "b", "m.room.member"])
PATTERN = st.tuples(HALF, HALF)
KEYS = [(event_type, key) for event_type in ("a", "b", "c", "m.room.member") for key in "abc"]


@st.composite
def patterns(draw: st.DrawFn) -> RequiredState:
    lazy = [("m.room.member", "$LAZY")] if draw(st.booleans()) else []
    pairs = [*draw(st.lists(PATTERN, max_size=4)), *lazy]
    return parse_required_state(pairs, ME, draw(st.lists(PATTERN, max_size=3)))


@given(patterns(), patterns())
def test_union_matches_whatever_either_pattern_matches(
    first: RequiredState, second: RequiredState
) -> None:
    both = first.union(second)

    for key in KEYS:
        if first.matches(key) or second.matches(key):
            assert both.matches(key)


@given(patterns(), patterns())
def test_union_covers_both_patterns(first: RequiredState, second: RequiredState) -> None:
    both = first.union(second)

    assert both.covers(first)
    assert both.covers(second)


@given(patterns(), patterns())
def test_covering_pattern_matches_whatever_the_covered_one_matches(
    first: RequiredState, second: RequiredState
) -> None:
    if first.covers(second):
        for key in KEYS:
            assert first.matches(key) or not second.matches(key)


def test_everything_with_lazy_members_does_not_cover_everything() -> None:
    everything = parse_required_state([("*", "*")], ME)
    lazy = parse_required_state([("*", "*"), ("m.room.member", "$LAZY")], ME)

    assert not lazy.covers(everything)
