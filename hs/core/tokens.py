"""The tokens that clients get to say how far they have read.

They are opaque to clients, made of unreserved characters, and mean the same on every process.
A token with more segments than this version knows comes from a later one: the rest is ignored;
one with fewer comes from an earlier one: the rest starts at nought.
"""

import base64
import re
from typing import TypeAlias

import attrs
import orjson

from hs.core.errors import InvalidParam
from hs.core.positions import VectorPosition

_EPOCH = re.compile(r"[0-9A-Za-z]{0,32}", re.ASCII)
_TOPOLOGICAL = re.compile(r"t([0-9]{1,18})-(-?[0-9]{1,18})", re.ASCII)
_MAX_LENGTH = 8192


@attrs.frozen
class EpochPosition:
    """A position in a stream that is kept in memory: it counts only within its writers' lives.

    After a restart the epoch differs, and everything in the stream is new.
    """

    epoch: str = ""
    vector: VectorPosition = VectorPosition()

    def encode(self) -> str:
        """Give the text form, `<epoch>.<vector>`."""
        return f"{self.epoch}.{self.vector.encode()}"

    @classmethod
    def parse(cls, text: str) -> "EpochPosition":
        """Read the text form.

        Raises: InvalidParam.
        """
        epoch, dot, vector = text.partition(".")
        if not dot or _EPOCH.fullmatch(epoch) is None:
            raise InvalidParam("The token is malformed")
        return cls(epoch, VectorPosition.parse(vector))


@attrs.frozen
class SyncToken:
    """How far a client has seen every stream that `/sync` tells of; the order is the text's."""

    events: VectorPosition = VectorPosition()
    receipts: VectorPosition = VectorPosition()
    typing: EpochPosition = EpochPosition()
    presence: EpochPosition = EpochPosition()
    account_data: VectorPosition = VectorPosition()
    to_device: VectorPosition = VectorPosition()
    device_lists: VectorPosition = VectorPosition()
    push_rules: VectorPosition = VectorPosition()
    thread_subscriptions: VectorPosition = VectorPosition()

    def encode(self) -> str:
        """Give the text form, `s<events>_<receipts>_…`."""
        positions = (
            self.events,
            self.receipts,
            self.typing,
            self.presence,
            self.account_data,
            self.to_device,
            self.device_lists,
            self.push_rules,
            self.thread_subscriptions,
        )
        return "s" + "_".join(position.encode() for position in positions)

    @classmethod
    def parse(cls, text: str) -> "SyncToken":
        """Read the text form.

        Raises: InvalidParam.
        """
        if not text.startswith("s") or len(text) > _MAX_LENGTH:
            raise InvalidParam("Not a sync token")
        given = text[1:].split("_")[: len(_AT_NOUGHT)]
        segments = (*given, *_AT_NOUGHT[len(given) :])
        return cls(
            events=VectorPosition.parse(segments[0]),
            receipts=VectorPosition.parse(segments[1]),
            typing=EpochPosition.parse(segments[2]),
            presence=EpochPosition.parse(segments[3]),
            account_data=VectorPosition.parse(segments[4]),
            to_device=VectorPosition.parse(segments[5]),
            device_lists=VectorPosition.parse(segments[6]),
            push_rules=VectorPosition.parse(segments[7]),
            thread_subscriptions=VectorPosition.parse(segments[8]),
        )


_AT_NOUGHT = ("0", "0", ".0", ".0", "0", "0", "0", "0", "0")


@attrs.frozen(order=True)
class TopologicalToken:
    """A place in a room's history: behind the event with this depth and stream number.

    Ordered as history is. Events from before our time have negative stream numbers.
    """

    depth: int
    stream: int

    def encode(self) -> str:
        """Give the text form, `t<depth>-<stream>`."""
        return f"t{self.depth}-{self.stream}"

    @classmethod
    def parse(cls, text: str) -> "TopologicalToken":
        """Read the text form.

        Raises: InvalidParam.
        """
        match = _TOPOLOGICAL.fullmatch(text)
        if match is None:
            raise InvalidParam("Not a token of a room's history")
        return cls(int(match[1]), int(match[2]))


RoomToken: TypeAlias = TopologicalToken | SyncToken
"""What `/messages` and its kin take: a place in history, or the moment of a sync."""


def parse_room_token(text: str) -> RoomToken:
    """Read either form of a room token.

    Raises: InvalidParam.
    """
    if text.startswith("t"):
        return TopologicalToken.parse(text)
    return SyncToken.parse(text)


@attrs.frozen
class PaginationToken:
    """A place in any other list: the sort keys of the last entry given."""

    keys: tuple[int | str, ...]

    def encode(self) -> str:
        """Give the text form, `p` and base64."""
        return "p" + base64.urlsafe_b64encode(orjson.dumps(self.keys)).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str, *kinds: type[int] | type[str]) -> "PaginationToken":
        """Read the text form and check that the keys are of these kinds.

        Raises: InvalidParam.
        """
        if not text.startswith("p") or len(text) > _MAX_LENGTH:
            raise InvalidParam("Not a pagination token")
        try:
            keys = orjson.loads(base64.urlsafe_b64decode(text[1:] + "=" * (-len(text[1:]) % 4)))
        except ValueError as fault:
            raise InvalidParam("The token is malformed") from fault
        if not isinstance(keys, list) or [type(key) for key in keys] != list(kinds):
            raise InvalidParam("The token is of another list")
        if any("\0" in key for key in keys if isinstance(key, str)):
            raise InvalidParam("The token is malformed")
        return cls(tuple(keys))
