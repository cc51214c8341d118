"""The list of what a user was notified about.

Spec: client-server API, GET /notifications.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import orjson

from hs.core.errors import InvalidParam
from hs.core.ids import EventID, RoomID
from hs.core.requester import Requester
from hs.services.push.unread.unread_counts import ReadUpTo, UnreadCounts
from hs.services.rooms.read.rendering import Rendering
from hs.services.rooms.read.visibility import Seen, Visibility
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import Memberships
from hs.storage.database import Database
from hs.storage.push import push_rules as storage
from hs.storage.push.push_rules import Notified

MAX_NOTIFICATIONS: Final = 500
DEFAULT_NOTIFICATIONS: Final = 50
_NEWEST: Final = 2**62


@attrs.frozen(eq=False)
class Notifications:
    """Lists notifications."""

    database: Database
    memberships: Memberships
    events: EventStore
    visibility: Visibility
    rendering: Rendering
    counts: UnreadCounts

    async def of_user(
        self, requester: Requester, start: str | None, limit: int, *, highlights: bool
    ) -> dict[str, Any]:
        """List the requester's notifications, the newest first.

        Raises: InvalidParam.
        """
        rooms = await self.memberships.joined_rooms(requester.user_id)
        marks = await self.counts.marks(requester.user_id, rooms)
        before = _parse(start)
        wanted = max(1, min(limit, MAX_NOTIFICATIONS))
        found = await self.database.read(
            storage.notified, requester.user_id, rooms, before, highlights, wanted + 1
        )
        page = found[:wanted]
        answer: dict[str, Any] = {"notifications": await self._shown(requester, page, marks)}
        if len(found) > wanted:
            answer["next_token"] = str(page[-1].stream_id)
        return answer

    async def _shown(
        self,
        requester: Requester,
        page: Sequence[Notified],
        marks: Mapping[RoomID, tuple[ReadUpTo, int]],
    ) -> list[dict[str, Any]]:
        # What came before the user did was for others.
        mine = {
            EventID(one.event_id): one
            for one in page
            if one.stream_id > marks[RoomID(one.room_id)][1]
        }
        stored = await self.events.get(mine)
        seen = await self.visibility.filter_visible(requester.user_id, list(stored.values()))
        viewer = self.rendering.viewer(
            requester, await self.visibility.ignored_by(requester.user_id)
        )
        await self.rendering.prepare([one.stored for one in seen], viewer)
        by_id: dict[EventID, Seen] = {one.stored.event_id: one for one in seen}
        shown: list[dict[str, Any]] = []
        for event_id, one in mine.items():
            if event_id not in by_id:
                continue
            visible = by_id[event_id]
            render = (
                self.rendering.pruned_event if visible.pruned else self.rendering.timeline_event
            )
            event = render(visible.stored, viewer, visible.membership, room_id=False)
            read = marks[RoomID(one.room_id)][0].of_thread(one.thread_id)
            shown.append(
                {
                    "actions": orjson.Fragment(one.actions),
                    "event": orjson.Fragment(event),
                    # Rules have had no tags for long; clients still look.
                    "profile_tag": "",
                    "read": one.stream_id <= read,
                    "room_id": one.room_id,
                    "ts": visible.stored.event.origin_server_ts,
                }
            )
        return shown


def _parse(start: str | None) -> int:
    if start is None:
        return _NEWEST
    if not start.isascii() or not start.isdigit() or len(start) > 18:
        raise InvalidParam("Not a token of this list")
    return int(start)
