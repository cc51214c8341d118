"""Notifications to push gateways over HTTP.

Spec: push gateway API, POST notify.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import orjson

from hs.core.canonical_json import JsonObject
from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID, UserID
from hs.core.push.evaluate import tweaks_in
from hs.lib.http_client import HttpClient, HttpFault
from hs.services.push.pushers.delivery import DeliveryResult, Push, Pusher
from hs.services.push.pushers.notified_rooms import NotifiedRooms
from hs.services.push.pushers.pushers import EVENT_ID_ONLY, NO_BADGE
from hs.services.push.unread.unread_counts import UnreadCounts
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.stored_event import StoredEvent
from hs.settings.sections.push import PushSettings

RESPONSE_TIMEOUT_S: Final = 30.0
MAX_RESPONSE_BYTES: Final = 64 * 1024
# Statuses of requests that would be refused the next time as well.
REFUSED_STATUSES: Final = frozenset((400, 413, 414, 422))
_HEADERS: Final = {"content-type": "application/json"}
_IMPORTANT: Final = frozenset((event_types.ENCRYPTED,))

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class PushGateway:
    """Delivers notifications to push gateways."""

    _http: HttpClient
    _settings: PushSettings
    _events: EventStore
    _rooms: NotifiedRooms
    _members: Memberships
    _counts: UnreadCounts

    async def deliver(self, pusher: Pusher, push: Push) -> DeliveryResult:
        """Attempt once to deliver a notification."""
        stored = await self._unread_event(pusher, push)
        if stored is None:
            return DeliveryResult.DELIVERED
        notification = await self._notification(pusher, push, stored)
        return await self._send(pusher, notification)

    async def deliver_badge(self, pusher: Pusher, shown: int | None) -> int | None:
        """Deliver the unread count if it differs from `shown`; return the count shown now."""
        if pusher.options.get(NO_BADGE):
            return shown
        badge = await self.badge(pusher.user_id)
        if badge == shown:
            return shown
        # Zero is sent as well: it removes the number from the icon.
        notification = {"counts": {"unread": badge}, "devices": [_device(pusher)]}
        result = await self._send(pusher, notification)
        return badge if result is DeliveryResult.DELIVERED else shown

    async def badge(self, user_id: UserID) -> int:
        """Return the number for the icons of a user's clients: unread counts and invites."""
        rooms = await self._members.rooms_of(user_id)
        memberships = [(room_id, room.membership) for room_id, room in rooms.items()]
        joined = [room_id for room_id, membership in memberships if membership == event_types.JOIN]
        invites = sum(membership == event_types.INVITE for _, membership in memberships)
        by_room = self._settings.group_unread_count_by_room
        return invites + await self._counts.badge(user_id, joined, by_room)

    async def _unread_event(self, pusher: Pusher, push: Push) -> StoredEvent | None:
        """Return the event, None if the user has read it or if it was redacted or purged."""
        room_id = RoomID(push.room_id)
        if await self._counts.has_read(pusher.user_id, room_id, push.thread_id, push.stream_id):
            return None
        stored = await self._events.get_one(EventID(push.event_id))
        return None if stored is None or stored.redacted_by is not None else stored

    async def _notification(
        self, pusher: Pusher, push: Push, stored: StoredEvent
    ) -> dict[str, Any]:
        tweaks = tweaks_in(orjson.loads(push.actions))
        event = stored.event
        notification: dict[str, Any] = {
            "event_id": event.event_id,
            "room_id": event.room_id,
            "prio": _priority(event.type, tweaks),
        }
        if not pusher.options.get(NO_BADGE):
            notification["counts"] = {"unread": await self.badge(pusher.user_id)}
        if pusher.options.get("format") == EVENT_ID_ONLY:
            notification["devices"] = [_device(pusher)]
            return notification
        # Gateways older than the specification read `id`.
        notification |= {"id": event.event_id, "type": event.type, "sender": event.sender}
        notification |= await self._names(event, pusher.user_id)
        if event.type == event_types.MEMBER:
            notification["user_is_target"] = event.state_key == pusher.user_id
            notification["membership"] = event.content.get("membership")
        if self._settings.include_content:
            notification["content"] = event.content
        notification["devices"] = [{**_device(pusher), "tweaks": tweaks}]
        return notification

    async def _names(self, event: Event, user_id: UserID) -> dict[str, str]:
        keys = {
            "room_name": (event_types.NAME, "", "name"),
            "room_alias": (event_types.CANONICAL_ALIAS, "", "alias"),
            "sender_display_name": (event_types.MEMBER, event.sender, "displayname"),
        }
        contents = await self._rooms.contents(
            event.room_id, user_id, [(type_, state_key) for type_, state_key, _ in keys.values()]
        )
        names = {}
        for name, (type_, state_key, field) in keys.items():
            value = contents.get((type_, state_key), {}).get(field)
            if isinstance(value, str) and value:
                names[name] = value
        if "room_alias" in names:
            names.setdefault("room_name", names["room_alias"])
        return names

    async def _send(self, pusher: Pusher, notification: JsonObject) -> DeliveryResult:
        try:
            response = await self._http.send(
                "POST",
                pusher.options["url"],
                headers=_HEADERS,
                body=orjson.dumps({"notification": notification}),
                timeout_s=RESPONSE_TIMEOUT_S,
                max_bytes=MAX_RESPONSE_BYTES,
            )
        except HttpFault as fault:
            log.info("push gateway of %s could not be reached: %s", pusher.user_id, fault.message)
            return DeliveryResult.FAILED
        if response.status in REFUSED_STATUSES:
            return DeliveryResult.REFUSED
        if not 200 <= response.status < 300:
            log.info("push gateway of %s answered %d", pusher.user_id, response.status)
            return DeliveryResult.FAILED
        if pusher.key.pushkey in _rejected(response.body):
            return DeliveryResult.GONE
        return DeliveryResult.DELIVERED


def _priority(event_type: str, tweaks: Mapping[str, Any]) -> str:
    # The user is to notice mentions and sounds at once; encrypted events may be either.
    is_urgent = tweaks.get("highlight") or tweaks.get("sound") or event_type in _IMPORTANT
    return "high" if is_urgent else "low"


def _device(pusher: Pusher) -> dict[str, Any]:
    return {
        "app_id": pusher.key.app_id,
        "pushkey": pusher.key.pushkey,
        "pushkey_ts": pusher.set_ms // 1000,
        "data": {name: value for name, value in pusher.options.items() if name != "url"},
    }


def _rejected(body: bytes) -> Sequence[Any]:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ()
    rejected = content.get("rejected") if isinstance(content, dict) else None
    return rejected if isinstance(rejected, list) else ()
