"""What users see of rooms that they are invited to or knock at: the little state that is told.

Rooms we are in are shown as they were at the invite, also when it has been declined; of others we
have what came with it.

Spec: client-server API, Stripped state.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs
import orjson

from hs.core.canonical_json import JsonObject
from hs.core.events import event_types
from hs.core.events.event_types import StateKey
from hs.core.ids import EventID, RoomID, UserID
from hs.services.rooms.read.rendering import stripped_event
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import LocalMembership
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import StoredEvent, membership_in
from hs.settings.sections.retention import PrejoinSettings
from hs.storage.database import Database
from hs.storage.sync import sliding_sync

DEFAULT_TYPES: Final = (
    event_types.CREATE,
    event_types.JOIN_RULES,
    event_types.NAME,
    event_types.TOPIC,
    event_types.AVATAR,
    event_types.CANONICAL_ALIAS,
    event_types.ENCRYPTION,
    event_types.HISTORY_VISIBILITY,
)
MAX_STEPS_BACK: Final = 50

_FIELDS: Final = ("type", "state_key", "sender", "content")
_OUTSIDE: Final = (event_types.INVITE, event_types.KNOCK)


@attrs.frozen
class ShownState:
    """Which entries are told: `keys`, and of the types in `whole` all."""

    keys: tuple[StateKey, ...] = tuple((event_type, "") for event_type in DEFAULT_TYPES)
    whole: frozenset[str] = frozenset()


DEFAULT_STATE: Final = ShownState()


def shown_state(settings: PrejoinSettings) -> ShownState:
    """Say by the settings which entries are told."""
    keys = () if settings.disable_default_event_types else DEFAULT_STATE.keys
    more = settings.additional_event_types
    return ShownState(
        (*keys, *((name, key) for name, key in more if key is not None)),
        frozenset(name for name, key in more if key is None),
    )


@attrs.frozen(eq=False)
class StrippedState:
    """Collects stripped state."""

    _database: Database
    _events: EventStore
    _states: StateStore
    _shown: ShownState = DEFAULT_STATE

    async def of(
        self, user_id: UserID, rooms: Mapping[RoomID, LocalMembership]
    ) -> dict[RoomID, Sequence[JsonObject]]:
        """Give the stripped state of rooms, the user's own member event at its end."""
        if not rooms:
            return {}
        came = await self._database.read(sliding_sync.stripped, list(rooms), user_id)
        found: dict[RoomID, Sequence[JsonObject]] = {}
        for room_id, own in rooms.items():
            member = await self._render((own.event_id,))
            if room_id in came:
                found[room_id] = [*_again(orjson.loads(came[room_id]), user_id), *member]
            else:
                found[room_id] = [*await self._of_room(own.event_id), *member]
        return found

    async def _of_room(self, event_id: EventID) -> list[JsonObject]:
        stored = await self._visit(event_id)
        if stored is None or stored.snapshot_id is None:
            return []
        sender = (event_types.MEMBER, str(stored.event.sender))
        wanted = dict.fromkeys((*self._shown.keys, sender))
        if self._shown.whole:
            everything = await self._states.at_snapshot(stored.snapshot_id)
            wanted.update(
                dict.fromkeys(sorted(key for key in everything if key[0] in self._shown.whole))
            )
        # What the user was before is not what they are now.
        wanted.pop((event_types.MEMBER, stored.event.state_key or ""), None)
        held = await self._states.of_snapshot(stored.snapshot_id, tuple(wanted))
        return await self._render(held[key] for key in wanted if key in held)

    async def _visit(self, event_id: EventID) -> StoredEvent | None:
        """Give the invite or knock that a member event is, or that came before it."""
        stored = await self._events.get_one(event_id)
        for _ in range(MAX_STEPS_BACK):
            if stored is None or membership_in(stored) in _OUTSIDE:
                return stored
            if stored.snapshot_id is None:
                return None
            key = (event_types.MEMBER, stored.event.state_key or "")
            before = await self._states.of_snapshot(stored.snapshot_id, (key,))
            stored = await self._events.get_one(before[key]) if key in before else None
        return None

    async def _render(self, event_ids: Iterable[EventID]) -> list[JsonObject]:
        return [stripped_event(one) for one in (await self._events.get(event_ids)).values()]


def _again(received: list[JsonObject], user_id: UserID) -> Iterable[JsonObject]:
    # Other servers may send whole events, and the invite among them.
    for event in received:
        if event.get("type") != event_types.MEMBER or event.get("state_key") != user_id:
            yield {name: event[name] for name in _FIELDS if name in event}
