"""Positions in a stream that several processes write: one number per writer, most of them equal."""

import re
from collections.abc import Iterable
from functools import lru_cache

import attrs
from immutables import Map

from hs.core.errors import InvalidParam

_ESCAPED = re.compile(r"-([0-9a-f]{2})")
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
_MAX_WRITERS = 256


@attrs.frozen
class VectorPosition:
    """How far a reader has seen each writer of a stream.

    Every writer is seen up to `floor`; those in `ahead` are seen further. Writers that are in
    `ahead` are always above `floor`.
    """

    floor: int = 0
    ahead: Map[str, int] = attrs.field(factory=Map)

    def get(self, writer: str) -> int:
        """Give the position up to which a writer's rows have been seen."""
        return self.ahead.get(writer, self.floor)

    def covers(self, writer: str, position: int) -> bool:
        """Tell whether a row of a writer has been seen."""
        return position <= self.floor or position <= self.ahead.get(writer, 0)

    def covers_all(self, other: "VectorPosition") -> bool:
        """Tell whether nothing in another vector is news to this one."""
        if other is self:
            return True
        if other.floor > self.floor:
            return False
        if not other.ahead:
            return True
        return all(self.covers(writer, position) for writer, position in other.ahead.items())

    def advance(self, writer: str, position: int) -> "VectorPosition":
        """Give the vector after a writer has been seen up to a position; never goes back."""
        if position <= self.get(writer):
            return self
        return VectorPosition(self.floor, self.ahead.set(writer, position))

    def settle(self, writers: Iterable[str]) -> "VectorPosition":
        """Raise the floor to the slowest of all the stream's writers.

        `writers` must name every writer that may still write: a row of one left out could
        otherwise appear below the floor.
        """
        floor = min((self.get(writer) for writer in writers), default=self.floor)
        return self.raise_floor(floor)

    def raise_floor(self, floor: int) -> "VectorPosition":
        """Give the vector in which every writer is seen at least up to `floor`."""
        if floor <= self.floor:
            return self
        kept = {writer: seen for writer, seen in self.ahead.items() if seen > floor}
        return VectorPosition(floor, Map(kept))

    def most(self) -> int:
        """Give the highest position seen of any writer."""
        return max(self.ahead.values(), default=self.floor) if self.ahead else self.floor

    def merge(self, other: "VectorPosition") -> "VectorPosition":
        """Give the least vector that covers both."""
        merged = self.raise_floor(other.floor)
        for writer, position in other.ahead.items():
            merged = merged.advance(writer, position)
        return merged

    def encode(self) -> str:
        """Give the text form, `123` or `123~w1.125~w2.130`, made of unreserved characters."""
        if not self.ahead:
            return str(self.floor)
        entries = (f"~{_escape(name)}.{seen}" for name, seen in sorted(self.ahead.items()))
        return f"{self.floor}{''.join(entries)}"

    @classmethod
    def parse(cls, text: str) -> "VectorPosition":
        """Read the text form.

        Raises: InvalidParam.
        """
        floor, *entries = text.split("~")
        if len(entries) > _MAX_WRITERS:
            raise InvalidParam("The token names too many writers")
        vector = cls(_number(floor))
        for entry in entries:
            name, _, seen = entry.partition(".")
            vector = vector.advance(_unescape(name), _number(seen))
        return vector


def _number(text: str) -> int:
    if _NUMBER.fullmatch(text) is None:
        raise InvalidParam("The token is malformed")
    return int(text)


@lru_cache(maxsize=1024)
def _escape(writer: str) -> str:
    # "-" escapes, for it is the one unreserved character that tokens do not use to separate.
    return "".join(
        chr(byte) if chr(byte).isalnum() and byte < 128 else f"-{byte:02x}"
        for byte in writer.encode()
    )


def _unescape(text: str) -> str:
    if not text or not text.isascii():
        raise InvalidParam("The token is malformed")
    raw = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)
    try:
        return raw.encode("latin-1").decode()
    except UnicodeDecodeError as fault:
        raise InvalidParam("The token is malformed") from fault
