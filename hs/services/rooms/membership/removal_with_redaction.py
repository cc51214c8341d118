"""Kicks and bans that redact the user's events.

With MSC4293, servers and clients that know the flag redact the events on their own. For all others,
redactions are sent as well, as far as the moderator may send them.

Spec: MSC4293.
"""

from typing import Any, Final

import attrs

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.requester import Requester
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.redaction_batches import MAX_REDACTED, append_redactions
from hs.services.rooms.membership.membership import RoomMembership
from hs.services.rooms.store.event_store import EventStore
from hs.storage.database import Database
from hs.storage.rooms import sent_events

REDACT_EVENTS: Final = ("redact_events", "org.matrix.msc4293.redact_events")
_MAX_MEMBER_EVENTS: Final = 100


@attrs.frozen(eq=False)
class RemovalWithRedaction:
    """Kicks and bans users, and redacts what they sent since they last joined."""

    _database: Database
    _events: EventStore
    _appender: RoomAppender
    _membership: RoomMembership

    async def kick(
        self, requester: Requester, room_id: RoomID, target: UserID, reason: str | None
    ) -> None:
        """Kick a user. Raises: Forbidden."""
        more = dict.fromkeys(REDACT_EVENTS, True)
        await self._membership.kick(requester, room_id, target, reason, more)
        await self._redact(requester, room_id, target, reason)

    async def ban(
        self, requester: Requester, room_id: RoomID, target: UserID, reason: str | None
    ) -> None:
        """Ban a user. Raises: Forbidden."""
        more = dict.fromkeys(REDACT_EVENTS, True)
        await self._membership.ban(requester, room_id, target, reason, more)
        await self._redact(requester, room_id, target, reason)

    async def _redact(
        self, requester: Requester, room_id: RoomID, target: UserID, reason: str | None
    ) -> None:
        after, before = await self._last_stay(room_id, target)
        event_ids = await self._database.read(
            sent_events.list_sent, room_id, target, after, before, MAX_REDACTED
        )
        await append_redactions(self._appender, room_id, requester.user_id, event_ids, reason)

    async def _last_stay(self, room_id: RoomID, target: UserID) -> tuple[int, int]:
        """Return the stream IDs of the member events that began and ended the user's last stay."""
        member_events = await self._database.read(
            sent_events.list_member_events, room_id, target, 2**62, _MAX_MEMBER_EVENTS
        )
        if not member_events:
            return 0, 0
        (end, _), *earlier = member_events
        stored = await self._events.get(EventID(event_id) for _, event_id in earlier)
        start = end
        for stream_id, event_id in earlier:
            start = stream_id
            if not _is_join(stored[EventID(event_id)].event.content):
                break
        return start, end


def _is_join(content: Any) -> bool:
    return bool(content.get("membership") == event_types.JOIN)
