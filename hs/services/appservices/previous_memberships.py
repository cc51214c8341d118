"""The membership before and after a member event, read from the database."""

from typing import Any

import attrs

from hs.core.ids import EventID
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.state_store import StateStore


@attrs.frozen(eq=False)
class PreviousMembershipReader:
    """The reader of memberships before events."""

    _events: EventStore
    _states: StateStore

    async def memberships(self, event_id: EventID) -> tuple[str | None, str | None]:
        """Return the membership before a member event, and the one that it sets."""
        stored = await self._events.get_one(event_id)
        if stored is None or stored.event.state_key is None:
            return None, None
        previous = await self._states.replaced_event(stored)
        before = None if previous is None else _membership(previous.event.content)
        return before, _membership(stored.event.content)


def _membership(content: Any) -> str | None:
    membership = content.get("membership")
    return membership if isinstance(membership, str) else None
