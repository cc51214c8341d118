"""The stripped state of rooms that a user is invited to or knocks on.

Of rooms that this server is in, it is taken from the state at the invite or knock, also after that
was declined; of other rooms it is what came with the invite.

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
_INVITED_OR_KNOCKING: Final = (event_types.INVITE, event_types.KNOCK)


@attrs.frozen
class IncludedState:
    """The entries of stripped state: those of `keys`, and all of `whole_types`."""

    keys: tuple[StateKey, ...] = tuple((event_type, "") for event_type in DEFAULT_TYPES)
    whole_types: frozenset[str] = frozenset()


DEFAULT_STATE: Final = IncludedState()


def included_state(settings: PrejoinSettings) -> IncludedState:
    """Return which entries are included, by the settings."""
    keys = () if settings.disable_default_event_types else DEFAULT_STATE.keys
    more = settings.additional_event_types
    return IncludedState(
        (*keys, *((name, key) for name, key in more if key is not None)),
        frozenset(name for name, key in more if key is None),
    )


@attrs.frozen(eq=False)
class StrippedState:
    """Builds stripped state."""

    _database: Database
    _events: EventStore
    _states: StateStore
    _included: IncludedState = DEFAULT_STATE

    async def of(
        self, user_id: UserID, rooms: Mapping[RoomID, LocalMembership]
    ) -> dict[RoomID, Sequence[JsonObject]]:
        """Return the stripped state of rooms, with the user's member event at the end."""
        if not rooms:
            return {}
        received = await self._database.read(sliding_sync.load_stripped_state, list(rooms), user_id)
        stripped: dict[RoomID, Sequence[JsonObject]] = {}
        for room_id, own in rooms.items():
            member = await self._render((own.event_id,))
            if room_id in received:
                stripped[room_id] = [
                    *_strip_received(orjson.loads(received[room_id]), user_id),
                    *member,
                ]
            else:
                stripped[room_id] = [*await self._of_room(own.event_id), *member]
        return stripped

    async def _of_room(self, event_id: EventID) -> list[JsonObject]:
        stored = await self._find_invite_or_knock(event_id)
        if stored is None or stored.snapshot_id is None:
            return []
        sender = (event_types.MEMBER, str(stored.event.sender))
        keys = dict.fromkeys((*self._included.keys, sender))
        if self._included.whole_types:
            state = await self._states.at_snapshot(stored.snapshot_id)
            keys.update(
                dict.fromkeys(sorted(key for key in state if key[0] in self._included.whole_types))
            )
        # The user's member event in that state is older than the one added at the end.
        keys.pop((event_types.MEMBER, stored.event.state_key or ""), None)
        entries = await self._states.snapshot_entries(stored.snapshot_id, tuple(keys))
        return await self._render(entries[key] for key in keys if key in entries)

    async def _find_invite_or_knock(self, event_id: EventID) -> StoredEvent | None:
        """Return the invite or knock that a member event is or that preceded it."""
        stored = await self._events.get_one(event_id)
        for _ in range(MAX_STEPS_BACK):
            if stored is None or membership_in(stored) in _INVITED_OR_KNOCKING:
                return stored
            stored = await self._states.replaced_event(stored)
        return None

    async def _render(self, event_ids: Iterable[EventID]) -> list[JsonObject]:
        return [stripped_event(each) for each in (await self._events.get(event_ids)).values()]


def _strip_received(received: list[JsonObject], user_id: UserID) -> Iterable[JsonObject]:
    # Other servers may send whole events, and include the invite itself.
    for event in received:
        if event.get("type") != event_types.MEMBER or event.get("state_key") != user_id:
            yield {name: event[name] for name in _FIELDS if name in event}
