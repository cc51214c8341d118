"""Glob patterns, matched in bounded time whatever the pattern and the text are.

Both patterns and texts are chosen by users, so no matcher here may backtrack. Rules:

- A pattern is split at its `*`. The pieces between contain only literals and `?`, so each has a
  fixed length and is found by one scan to the right.
- Every piece in the middle takes the leftmost position after the previous piece. If any match of
  the rest exists, one exists after the leftmost position too, so no choice is ever revised.
- The first and the last piece are anchored: to the ends of the text, or to word boundaries.
- Time is at most the length of the text times `Glob.effort`; callers that match many patterns
  budget by that.

Spec: appendices, Glob-style matching.
"""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TypeAlias

import attrs

Find: TypeAlias = Callable[[str, int], int]
"""Function that returns the first position of a piece at or after an index, or -1."""

_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


@attrs.frozen
class Piece:
    """The part of a pattern between two `*`: literals and single-character wildcards."""

    text: str
    find: Find = attrs.field(eq=False, repr=False)

    def ends_at(self, value: str, end: int) -> bool:
        """Return whether the piece matches the text that ends at an index."""
        start = end - len(self.text)
        return start >= 0 and self.find(value[start:end], 0) == 0

    def positions(self, value: str, start: int) -> Iterator[int]:
        """Yield every position at or after an index where the piece matches."""
        position = self.find(value, start)
        while position >= 0:
            yield position
            position = self.find(value, position + 1)


@attrs.frozen
class Glob:
    """A compiled pattern; compared and hashed by its pieces."""

    pieces: tuple[Piece, ...]

    @property
    def literal(self) -> str | None:
        """The only text, in lower case, that the pattern matches whole; None with wildcards."""
        first, *rest = self.pieces
        return None if rest or "?" in first.text else first.text

    @property
    def effort(self) -> int:
        """Largest number of steps per character of a text."""
        # A piece with a `?` may be compared in full at each position.
        return sum(len(piece.text) if "?" in piece.text else 1 for piece in self.pieces)

    def matches(self, value: str) -> bool:
        """Return whether the pattern matches the whole text, ignoring case."""
        value = value.lower()
        first, *rest = self.pieces
        if not rest:
            return len(value) == len(first.text) and first.find(value, 0) == 0
        if first.find(value[: len(first.text)], 0) != 0:
            return False
        last = rest.pop()
        end = _after_all(rest, value, len(first.text))
        return 0 <= end <= len(value) - len(last.text) and last.ends_at(value, len(value))

    def matches_words(self, value: str) -> bool:
        """Return whether the pattern matches a part of the text between word boundaries.

        Case is ignored. Spec: client-server API, Push rules, `event_match` on `content.body`.
        """
        value = value.lower()
        first, *rest = self.pieces
        starts = (start for start in first.positions(value, 0) if _at_boundary(value, start))
        if not rest:
            return any(_at_boundary(value, start + len(first.text)) for start in starts)
        start = next(starts, -1)
        if start < 0:
            return False
        last = rest.pop()
        end = _after_all(rest, value, start + len(first.text))
        if end < 0:
            return False
        size = len(last.text)
        if size == 0:
            return True
        return any(_at_boundary(value, start + size) for start in last.positions(value, end))


def compile_glob(pattern: str) -> Glob:
    """Compile a pattern for matching that ignores case."""
    first, *rest = pattern.lower().split("*")
    # A run of several `*` leaves empty pieces in the middle; they match anywhere.
    middle = [piece for piece in rest[:-1] if piece]
    return Glob(tuple(_piece(text) for text in (first, *middle, *rest[-1:])))


def _piece(text: str) -> Piece:
    if "?" not in text:
        return Piece(text, lambda value, start: value.find(text, start))

    def find(value: str, start: int) -> int:
        match = _regex(text).search(value, start)
        return -1 if match is None else match.start()

    return Piece(text, find)


@lru_cache(maxsize=1000)
def _regex(text: str) -> re.Pattern[str]:
    # Compiled on first use: a user may have ten thousand patterns, most of them never reached.
    return re.compile("".join("." if char == "?" else re.escape(char) for char in text), re.DOTALL)


def _after_all(pieces: list[Piece], value: str, start: int) -> int:
    """Return the end of the leftmost match of all pieces in sequence, or -1."""
    for piece in pieces:
        position = piece.find(value, start)
        if position < 0:
            return -1
        start = position + len(piece.text)
    return start


def _at_boundary(value: str, index: int) -> bool:
    if index == 0 or index >= len(value):
        return True
    return value[index - 1] not in _WORD or value[index] not in _WORD


@attrs.frozen
class StarPattern:
    """A case-sensitive pattern whose only wildcard is `*`, as for event types in filters."""

    pieces: tuple[str, ...]

    def matches(self, value: str) -> bool:
        """Return whether the pattern matches the whole text."""
        first, *rest = self.pieces
        if not rest:
            return value == first
        if not value.startswith(first):
            return False
        end = len(first)
        last = rest.pop()
        for piece in rest:
            position = value.find(piece, end)
            if position < 0:
                return False
            end = position + len(piece)
        return end + len(last) <= len(value) and value.endswith(last)


def compile_stars(pattern: str) -> StarPattern:
    """Compile a case-sensitive pattern whose only wildcard is `*`."""
    return StarPattern(tuple(pattern.split("*")))
