"""Single entries of snapshots are found without unpacking the snapshots."""

from hypothesis import given
from hypothesis import strategies as st

from hs.storage.rooms import state

# Few numbers, so that keys, stream IDs and parts of both have the same bytes.
KEYS = st.integers(0, 3).map(lambda byte: int.from_bytes(bytes([byte]) * 7)) | st.integers(1, 300)
STREAM_IDS = KEYS | st.integers(-300, -1)
DELTAS = st.lists(st.dictionaries(KEYS, STREAM_IDS, max_size=12), max_size=4)


@given(DELTAS, st.sets(KEYS, max_size=50))
def test_searched_entries_equal_those_of_the_unpacked_snapshot(
    entries: list[dict[int, int]], keys: set[int]
) -> None:
    deltas = [state.pack(delta.items()) for delta in entries]

    found = state.entries_of(deltas, keys)

    whole = state.apply_deltas({}, deltas)
    assert {key: found.get(key) for key in keys} == {key: whole.get(key) for key in keys}


def test_stream_ids_before_the_stream_are_negative() -> None:
    deltas = [state.pack([(1, -5), (2, 7)]), state.pack([(2, state.REMOVED)])]

    found = state.entries_of(deltas, [1, 2])

    assert found == {1: -5}
