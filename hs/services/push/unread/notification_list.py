"""The list of a user's notifications.

Spec: client-server API, GET /notifications.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import orjson

from hs.core.errors import InvalidParam
from hs.core.ids import EventID, RoomID
from hs.core.requester import Requester
from hs.services.push.unread.read_positions import ReadPosition
from hs.services.push.unread.unread_counts import UnreadCounts
from hs.services.rooms.read.rendering import EventRenderer
from hs.services.rooms.read.visibility import Visibility, VisibleEvent
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import Memberships
from hs.storage.database import Database
from hs.storage.push import push_rules as storage
from hs.storage.push.push_rules import NotificationRecord

MAX_NOTIFICATIONS: Final = 500
DEFAULT_NOTIFICATIONS: Final = 50
_NEWEST: Final = 2**62


@attrs.frozen(eq=False)
class NotificationList:
    """Lists the notifications of users."""

    database: Database
    memberships: Memberships
    events: EventStore
    visibility: Visibility
    rendering: EventRenderer
    counts: UnreadCounts

    async def page(
        self, requester: Requester, start: str | None, limit: int, *, highlights: bool
    ) -> dict[str, Any]:
        """Return a page of the requester's notifications, the newest first.

        Raises: InvalidParam if `start` is not a token of this list.
        """
        await self.counts.catch_up()
        rooms = await self.memberships.joined_rooms(requester.user_id)
        positions = await self.counts.read_positions(requester.user_id, rooms)
        before = _parse(start)
        page_size = max(1, min(limit, MAX_NOTIFICATIONS))
        records = await self.database.read(
            storage.list_notifications, requester.user_id, rooms, before, highlights, page_size + 1
        )
        page = records[:page_size]
        rendered = await self._render(requester, page, positions)
        response: dict[str, Any] = {"notifications": rendered}
        if len(records) > page_size:
            response["next_token"] = str(page[-1].stream_id)
        return response

    async def _render(
        self,
        requester: Requester,
        page: Sequence[NotificationRecord],
        positions: Mapping[RoomID, tuple[ReadPosition, int]],
    ) -> list[dict[str, Any]]:
        # Events before the user joined notified others.
        records = {
            EventID(record.event_id): record
            for record in page
            if record.stream_id > positions[RoomID(record.room_id)][1]
        }
        stored = await self.events.get(records)
        seen = await self.visibility.filter_visible(requester.user_id, list(stored.values()))
        viewer = self.rendering.viewer(
            requester, await self.visibility.ignored_by(requester.user_id)
        )
        await self.rendering.prepare([visible.stored for visible in seen], viewer)
        by_id: dict[EventID, VisibleEvent] = {visible.stored.event_id: visible for visible in seen}
        rendered: list[dict[str, Any]] = []
        for event_id, record in records.items():
            if event_id not in by_id:
                continue
            visible = by_id[event_id]
            render = (
                self.rendering.pruned_event if visible.pruned else self.rendering.timeline_event
            )
            event = render(visible.stored, viewer, visible.membership, room_id=False)
            read_upto = positions[RoomID(record.room_id)][0].of_thread(record.thread_id)
            rendered.append(
                {
                    "actions": orjson.Fragment(record.actions),
                    "event": orjson.Fragment(event),
                    # Push rules no longer have tags, but clients still read the field.
                    "profile_tag": "",
                    "read": record.stream_id <= read_upto,
                    "room_id": record.room_id,
                    "ts": visible.stored.event.origin_server_ts,
                }
            )
        return rendered


def _parse(start: str | None) -> int:
    if start is None:
        return _NEWEST
    if not start.isascii() or not start.isdigit() or len(start) > 18:
        raise InvalidParam("from is not a token of the list of notifications")
    return int(start)
