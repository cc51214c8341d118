"""Rooms the user is invited to or knocked on: the little of their state that is shown then.

Spec: client-server API, Stripped state.
"""

from typing import Final

import attrs
import orjson

from hs.core.canonical_json import JsonObject
from hs.core.events import event_types
from hs.core.events.event_types import StateKey
from hs.core.ids import UserID
from hs.services.rooms.event_store import EventStore
from hs.services.rooms.memberships import Memberships
from hs.services.rooms.rendering import stripped_event
from hs.services.rooms.state_store import StateStore
from hs.services.sync.turn import RoomTurn, Section

_SHOWN: Final[tuple[StateKey, ...]] = tuple(
    (event_type, "")
    for event_type in (
        event_types.CREATE,
        event_types.JOIN_RULES,
        event_types.NAME,
        event_types.TOPIC,
        event_types.AVATAR,
        event_types.CANONICAL_ALIAS,
        event_types.ENCRYPTION,
        event_types.HISTORY_VISIBILITY,
    )
)

_FIELDS: Final = ("type", "state_key", "sender", "content")


@attrs.frozen(eq=False)
class Invites:
    """Renders invites and knocks."""

    _events: EventStore
    _states: StateStore
    _memberships: Memberships

    async def render(self, user_id: UserID, one: RoomTurn) -> bytes:
        """Give the room's entry in the section for invites or for knocks."""
        name = b"invite_state" if one.section is Section.INVITE else b"knock_state"
        return b'{"%b":{"events":[%b]}}' % (name, b",".join(await self._stripped(user_id, one)))

    async def _stripped(self, user_id: UserID, one: RoomTurn) -> list[bytes]:
        own = await self._events.get_one(one.own.event_id)
        received = await self._memberships.stripped_state(one.room_id, user_id)
        member = [] if own is None else [orjson.dumps(stripped_event(own))]
        if received is not None:
            return [_stripped_again(event) for event in orjson.loads(received)] + member
        if own is None or own.snapshot_id is None:
            return member
        keys = (*_SHOWN, (event_types.MEMBER, own.event.sender))
        held = await self._states.of_snapshot(own.snapshot_id, keys)
        events = await self._events.get(held[key] for key in keys if key in held)
        return [orjson.dumps(stripped_event(event)) for event in events.values()] + member


def _stripped_again(event: JsonObject) -> bytes:
    # Other servers may send whole events.
    return orjson.dumps({name: event[name] for name in _FIELDS if name in event})
