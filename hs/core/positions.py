"""Positions in streams: one number for each process that writes the stream, most of them equal."""

import re
from collections.abc import Iterable
from functools import lru_cache

import attrs
from immutables import Map

from hs.core.errors import InvalidParam

_EPOCH = re.compile(r"[0-9A-Za-z]{0,32}", re.ASCII)
_ESCAPED = re.compile(r"-([0-9a-f]{2})")
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
_MAX_WRITERS = 256


@attrs.frozen
class VectorPosition:
    """The position up to which a reader has seen the rows of each writer of a stream.

    That is `floor` for every writer that is not in `ahead`. Positions in `ahead` are greater than
    `floor`.
    """

    floor: int = 0
    ahead: Map[str, int] = attrs.field(factory=Map)

    def get(self, writer: str) -> int:
        """Return the position up to which a writer's rows have been seen."""
        return self.ahead.get(writer, self.floor)

    def covers(self, writer: str, position: int) -> bool:
        """Return whether the row at a writer's position has been seen."""
        return position <= self.floor or position <= self.ahead.get(writer, 0)

    def covers_all(self, other: "VectorPosition") -> bool:
        """Return whether every row that another vector covers has been seen."""
        if other is self:
            return True
        if other.floor > self.floor:
            return False
        if other.ahead:
            floor, ahead = self.floor, self.ahead
            for writer, position in other.ahead.items():
                if position > floor and position > ahead.get(writer, 0):
                    return False
        return True

    def advance(self, writer: str, position: int) -> "VectorPosition":
        """Return the vector with a writer raised to a position; never lower than it was."""
        if position <= self.get(writer):
            return self
        return VectorPosition(self.floor, self.ahead.set(writer, position))

    def settle(self, writers: Iterable[str]) -> "VectorPosition":
        """Return the vector with the floor raised to the slowest writer.

        `writers` must name every process that may still write to the stream. A writer that is
        missing could otherwise add a row below the floor, which no reader would notice.
        """
        floor = min((self.get(writer) for writer in writers), default=self.floor)
        return self.raise_floor(floor)

    def raise_floor(self, floor: int) -> "VectorPosition":
        """Return the vector with every writer raised to at least `floor`."""
        if floor <= self.floor:
            return self
        ahead = {writer: seen for writer, seen in self.ahead.items() if seen > floor}
        return VectorPosition(floor, Map(ahead))

    def capped(self, most: int) -> "VectorPosition":
        """Return the vector with every writer lowered to at most `most`."""
        floor = min(self.floor, most)
        ahead = {writer: min(seen, most) for writer, seen in self.ahead.items()}
        return VectorPosition(
            floor, Map({writer: seen for writer, seen in ahead.items() if seen > floor})
        )

    def most(self) -> int:
        """Return the highest position seen of any writer."""
        return max(self.ahead.values(), default=self.floor) if self.ahead else self.floor

    def merge(self, other: "VectorPosition") -> "VectorPosition":
        """Return the smallest vector that covers both."""
        merged = self.raise_floor(other.floor)
        for writer, position in other.ahead.items():
            merged = merged.advance(writer, position)
        return merged

    def encode(self) -> str:
        """Return the text form, `123` or `123~w1.125~w2.130`, of unreserved characters."""
        if not self.ahead:
            return str(self.floor)
        entries = (f"~{_escape(name)}.{seen}" for name, seen in sorted(self.ahead.items()))
        return f"{self.floor}{''.join(entries)}"

    @classmethod
    def parse(cls, text: str) -> "VectorPosition":
        """Parse the text form.

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


@attrs.frozen
class EpochPosition:
    """A position in a memory stream, which is valid only within one life of the writers.

    With another epoch, everything in the stream is new to the reader.
    """

    epoch: str = ""
    vector: VectorPosition = VectorPosition()

    def encode(self) -> str:
        """Return the text form, `<epoch>.<vector>`."""
        return f"{self.epoch}.{self.vector.encode()}"

    @classmethod
    def parse(cls, text: str) -> "EpochPosition":
        """Parse the text form.

        Raises: InvalidParam.
        """
        epoch, dot, vector = text.partition(".")
        if not dot or _EPOCH.fullmatch(epoch) is None:
            raise InvalidParam("The token is malformed")
        return cls(epoch, VectorPosition.parse(vector))


def _number(text: str) -> int:
    if _NUMBER.fullmatch(text) is None:
        raise InvalidParam("The token is malformed")
    return int(text)


@lru_cache(maxsize=1024)
def _escape(writer: str) -> str:
    # "-" marks an escape: it is the only unreserved character that separates nothing in tokens.
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
