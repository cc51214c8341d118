"""Values made wrong in a few places, from a random generator that can be seeded."""

import copy
import random
from typing import Any

DEEP: Any = []
for _ in range(150):
    DEEP = [DEEP]

# What parsers, databases and recursive code find difficult.
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53 - 1, 2**53, 2**63 - 1, -(2**63), 2**64 - 1, 10**30,
    0.0, 1.5, 1e300, "", " ", "a\0b", "\0", "\u202e", "x" * 300, "y" * 30_000, "@", "@:", "@a:b",
    "!", "!a:b", "$", "$a", "#a:b", "m.room.member", "ed25519:x", "null", "1e400", "9" * 30, [], {},
    [[]], [None], {"a": None}, {"": ""}, {"a\0b": "a\0b"}, [{}] * 50, ["x"] * 200, DEEP,
    {str(n): n for n in range(200)},
)  # fmt: skip


def mutated(rng: random.Random, value: Any, changes: int = 1) -> Any:
    """Return a copy of a JSON value with some changes at random places."""
    holder = [copy.deepcopy(value)]
    for _ in range(changes):
        _change(rng, holder)
    return holder[0]


def _change(rng: random.Random, holder: Any) -> None:
    """Walk from the holder to a random depth, and change a member there."""
    key = _any_key(rng, holder)
    while isinstance(holder[key], dict | list) and holder[key] and rng.random() < 0.75:
        holder = holder[key]
        key = _any_key(rng, holder)
    match rng.randrange(6):
        case 0 if isinstance(holder, dict):
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[str(rng.choice(("unsigned", "x", "", "a\0b", *holder)))] = holder[key]
        case 2 if isinstance(holder, list) and len(holder) < 60:
            holder.append(copy.deepcopy(holder[key]))
        case 3 if isinstance(holder[key], str):
            holder[key] = _changed_text(rng, holder[key])
        case 4 if isinstance(holder[key], int):
            holder[key] = int(holder[key]) + rng.choice((-1, 1, 2**32, -(2**53)))
        case _:
            holder[key] = copy.deepcopy(rng.choice(ODD_VALUES))


def _any_key(rng: random.Random, holder: Any) -> Any:
    return rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))


def _changed_text(rng: random.Random, text: str) -> str:
    place = rng.randrange(len(text) + 1)
    piece = rng.choice(("\0", ":", "\u202e", "é", "x" * 260, "%00", "/", "\n", "💥", " "))
    inserted = text[:place] + piece + text[place:]
    return rng.choice((text[:place], inserted, text + piece, text.upper()))
