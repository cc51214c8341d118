"""Comparison of the index on both database engines with a linear scan of all texts."""

import random

import pytest

from hs.core.ids import EventID
from hs.core.search_words import Phrase, SearchQuery, parse_query, words_of
from hs.storage.database import Database
from tests.support.rooms import ALICE, message
from tests.support.searching import open_searching

WORDS = (
    "tree", "trees", "Tree", "café", "cafe", "parties", "party", "bus", "buses", "don't",
    "и", "труд", "天", "気天気", "x1", "_under_score_", "NOT", "and", "OR", "a:b", "%", "\\", "🌳",
)  # fmt: skip
TEXTS = 120
QUERIES = 60


def contains_phrase(words: list[str], phrase: Phrase) -> bool:
    size = len(phrase)
    return any(
        tuple(words[start : start + size]) == phrase for start in range(len(words) - size + 1)
    )


def matches(text: str, query: SearchQuery) -> bool:
    words = words_of(text)
    return (
        bool(query.phrases)
        and all(contains_phrase(words, phrase) for phrase in query.phrases)
        and not any(contains_phrase(words, phrase) for phrase in query.excluded)
    )


def random_query(rng: random.Random) -> str:
    parts = []
    for _ in range(rng.randint(1, 3)):
        words = " ".join(rng.choices(WORDS, k=rng.choice((1, 1, 2))))
        minus = rng.choice(("", "", "", "-"))
        parts.append(f'{minus}"{words}"' if rng.random() < 0.4 else f"{minus}{words}")
    return " ".join(parts)


@pytest.mark.parametrize("seed", [1, 2])
async def test_index_finds_exactly_the_matching_texts(database: Database, seed: int) -> None:
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 8))) for _ in range(TEXTS)]
    async with open_searching(database) as searching:
        room_id = await searching.world.create_room(ALICE)
        sent: dict[EventID, str] = {}
        for text in texts:
            searching.world.clock.advance(1)
            (event,) = await searching.world.append(room_id, message(ALICE, text))
            sent[event.event_id] = text
        for _ in range(QUERIES):
            term = random_query(rng)
            query = parse_query(term)
            expected = {event_id for event_id, text in sent.items() if matches(text, query)}

            result_ids = await searching.finds(ALICE, term, filter={"limit": 100})

            assert set(result_ids) == expected or len(expected) > 100, f"seed {seed}: {term!r}"
            assert len(result_ids) == len(set(result_ids)) == min(100, len(expected))


async def test_phrases_are_found_after_many_repetitions(database: Database) -> None:
    async with open_searching(database) as searching:
        room_id = await searching.world.create_room(ALICE)
        # PostgreSQL stores at most 255 positions of a word.
        long_text = " ".join(
            ("tick tock " * 2000, "tick boom boom tack", "boom " * 600, "tack boom")
        )
        (late,) = await searching.world.append(room_id, message(ALICE, long_text))
        (early,) = await searching.world.append(room_id, message(ALICE, "tick, boom and tack"))

        results = {
            term: set(await searching.finds(ALICE, term))
            for term in (
                '"tick boom"',
                '"tock tick boom boom tack"',
                '"boom boom boom boom tack"',
                '"tack boom tock"',
                'tock -"tick boom"',
                'and -"boom tack"',
                "tick boom",
            )
        }

        assert results == {
            '"tick boom"': {early.event_id, late.event_id},
            '"tock tick boom boom tack"': {late.event_id},
            '"boom boom boom boom tack"': {late.event_id},
            '"tack boom tock"': set(),
            'tock -"tick boom"': set(),
            'and -"boom tack"': {early.event_id},
            "tick boom": {early.event_id, late.event_id},
        }
