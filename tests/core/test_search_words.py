"""Words of the message search: bounds on search terms and highlights."""

import pytest

from hs.core.search_words import (
    MAX_HIGHLIGHTED_WORDS,
    MAX_QUERY_WORDS,
    MAX_TERM_CHARS,
    highlights_of,
    parse_query,
)


@pytest.mark.parametrize("part", ["a ", '"', '" ', "-", "ä ", "x"])
def test_search_term_is_cut_to_its_limits(part: str) -> None:
    bounded = parse_query((part * MAX_TERM_CHARS)[:MAX_TERM_CHARS])

    query = parse_query(part * 1_000_000)

    assert query == bounded
    assert sum(map(len, (*query.phrases, *query.excluded))) <= MAX_QUERY_WORDS


def test_highlights_are_from_the_beginning_of_a_text() -> None:
    early, late = "Plan " + "x " * MAX_HIGHLIGHTED_WORDS, "x " * MAX_HIGHLIGHTED_WORDS + "plan"

    assert highlights_of(early, parse_query("plans")) == {"plan"}
    assert highlights_of(late, parse_query("plan")) == set()
