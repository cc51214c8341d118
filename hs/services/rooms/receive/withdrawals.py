"""The end of invites and knocks by the room: leaves and bans of local users who are not in it.

They arrive like all events of rooms, but this server has no state to check them with. Such an event
must be signed, and cite the user's invite or knock, whose ID only servers in the room know.
"""

from collections.abc import Sequence
from typing import Final

import attrs
import orjson

from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID, UserID
from hs.services.rooms.receive.outside_memberships import OutsideMembership, OutsideMemberships
from hs.services.rooms.receive.pdu_checks import PduChecker
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import LocalMembership, Memberships

MAX_PDUS: Final = 50

_WAITING: Final = (event_types.INVITE, event_types.KNOCK)
_ENDS: Final = (event_types.LEAVE, event_types.BAN)


@attrs.frozen(eq=False)
class InviteWithdrawals:
    """Receives the ends of invites and knocks in rooms that this server is not in."""

    _checker: PduChecker
    _events: EventStore
    _memberships: Memberships
    _outside: OutsideMemberships

    async def receive(self, room_id: RoomID, pdus: Sequence[bytes]) -> set[EventID]:
        """Store those PDUs that end an invite or knock, and return their IDs.

        Raises: MatrixError 503, may be retried.
        """
        stored = set()
        for pdu in pdus[:MAX_PDUS]:
            own = await self._waiting_membership(room_id, pdu)
            event = None if own is None else await self._checked(room_id, own, pdu)
            if own is not None and event is not None:
                version = event.rules.identifier
                end = OutsideMembership(version, event.canonical, replaces=own.event_id)
                await self._outside.store(room_id, end)
                stored.add(event.event_id)
        return stored

    async def _waiting_membership(self, room_id: RoomID, pdu: bytes) -> LocalMembership | None:
        """Return the invite or knock that a PDU may end."""
        try:
            event = orjson.loads(pdu)
        except orjson.JSONDecodeError:
            return None
        user_id = event.get("state_key") if isinstance(event, dict) else None
        if not isinstance(user_id, str) or event.get("type") != event_types.MEMBER:
            return None
        if not self._memberships.is_local(user_id) or "\0" in user_id:
            return None
        own = await self._memberships.look_again(room_id, UserID(user_id))
        return own if own is not None and own.membership in _WAITING else None

    async def _checked(self, room_id: RoomID, own: LocalMembership, pdu: bytes) -> Event | None:
        stored = await self._events.get_one(own.event_id)
        if stored is None:
            return None
        (event,) = await self._checker.check(room_id, stored.event.rules, [pdu])
        if not isinstance(event, Event) or own.event_id not in event.auth_events:
            return None
        is_end = event.content.get("membership") in _ENDS and event.sender != event.state_key
        return event if is_end and event.type == event_types.MEMBER else None
