"""The events that application services are to get, stored with the position they were read up to.

Events wait in memory until the commit that adds them to the table and moves the stored position:
whatever happens to the process, each event is added once.
"""

from typing import Final

import attrs

from hs.core.errors import Unavailable
from hs.core.positions import VectorPosition
from hs.services.appservices.sender_states import SenderEvent, SenderStates
from hs.storage.appservices import transactions as storage
from hs.storage.database import Database

MAX_EVENTS: Final = 500
"""Events that are stored in one transaction."""


class ReadElsewhere(Unavailable):
    """Another process has read on, so that this one must begin with what is stored."""

    def __init__(self) -> None:
        super().__init__("another process reads for application services by now")


@attrs.define(eq=False)
class WaitingEvents:
    """The events found in one run; `position` is how far the stream of events was read."""

    _database: Database
    _states: SenderStates
    position: VectorPosition = attrs.field(factory=VectorPosition, init=False)
    _events: list[tuple[str, str]] = attrs.field(factory=list, init=False)  # (service, event)
    _stored: str | None = attrs.field(default=None, init=False)  # the position in the table

    async def begin(self, now: VectorPosition) -> None:
        """Read the stored position; the very first run begins at `now`."""
        positions = await self._database.read(storage.positions, storage.ALL_SERVICES)
        self._stored = positions.get(storage.EVENTS)
        self.position = now if self._stored is None else VectorPosition.parse(self._stored)

    def __len__(self) -> int:
        return len(self._events)

    def add(self, service_id: str, event_id: str) -> None:
        """Add an event for a service."""
        self._events.append((service_id, event_id))

    async def store_if_changed(self) -> frozenset[str]:
        """Store the events and the position, unless nothing has changed; return as `store`."""
        if self._events or self.position.encode() != self._stored:
            return await self.store()
        return frozenset()

    async def store(self) -> frozenset[str]:
        """Store the events and the position; return the IDs of the services with new events.

        Raises: ReadElsewhere, DatabaseError; then nothing more may be stored in this run.
        """
        events, position = self._events, self.position.encode()
        self._states.note(SenderEvent.WRITE_BEGAN)
        try:
            if not await self._database.write(
                storage.enqueue_events, events, self._stored, position
            ):
                raise ReadElsewhere
        except BaseException:
            # If it was cancelled, it may have been stored all the same.
            self._states.note(SenderEvent.WRITE_FAILED)
            raise
        self._states.note(SenderEvent.WRITE_SUCCEEDED)
        self._stored, self._events = position, []
        return frozenset(service_id for service_id, _ in events)
