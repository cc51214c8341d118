"""Slots are shared out evenly, with as few moves as possible, and equally in all processes."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from hs.repl.slots.assignment import (
    SLOTS,
    balanced,
    first_holders,
    first_moves,
    moves_from,
    shard_of,
    slot_of,
)

names = st.sampled_from([f"p{number}" for number in range(8)])
assignments = st.lists(names, min_size=SLOTS, max_size=SLOTS)
candidate_lists = st.lists(names, min_size=1, unique=True)


def test_slot_of_a_key_never_changes() -> None:
    assert [slot_of(key) for key in ("!a:x", "!b:x", "@alice:example.org")] == [39, 126, 74]


@given(st.text(min_size=1), st.sampled_from([1, 2, 4, 8]))
def test_first_holders_are_the_owners_of_earlier_releases(key: str, count: int) -> None:
    writers = [f"p{number}" for number in range(count)]

    assert first_holders(writers)[slot_of(key)] == writers[shard_of(key, count)]


@given(candidate_lists)
def test_first_holders_are_even(writers: list[str]) -> None:
    counts = Counter(first_holders(writers))

    assert set(counts) == set(writers)
    assert max(counts.values()) - min(counts.values()) <= 1


@given(assignments, candidate_lists)
def test_slots_are_shared_out_evenly_among_candidates(
    holders: list[str], candidates: list[str]
) -> None:
    after = balanced(holders, candidates)

    counts = Counter(dict.fromkeys(candidates, 0))
    counts.update(after)
    assert set(counts) == set(candidates)
    assert max(counts.values()) - min(counts.values()) <= 1


@given(assignments, candidate_lists)
def test_as_few_slots_move_as_possible(holders: list[str], candidates: list[str]) -> None:
    after = balanced(holders, candidates)

    moved = sum(old != new for old, new in zip(holders, after, strict=True))
    counts = Counter(holders)
    share, extra = divmod(SLOTS, len(candidates))
    ranked = sorted((counts[name] for name in candidates), reverse=True)
    kept = sum(min(count, share + (rank < extra)) for rank, count in enumerate(ranked))
    assert moved == SLOTS - kept


@given(assignments, candidate_lists)
def test_order_of_candidates_does_not_matter(holders: list[str], candidates: list[str]) -> None:
    assert balanced(holders, candidates) == balanced(holders, sorted(candidates, reverse=True))


@given(assignments, candidate_lists)
def test_balanced_slots_stay_where_they_are(holders: list[str], candidates: list[str]) -> None:
    after = balanced(holders, candidates)

    assert balanced(after, candidates) == after


@given(assignments, candidate_lists, st.integers(1, 16))
def test_moves_of_all_holders_a_few_at_a_time_end_balanced(
    holders: list[str], candidates: list[str], limit: int
) -> None:
    steps = 0
    while (after := balanced(holders, candidates)) != holders:
        before = list(holders)
        for holder in sorted(set(before)):
            for taker, slots in first_moves(moves_from(holder, before, after), limit).items():
                for slot in slots:
                    holders[slot] = taker
        steps += 1

    assert steps <= SLOTS / limit + 1


def test_first_moves_are_limited() -> None:
    assert first_moves({"p1": [1, 2, 3], "p2": [4, 5]}, 4) == {"p1": [1, 2, 3], "p2": [4]}
