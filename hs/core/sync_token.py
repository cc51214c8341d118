"""The tokens of /sync: how far a client has seen each stream."""

import operator
import re
from collections.abc import Iterable
from typing import Any, Final

import attrs

from hs.core.errors import InvalidParam
from hs.core.positions import EpochPosition, VectorPosition
from hs.core.stream_def import StreamDef
from hs.core.streams import CATALOGUE

MAX_TOKEN_LENGTH: Final = 8192
# Unreserved characters. Services send a token back as it came, without an escape.
_CHARACTERS: Final = re.compile(r"s[0-9A-Za-z._~-]*", re.ASCII)


@attrs.frozen
class SyncToken:
    """How far a client has seen each stream that /sync follows.

    Its fields declare which streams those are: a field has the name of its stream, and that of a
    memory stream is an EpochPosition. They are written out for the type checker; all else about
    slots is derived from them. The order of the fields is that of the segments of the text form,
    so a new field comes last. Text with fewer segments was written by an earlier release: the
    missing positions are 0. Further segments were written by a later one and are ignored.

    `sticky` is no stream: it is the position in `events` up to which sticky events have been
    delivered, if there were more than fit into one response. Only its segment begins with "~".

    `counted` is no stream either: it is the position in `events` up to which the unread counts that
    the client has are exact, if push rules were not evaluated for all events. Only its segment
    begins with "-".

    Services may add a segment that begins with a letter: `c` is the state of a sliding sync
    connection, `m` the record of lazily loaded members that the client has. Here they are ignored,
    as segments of a later release are.
    """

    events: VectorPosition = VectorPosition()
    receipts: VectorPosition = VectorPosition()
    typing: EpochPosition = EpochPosition()
    presence: EpochPosition = EpochPosition()
    account_data: VectorPosition = VectorPosition()
    to_device: VectorPosition = VectorPosition()
    device_lists: VectorPosition = VectorPosition()
    push_rules: VectorPosition = VectorPosition()
    thread_subscriptions: VectorPosition = VectorPosition()
    profile_updates: VectorPosition = VectorPosition()
    sticky: VectorPosition | None = attrs.field(default=None, kw_only=True)
    counted: VectorPosition | None = attrs.field(default=None, kw_only=True)

    @classmethod
    def at(cls, vectors: Iterable[VectorPosition]) -> "SyncToken":
        """Return the token for these positions in SYNCED_STREAMS."""
        # Positions in memory streams grow over restarts of their writers, so a position of an
        # earlier epoch is known by its number and the epoch in the token stays empty.
        slots: list[Any] = [
            EpochPosition("", vector) if slot is EpochPosition else vector
            for slot, vector in zip(_SLOT_TYPES, vectors, strict=True)
        ]
        return cls(*slots)

    def vectors(self) -> tuple[VectorPosition, ...]:
        """Return the positions in SYNCED_STREAMS."""
        return _vectors(self)

    def encode(self) -> str:
        """Return the text form, `s<events>_<receipts>_…`."""
        text = "s" + "_".join([slot.encode() for slot in _slots(self)])
        if self.sticky is not None:
            text += f"_~{self.sticky.encode()}"
        if self.counted is not None:
            text += f"_-{self.counted.encode()}"
        return text

    @classmethod
    def parse(cls, text: str) -> "SyncToken":
        """Parse the text form.

        Raises: InvalidParam.
        """
        if len(text) > MAX_TOKEN_LENGTH or _CHARACTERS.fullmatch(text) is None:
            raise InvalidParam("Not a sync token")
        segments = text[1:].split("_")
        sticky = _take_marked(segments, "~") if "_~" in text else None
        counted = _take_marked(segments, "-") if "_-" in text else None
        slots: list[Any] = [
            slot.parse(segment) for slot, segment in zip(_SLOT_TYPES, segments, strict=False)
        ]
        return cls(*slots, sticky=sticky, counted=counted)


def _take_marked(segments: list[str], mark: str) -> VectorPosition:
    """Remove the segment that begins with a mark, and return what it says."""
    marked = next(segment for segment in segments if segment[:1] == mark)
    segments.remove(marked)
    return VectorPosition.parse(marked[1:])


_BY_NAME: Final = {stream.name: stream for stream in CATALOGUE}
_SLOT_NAMES: Final = tuple(
    field.name for field in attrs.fields(SyncToken) if field.name in _BY_NAME
)
_SLOT_TYPES: Final = tuple(type(getattr(SyncToken(), name)) for name in _SLOT_NAMES)
_slots = operator.attrgetter(*_SLOT_NAMES)
_vectors = operator.attrgetter(
    *[
        f"{name}.vector" if slot is EpochPosition else name
        for name, slot in zip(_SLOT_NAMES, _SLOT_TYPES, strict=True)
    ]
)

# The streams that /sync follows, in the order of their slots in the token.
SYNCED_STREAMS: Final[tuple[StreamDef[Any], ...]] = tuple(_BY_NAME[name] for name in _SLOT_NAMES)
