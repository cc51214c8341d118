"""Which events another server may see; the others are sent to it redacted.

Rules:

- What the server may see of an event depends on the history visibility and on the memberships of
  the server's users, both in the state before the event.
- A server sees the events of its own users, and those that change their memberships.
- Memberships are looked up only if they matter: the history is not shared, or the sender is erased.
  Of a server with very many users in the room, the first MAX_USERS are looked up.
- A server that is not in the room any more sees the events of the time when it was, the state that
  it left, and nothing of the others, not even in redacted form. Events of that state may be of
  forks from before it joined, and it needs them to accept the event by which it was removed.
- Outliers have no state before them. They are state events of the room, which any server in it may
  read.

Spec: server-server API, Backfilling and retrieving missing events; client-server API, Room History
Visibility.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import attrs

from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.events.event_types import StateKey
from hs.core.events.redaction import redact
from hs.core.ids import EventID, RoomID, ServerName, server_of
from hs.core.visibility import HistoryVisibility, server_may_see, visibility_in
from hs.services.accounts.lifecycle.erased_users import ErasedUsersCache
from hs.services.rooms.read.rendering import content_of
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.stored_event import StoredEvent, membership_in
from hs.storage.database import Database
from hs.storage.rooms import memberships, room_servers, timelines

MAX_USERS: Final = 2000
USERS_AT_ONCE: Final = 100

_VISIBILITY_KEY: Final = (event_types.HISTORY_VISIBILITY, "")
_OPEN: Final = frozenset((HistoryVisibility.SHARED, HistoryVisibility.WORLD_READABLE))


@attrs.frozen(eq=False)
class ServerVisibility:
    """Decides which events servers see."""

    _database: Database
    _events: EventStore
    _erased: ErasedUsersCache

    async def visible_ids(
        self, server: ServerName, room_id: RoomID, events: Collection[StoredEvent]
    ) -> frozenset[EventID]:
        """Return those events of a room that a server in the room may see."""
        placed = [stored for stored in events if stored.snapshot_id is not None]
        visible = {stored.event_id for stored in events if stored.snapshot_id is None}
        visibilities = await self._visibilities(placed)
        erased = await self._erased.erased_among({stored.event.sender for stored in placed})
        unsure: list[StoredEvent] = []
        for stored in placed:
            is_open = server_may_see(stored.event, visibilities[stored.snapshot_id or 0], ())
            if _is_of(server, stored.event) or (is_open and stored.event.sender not in erased):
                visible.add(stored.event_id)
            else:
                unsure.append(stored)
        if unsure:
            visible |= await self._seen_by_members(server, room_id, unsure, visibilities)
        return frozenset(visible)

    async def visible_to_departed(
        self, server: ServerName, room_id: RoomID, events: Collection[StoredEvent]
    ) -> frozenset[EventID]:
        """Return those events of a room that a server may see that is not in it any more."""
        placed = [stored for stored in events if stored.snapshot_id is not None]
        visible = {stored.event_id for stored in placed if _is_of(server, stored.event)}
        unsure = [stored for stored in placed if stored.event_id not in visible]
        if unsure:
            joined = {stored.snapshot_id or 0: HistoryVisibility.JOINED for stored in unsure}
            visible |= await self._seen_by_members(server, room_id, unsure, joined)
            visible |= await self._in_state_left(
                server, room_id, [stored for stored in unsure if stored.event_id not in visible]
            )
        return frozenset(visible)

    async def _in_state_left(
        self, server: ServerName, room_id: RoomID, events: Iterable[StoredEvent]
    ) -> set[EventID]:
        """Return those events that are in the state of a room when a server left it."""
        keys = {
            stored.event_id: (stored.event.type, stored.event.state_key)
            for stored in events
            if stored.event.state_key is not None
        }
        if not keys:
            return set()
        snapshot_ids = await self._database.read(room_servers.states_left, room_id, server)
        if not snapshot_ids:
            return set()
        entries = await self._database.read(
            timelines.entries_at, snapshot_ids, list(set(keys.values()))
        )
        left = {EventID(each) for state in entries.values() for each in state.values()}
        return left & keys.keys()

    async def pdus_for_departed(
        self, server: ServerName, room_id: RoomID, events: Sequence[StoredEvent]
    ) -> list[bytes]:
        """Return those events that a server may see that is not in the room any more."""
        visible = await self.visible_to_departed(server, room_id, events)
        return [stored.effective_event.canonical for stored in events if stored.event_id in visible]

    async def pdus_for(
        self, server: ServerName, room_id: RoomID, events: Sequence[StoredEvent]
    ) -> list[bytes]:
        """Return events as a server in the room may see them, as canonical JSON."""
        visible = await self.visible_ids(server, room_id, events)
        return [
            stored.effective_event.canonical
            if stored.event_id in visible
            else redact(stored.event).canonical
            for stored in events
        ]

    async def _visibilities(self, events: Iterable[StoredEvent]) -> dict[int, HistoryVisibility]:
        snapshot_ids = {stored.snapshot_id or 0 for stored in events}
        if not snapshot_ids:
            return {}
        entries = await self._database.read(timelines.entries_at, snapshot_ids, [_VISIBILITY_KEY])
        event_ids = {EventID(each) for state in entries.values() for each in state.values()}
        settings = await self._events.get(event_ids)
        visibilities = {}
        for snapshot_id in snapshot_ids:
            event_id = entries.get(snapshot_id, {}).get(_VISIBILITY_KEY)
            setting = None if event_id is None else settings.get(EventID(event_id))
            content = None if setting is None else content_of(setting)
            visibilities[snapshot_id] = visibility_in(content)
        return visibilities

    async def _seen_by_members(
        self,
        server: ServerName,
        room_id: RoomID,
        events: Sequence[StoredEvent],
        visibilities: Mapping[int, HistoryVisibility],
    ) -> set[EventID]:
        """Return those events that the server's members at the time allow it to see."""
        users = await self._database.read(
            memberships.list_of_server, room_id, f":{server}", MAX_USERS
        )
        seen: set[EventID] = set()
        unsure = list(events)
        for start in range(0, len(users), USERS_AT_ONCE):
            if not unsure:
                break
            keys: list[StateKey] = [
                (event_types.MEMBER, user_id) for user_id in users[start : start + USERS_AT_ONCE]
            ]
            present = await self._memberships_at({each.snapshot_id or 0 for each in unsure}, keys)
            for stored in unsure:
                at_event = present[stored.snapshot_id or 0]
                visibility = visibilities[stored.snapshot_id or 0]
                # An erased user's messages remain visible to the servers that were in the room.
                restriction = HistoryVisibility.JOINED if visibility in _OPEN else visibility
                if server_may_see(stored.event, restriction, at_event):
                    seen.add(stored.event_id)
            unsure = [stored for stored in unsure if stored.event_id not in seen]
        return seen

    async def _memberships_at(
        self, snapshot_ids: Collection[int], keys: Sequence[StateKey]
    ) -> dict[int, set[str]]:
        entries = await self._database.read(timelines.entries_at, snapshot_ids, keys)
        event_ids = {EventID(each) for state in entries.values() for each in state.values()}
        members = await self._events.get(event_ids)
        return {
            snapshot_id: {
                membership_in(members.get(EventID(each)))
                for each in entries.get(snapshot_id, {}).values()
            }
            for snapshot_id in snapshot_ids
        }


def _is_of(server: ServerName, event: Event) -> bool:
    """Return whether an event is of a server's user, or about one."""
    if server_of(event.sender) == server:
        return True
    return event.type == event_types.MEMBER and (event.state_key or "").endswith(f":{server}")
