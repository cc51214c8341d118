"""How keys and slots are shared out: pure functions of who holds them and who may hold them."""

import zlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Final

SLOTS: Final = 256
"""The same in all processes, releases and databases."""

Moves = Mapping[str, list[int]]
"""Slots by the process that is to hold them."""


def shard_of(key: str, shards: int) -> int:
    """Return the number of the shard that a key belongs to, equal in all processes and releases."""
    return zlib.crc32(key.encode()) % shards


def slot_of(key: str) -> int:
    """Return the slot of a key, such as a room ID."""
    return shard_of(key, SLOTS)


def first_holders(writers: Sequence[str]) -> list[str]:
    """Return the holder of each slot where none is stored, in the order of the configured list.

    Of 1, 2, 4, … writers each gets what earlier releases assigned to it by the remainder.
    """
    return [writers[slot % len(writers)] for slot in range(SLOTS)]


def balanced(holders: Sequence[str], candidates: Collection[str]) -> list[str]:
    """Return the holders after the slots were shared out evenly among the candidates.

    As few slots move as possible. The result does not depend on the order of the candidates.
    """
    counts = Counter(holders)
    ranked = sorted(candidates, key=lambda name: (-counts[name], name))
    share, extra = divmod(len(holders), len(ranked))
    left = {name: share + (rank < extra) for rank, name in enumerate(ranked)}
    after: list[str] = []
    homeless: list[int] = []
    for slot, holder in enumerate(holders):
        after.append(holder)
        if left.get(holder, 0) > 0:
            left[holder] -= 1
        else:
            homeless.append(slot)
    for slot in homeless:
        # To the one that lacks most, so that a few moves at a time even things out as well.
        taker = max(ranked, key=lambda name: (left[name], name))
        left[taker] -= 1
        after[slot] = taker
    return after


def moves_from(holder: str, before: Sequence[str], after: Sequence[str]) -> Moves:
    """Return the slots that a process gives away."""
    moves: dict[str, list[int]] = {}
    for slot, (old, new) in enumerate(zip(before, after, strict=True)):
        if old == holder != new:
            moves.setdefault(new, []).append(slot)
    return moves


def first_moves(moves: Moves, limit: int) -> Moves:
    """Return at most so many of the moves."""
    few: dict[str, list[int]] = {}
    for taker, slots in moves.items():
        taken = slots[: limit - sum(map(len, few.values()))]
        if taken:
            few[taker] = taken
    return few
