"""Vector positions: comparing, merging and raising them, and their text form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hs.core.errors import InvalidParam
from hs.core.positions import VectorPosition

_WRITERS = st.sampled_from(["main", "worker-1", "w_2", "é~.x"])
_STEPS = st.lists(st.tuples(_WRITERS, st.integers(0, 1000)))


def _vector(floor: int, steps: list[tuple[str, int]]) -> VectorPosition:
    vector = VectorPosition(floor)
    for writer, position in steps:
        vector = vector.advance(writer, position)
    return vector


_VECTORS = st.builds(_vector, st.integers(0, 500), _STEPS)


@given(_VECTORS)
def test_vector_survives_its_text_form(vector: VectorPosition) -> None:
    assert VectorPosition.parse(vector.encode()) == vector


@given(_VECTORS, _VECTORS)
def test_merged_vector_covers_both(first: VectorPosition, second: VectorPosition) -> None:
    merged = first.merge(second)

    assert merged.covers_all(first)
    assert merged.covers_all(second)
    assert merged == second.merge(first)


def test_row_is_covered_by_the_floor_or_by_its_writer() -> None:
    vector = VectorPosition(123).advance("w1", 125).advance("w1", 124)

    assert vector.encode() == "123~w1.125"
    assert vector.covers("w1", 125)
    assert vector.covers("w2", 123)
    assert not vector.covers("w2", 124)
    assert vector.most() == 125


def test_floor_rises_with_the_slowest_writer() -> None:
    vector = VectorPosition(1).advance("w1", 9).advance("w2", 5)

    assert vector.settle(["w1", "w2"]) == VectorPosition(5).advance("w1", 9)
    assert vector.settle(["w1", "w2", "w3"]) == vector
    assert VectorPosition(1).advance("w1", 9).settle(["w1"]).encode() == "9"


@pytest.mark.parametrize("text", ["", "x", "-1", "1~", "1~w", "1~w.", "1~w.x", "1~-ff.3", "1~é.3"])
def test_malformed_text_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidParam):
        VectorPosition.parse(text)
