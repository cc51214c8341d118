"""Kicks and bans that take with them what the user has sent.

The proposal has each server and client redact on its own. Clients that do not know it would go on
showing what others do not see any more, so redactions are sent as well, as far as the moderator
may send them.

Spec: MSC4293.
"""

from itertools import islice
from typing import Any, Final

import attrs

from hs.core.errors import Forbidden
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.requester import Requester
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.membership.membership import RoomMembership
from hs.services.rooms.store.event_store import EventStore
from hs.storage.database import Database
from hs.storage.rooms import sent_events

REDACT_EVENTS: Final = ("redact_events", "org.matrix.msc4293.redact_events")
MAX_REDACTED: Final = 1000
AT_ONCE: Final = 50
_MAX_MEMBER_EVENTS: Final = 100


@attrs.frozen(eq=False)
class Removal:
    """Removes users and what they sent since they came."""

    _database: Database
    _events: EventStore
    _appender: RoomAppender
    _membership: RoomMembership

    async def kick(
        self, requester: Requester, room_id: RoomID, target: UserID, reason: str | None
    ) -> None:
        """Make a user leave. Raises: Forbidden."""
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
        after, before = await self._stay(room_id, target)
        found = await self._database.read(
            sent_events.sent, room_id, target, after, before, MAX_REDACTED
        )
        content: dict[str, Any] = {} if reason is None else {"reason": reason}
        rest = iter(found)
        while batch := list(islice(rest, AT_ONCE)):
            drafts = [
                Draft(event_types.REDACTION, requester.user_id, content, redacts=EventID(one))
                for one in batch
            ]
            try:
                await self._appender.append(room_id, drafts)
            except Forbidden:
                # Who may ban may not always redact: then the flag has no effect.
                return

    async def _stay(self, room_id: RoomID, target: UserID) -> tuple[int, int]:
        """Give the numbers of the events between which the user was last in the room."""
        found = await self._database.read(
            sent_events.member_events, room_id, target, 2**62, _MAX_MEMBER_EVENTS
        )
        if not found:
            return 0, 0
        (end, _), *earlier = found
        stored = await self._events.get(EventID(one) for _, one in earlier)
        began = end
        for number, event_id in earlier:
            began = number
            if not _is_join(stored[EventID(event_id)].event.content):
                break
        return began, end


def _is_join(content: Any) -> bool:
    return bool(content.get("membership") == event_types.JOIN)
