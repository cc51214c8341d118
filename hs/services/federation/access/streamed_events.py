"""Many events as JSON, read and sent in parts.

The events are spliced from their stored bytes, so that a large room takes little memory. Only
PARTS_AT_ONCE parts are read at the same time, and none while a slow peer receives the one before.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from itertools import islice
from typing import Final

import attrs
import trio

from hs.core.ids import EventID
from hs.services.rooms.store.event_store import EventStore

PARTS_AT_ONCE: Final = 4
EVENTS_IN_PART: Final = 200


@attrs.frozen(eq=False)
class StreamedEvents:
    """Encodes lists of events."""

    _events: EventStore
    _readers: trio.Semaphore = attrs.Factory(lambda: trio.Semaphore(PARTS_AT_ONCE))

    async def encode(
        self, lists: Mapping[str, Collection[EventID]], opening: bytes = b"{"
    ) -> AsyncIterator[bytes]:
        """Yield a JSON object of lists of events; `opening` may have other members."""
        for name, event_ids in lists.items():
            yield b'%b"%b":[' % (opening, name.encode())
            opening, separator = b"],", b""
            remaining = iter(event_ids)
            while part := list(islice(remaining, EVENTS_IN_PART)):
                async with self._readers:
                    pdus = await self._pdus(part)
                if pdus:
                    yield separator + b",".join(pdus)
                    separator = b","
        yield b"]}"

    async def _pdus(self, event_ids: Sequence[EventID]) -> list[bytes]:
        pdus = await self._events.pdus(event_ids)
        redacted = [event_id for event_id in event_ids if event_id not in pdus]
        if redacted:
            events = await self._events.scan(redacted)
            pdus.update((key, stored.effective_event.canonical) for key, stored in events.items())
        return list(pdus.values())
