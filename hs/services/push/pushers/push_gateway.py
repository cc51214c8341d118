"""Notifications to push gateways over HTTP: what they hold, and what the answer means.

Spec: push gateway API, POST notify.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import orjson

from hs.core.canonical_json import JsonObject
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.lib.http_client import HttpClient, HttpFault
from hs.services.push.pushers.delivery import Push, Pusher, Verdict
from hs.services.push.pushers.pushers import EVENT_ID_ONLY, NO_BADGE
from hs.services.push.unread.unread_counts import UnreadCounts
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.state_store import StateStore
from hs.services.rooms.store.stored_event import StoredEvent
from hs.settings.sections.push import PushSettings

ANSWER_S: Final = 30.0
ANSWER_BYTES: Final = 64 * 1024
# Those of a request that would be refused the next time as well.
REFUSING: Final = frozenset((400, 413, 414, 422))
_HEADERS: Final = {"content-type": "application/json"}
_IMPORTANT: Final = frozenset((event_types.ENCRYPTED,))

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class GatewayPushes:
    """Delivers to push gateways."""

    _http: HttpClient
    _settings: PushSettings
    _events: EventStore
    _states: StateStore
    _members: Memberships
    _counts: UnreadCounts

    async def deliver(self, pusher: Pusher, push: Push) -> Verdict:
        """Make one attempt."""
        stored = await self._wanted(pusher, push)
        if stored is None:
            return Verdict.DONE
        notification = await self._notification(pusher, push, stored)
        return await self._send(pusher, notification)

    async def deliver_badge(self, pusher: Pusher, shown: int | None) -> int | None:
        """Tell the number of unread messages if it is not what is shown; give what is shown."""
        if pusher.options.get(NO_BADGE):
            return shown
        badge = await self.badge(pusher.user_id)
        if badge == shown:
            return shown
        # Zero is told as well: that is what takes the number off an icon.
        notification = {"counts": {"unread": badge}, "devices": [_device(pusher)]}
        verdict = await self._send(pusher, notification)
        return badge if verdict is Verdict.DONE else shown

    async def badge(self, user_id: UserID) -> int:
        """Give the number for a user's icons: what is unread, and invites."""
        rooms = await self._members.rooms_of(user_id)
        joined = [room_id for room_id, one in rooms.items() if one.membership == event_types.JOIN]
        invites = sum(1 for one in rooms.values() if one.membership == event_types.INVITE)
        by_room = self._settings.group_unread_count_by_room
        return invites + await self._counts.badge(user_id, joined, by_room)

    async def _wanted(self, pusher: Pusher, push: Push) -> StoredEvent | None:
        """Give the event, if it is there and the user has not seen it yet."""
        room_id = RoomID(push.room_id)
        if await self._counts.has_read(pusher.user_id, room_id, push.thread_id, push.stream_id):
            return None
        stored = await self._events.get_one(EventID(push.event_id))
        return None if stored is None or stored.redacted_by is not None else stored

    async def _notification(
        self, pusher: Pusher, push: Push, stored: StoredEvent
    ) -> dict[str, Any]:
        tweaks = tweaks_of(orjson.loads(push.actions))
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
        # Gateways of before the specification know an event by `id`.
        notification |= {"id": event.event_id, "type": event.type, "sender": event.sender}
        notification |= await self._names(event.room_id, event.sender)
        if event.type == event_types.MEMBER:
            notification["user_is_target"] = event.state_key == pusher.user_id
            notification["membership"] = event.content.get("membership")
        if self._settings.include_content:
            notification["content"] = event.content
        notification["devices"] = [{**_device(pusher), "tweaks": tweaks}]
        return notification

    async def _names(self, room_id: RoomID, sender: UserID) -> dict[str, str]:
        keys = {
            "room_name": (event_types.NAME, "", "name"),
            "room_alias": (event_types.CANONICAL_ALIAS, "", "alias"),
            "sender_display_name": (event_types.MEMBER, sender, "displayname"),
        }
        found = await self._states.current_of_keys(
            room_id, [(type_, state_key) for type_, state_key, _ in keys.values()]
        )
        events = await self._events.get(found.values())
        names = {}
        for name, (type_, state_key, field) in keys.items():
            stored = events.get(found.get((type_, state_key), EventID("")))
            value = None if stored is None else stored.event.content.get(field)
            if isinstance(value, str) and value:
                names[name] = value
        if "room_alias" in names:
            names.setdefault("room_name", names["room_alias"])
        return names

    async def _send(self, pusher: Pusher, notification: JsonObject) -> Verdict:
        try:
            answer = await self._http.send(
                "POST",
                pusher.options["url"],
                headers=_HEADERS,
                body=orjson.dumps({"notification": notification}),
                timeout_s=ANSWER_S,
                max_bytes=ANSWER_BYTES,
            )
        except HttpFault as fault:
            log.info("the push gateway of %s gives no answer: %s", pusher.user_id, fault.message)
            return Verdict.LATER
        if answer.status in REFUSING:
            return Verdict.REFUSED
        if not 200 <= answer.status < 300:
            log.info("the push gateway of %s answers %d", pusher.user_id, answer.status)
            return Verdict.LATER
        return Verdict.GONE if pusher.key.pushkey in _rejected(answer.body) else Verdict.DONE


def tweaks_of(actions: Sequence[Any]) -> dict[str, Any]:
    """Give the tweaks among the actions of a rule."""
    tweaks: dict[str, Any] = {}
    for action in actions:
        tweak = action.get("set_tweak") if isinstance(action, Mapping) else None
        if isinstance(tweak, str):
            tweaks[tweak] = action.get("value", True if tweak == "highlight" else None)
    return tweaks


def _priority(event_type: str, tweaks: Mapping[str, Any]) -> str:
    # What makes a sound, is about the user, or may be, as nobody here can tell.
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
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ()
    rejected = answer.get("rejected") if isinstance(answer, dict) else None
    return rejected if isinstance(rejected, list) else ()
