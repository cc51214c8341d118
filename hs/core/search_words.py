"""Splitting of texts and search terms into the words that the message search compares.

Words are case-folded and lose their accents; English plurals are reduced to the singular. In
scripts without spaces, each character is a word, so that a run of characters is found as a phrase.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from typing import Final

import attrs

MAX_WORDS: Final = 5000
MAX_WORD_CHARS: Final = 64
MAX_QUERY_WORDS: Final = 32
MAX_HIGHLIGHTED_WORDS: Final = 1000
MAX_TERM_CHARS: Final = 4096
"""Length to which a search term is cut; MAX_QUERY_WORDS words fit in easily."""

_SPACELESS: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u2e80-\u2fff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_WORD: Final = re.compile(rf"[{_SPACELESS}]|[^\W_{_SPACELESS}]+")
_PART: Final = re.compile(r'(-?)(?:"([^"]*)"?|(\S+))')

Phrase = tuple[str, ...]


@attrs.frozen
class SearchQuery:
    """The conditions on a text: the phrases that it must contain, and those that it must not."""

    phrases: tuple[Phrase, ...]
    excluded: tuple[Phrase, ...] = ()

    @property
    def words(self) -> frozenset[str]:
        """All words of the phrases searched for."""
        return frozenset(word for phrase in self.phrases for word in phrase)


def words_of(text: str) -> list[str]:
    """Return the words of a text in order, in the form that search compares."""
    return [folded for _, folded in _pairs(text)]


def parse_query(term: str) -> SearchQuery:
    """Parse a search term: words, "phrases in quotes", and -excluded words."""
    phrases: list[Phrase] = []
    excluded: list[Phrase] = []
    remaining = MAX_QUERY_WORDS
    for minus, quoted, plain in _PART.findall(term[:MAX_TERM_CHARS]):
        phrase = tuple(words_of(quoted or plain)[:remaining])
        remaining -= len(phrase)
        if phrase:
            (excluded if minus else phrases).append(phrase)
    if not phrases:
        # A term of excluded words only, such as "-5", searches for these words instead.
        return SearchQuery(tuple(excluded))
    return SearchQuery(tuple(dict.fromkeys(phrases)), tuple(dict.fromkeys(excluded)))


def highlights_of(text: str, query: SearchQuery) -> set[str]:
    """Return the words in the beginning of a text that match the query, in lower case."""
    query_words, beginning = query.words, islice(_pairs(text), MAX_HIGHLIGHTED_WORDS)
    return {word.lower() for word, folded in beginning if folded in query_words}


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """Yield each word of a text as written and as search compares it."""
    for number, match in enumerate(_WORD.finditer(unicodedata.normalize("NFC", text))):
        if number == MAX_WORDS:
            return
        yield match[0], _folded(match[0][:MAX_WORD_CHARS])


@lru_cache(maxsize=20_000)
def _folded(word: str) -> str:
    if word.isascii():
        return _singular(word.lower())
    plain = unicodedata.normalize("NFKD", word).casefold()
    plain = "".join(char for char in plain if char.isalnum())
    return _singular(plain or word)[:MAX_WORD_CHARS]


def _singular(word: str) -> str:
    """Remove the ending of an English plural.

    Words that only look like plurals are shortened as well, but alike in texts and queries.
    """
    if len(word) < 4 or not word.isascii() or not word.endswith("s") or word.endswith(("us", "ss")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-1]
