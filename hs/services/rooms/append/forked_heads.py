"""The ends of rooms with more forward extremities than an event may cite.

An event that cites some of them follows the state after those, and it is authorized by that state:
other servers compute the same from the events that it cites. Afterwards the state of the room is
that of the event, resolved with those of the other extremities.
"""

from collections.abc import Sequence
from typing import Protocol

from hs.core.ids import ServerName
from hs.services.rooms.append.hot_room import MAX_PREV_EVENTS, HotRoom, RoomHead
from hs.services.rooms.append.pending_events import PendingEvent


class ForkedHeads(Protocol):
    """Resolves the states of a held room's forward extremities.

    The methods raise RoomDropped if a commit of the room has failed meanwhile.
    """

    async def cited_head(self, room: HotRoom, server_name: ServerName) -> RoomHead:
        """Return the head with those extremities that an event of a server cites."""
        ...

    async def joined_head(
        self, room: HotRoom, events: Sequence[PendingEvent], head: RoomHead
    ) -> RoomHead:
        """Return the head after events that were built on `cited_head`; set their changes.

        `head` is the room's head with the entries of the events.
        """
        ...


def is_forked(room: HotRoom) -> bool:
    """Return whether a room has more forward extremities than an event may cite."""
    return len(room.head.extremities) > MAX_PREV_EVENTS
