"""Patterns of required state: what a union matches, and what having it means."""

from hypothesis import given
from hypothesis import strategies as st

from hs.core.ids import UserID
from hs.services.sync.sliding.required_state import RequiredState, required_state

ME = UserID("@me:test")
HALF = st.sampled_from(["*", "a", "b", "m.room.member"])
PATTERN = st.tuples(HALF, HALF)
KEYS = [(event_type, key) for event_type in ("a", "b", "c", "m.room.member") for key in "abc"]


@st.composite
def patterns(draw: st.DrawFn) -> RequiredState:
    lazy = [("m.room.member", "$LAZY")] if draw(st.booleans()) else []
    pairs = [*draw(st.lists(PATTERN, max_size=4)), *lazy]
    return required_state(pairs, ME, draw(st.lists(PATTERN, max_size=3)))


@given(patterns(), patterns())
def test_a_union_matches_what_either_matches(one: RequiredState, two: RequiredState) -> None:
    both = one.union(two)

    for key in KEYS:
        if one.matches(key) or two.matches(key):
            assert both.matches(key)


@given(patterns(), patterns())
def test_a_union_covers_both(one: RequiredState, two: RequiredState) -> None:
    both = one.union(two)

    assert both.covers(one)
    assert both.covers(two)


@given(patterns(), patterns())
def test_what_is_covered_is_matched(one: RequiredState, two: RequiredState) -> None:
    if one.covers(two):
        for key in KEYS:
            assert one.matches(key) or not two.matches(key)
