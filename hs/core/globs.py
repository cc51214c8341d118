"""Glob patterns, matched without backtracking however the pattern and the text are chosen.

A pattern is cut at its `*`. The pieces in between hold literals and `?` only, so each is found by
one scan to the right, and the leftmost place is always good enough.

Spec: appendices, Glob-style matching.
"""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TypeAlias

import attrs

Find: TypeAlias = Callable[[str, int], int]
"""Gives the first place at or after an index where a piece stands, or -1."""

_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


@attrs.frozen
class Piece:
    """What stands between two stars: literals and single-character wildcards."""

    text: str
    find: Find = attrs.field(eq=False, repr=False)

    def ends_at(self, value: str, end: int) -> bool:
        """Tell whether the piece stands just before an index."""
        start = end - len(self.text)
        return start >= 0 and self.find(value[start:end], 0) == 0

    def places(self, value: str, start: int) -> Iterator[int]:
        """Give every place at or after an index where the piece stands."""
        place = self.find(value, start)
        while place >= 0:
            yield place
            place = self.find(value, place + 1)


@attrs.frozen
class Glob:
    """A compiled pattern; compare and hash by the pattern."""

    pieces: tuple[Piece, ...]

    @property
    def effort(self) -> int:
        """Tell how many steps it may take for each character of a value."""
        # What has a `?` is compared anew from each place.
        return sum(len(one.text) if "?" in one.text else 1 for one in self.pieces)

    def matches(self, value: str) -> bool:
        """Tell whether the pattern is the whole of a value, without regard to case."""
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
        """Tell whether the pattern is a part of a value that begins and ends with words.

        Spec: push notifications, the `content.body` case of `event_match`.
        """
        value = value.lower()
        first, *rest = self.pieces
        starts = (at for at in first.places(value, 0) if _at_boundary(value, at))
        if not rest:
            return any(_at_boundary(value, at + len(first.text)) for at in starts)
        start = next(starts, -1)
        if start < 0:
            return False
        last = rest.pop()
        end = _after_all(rest, value, start + len(first.text))
        if end < 0:
            return False
        size = len(last.text)
        return size == 0 or any(_at_boundary(value, at + size) for at in last.places(value, end))


def compile_glob(pattern: str) -> Glob:
    """Prepare a pattern for matching without regard to case."""
    first, *rest = pattern.lower().split("*")
    # Empty pieces in the middle come from runs of stars and match anywhere.
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
    # Made when it is needed: of ten thousand patterns that somebody has, few may ever be.
    return re.compile("".join("." if char == "?" else re.escape(char) for char in text), re.DOTALL)


def _after_all(pieces: list[Piece], value: str, start: int) -> int:
    """Give the place after the leftmost places of pieces in a row, or -1."""
    for piece in pieces:
        place = piece.find(value, start)
        if place < 0:
            return -1
        start = place + len(piece.text)
    return start


def _at_boundary(value: str, index: int) -> bool:
    if index == 0 or index >= len(value):
        return True
    return value[index - 1] not in _WORD or value[index] not in _WORD


@attrs.frozen
class StarPattern:
    """A pattern in which `*` is the only wildcard and case counts, as filters have for types."""

    pieces: tuple[str, ...]

    def matches(self, value: str) -> bool:
        """Tell whether the pattern is the whole of a value."""
        first, *rest = self.pieces
        if not rest:
            return value == first
        if not value.startswith(first):
            return False
        place = len(first)
        last = rest.pop()
        for piece in rest:
            found = value.find(piece, place)
            if found < 0:
                return False
            place = found + len(piece)
        return place + len(last) <= len(value) and value.endswith(last)


def compile_stars(pattern: str) -> StarPattern:
    """Prepare a pattern whose only wildcard is the star."""
    return StarPattern(tuple(pattern.split("*")))
