"""From text to the words that search goes by, and from what users type to what must be found.

Words are case folded, without accents, and plurals count as their singular. Text in scripts
without spaces is one word per character, so that a run of characters is found as a phrase.
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
"""Of what users type; as many words as count are shorter."""

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
    """What a text must have: every one of `phrases`, and none of `unwanted`."""

    phrases: tuple[Phrase, ...]
    unwanted: tuple[Phrase, ...] = ()

    @property
    def words(self) -> frozenset[str]:
        """Give all words that are looked for."""
        return frozenset(word for phrase in self.phrases for word in phrase)


def words_of(text: str) -> list[str]:
    """List the words of a text in their order, as search compares them."""
    return [folded for _, folded in _pairs(text)]


def parse_query(term: str) -> SearchQuery:
    """Read what a user typed: words, "phrases in quotes", and -words that must not be there."""
    phrases: list[Phrase] = []
    unwanted: list[Phrase] = []
    left = MAX_QUERY_WORDS
    for minus, quoted, plain in _PART.findall(term[:MAX_TERM_CHARS]):
        phrase = tuple(words_of(quoted or plain)[:left])
        left -= len(phrase)
        if phrase:
            (unwanted if minus else phrases).append(phrase)
    if not phrases:
        # "-5" alone is a search for 5.
        return SearchQuery(tuple(unwanted))
    return SearchQuery(tuple(dict.fromkeys(phrases)), tuple(dict.fromkeys(unwanted)))


def highlights_of(text: str, query: SearchQuery) -> set[str]:
    """Give the words of a text's beginning, in lower case, that are among those looked for."""
    wanted, beginning = query.words, islice(_pairs(text), MAX_HIGHLIGHTED_WORDS)
    return {found.lower() for found, folded in beginning if folded in wanted}


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for number, match in enumerate(_WORD.finditer(unicodedata.normalize("NFC", text))):
        if number == MAX_WORDS:
            return
        yield match[0], _folded(match[0][:MAX_WORD_CHARS])


@lru_cache(maxsize=20_000)
def _folded(word: str) -> str:
    if word.isascii():
        return _singular(word.lower())
    plain = unicodedata.normalize("NFKD", word).casefold()
    plain = "".join(one for one in plain if one.isalnum())
    return _singular(plain or word)[:MAX_WORD_CHARS]


def _singular(word: str) -> str:
    """Take an English plural's ending off; what is no plural is only compared alike."""
    if len(word) < 4 or not word.isascii() or not word.endswith("s") or word.endswith(("us", "ss")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-1]
