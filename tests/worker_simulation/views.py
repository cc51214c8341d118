"""What a client knows: assembled from the responses of its syncs, as clients do it."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import attrs

Json = dict[str, Any]


@attrs.define(eq=False)
class RoomView:
    """A room; `timeline` are event IDs in the order in which the client has them."""

    timeline: list[str] = attrs.Factory(list)
    known: set[str] = attrs.Factory(set)
    state: dict[tuple[str, str], str] = attrs.Factory(dict)
    receipts: dict[str, str] = attrs.Factory(dict)
    account_data: dict[str, Json] = attrs.Factory(dict)
    unread: int = 0
    is_joined: bool = True

    def add(self, event_id: str) -> str | None:
        """Append an event; return a problem if it is there already."""
        self.timeline.append(event_id)
        if event_id in self.known:
            return f"saw {event_id} twice"
        self.known.add(event_id)
        return None


@attrs.define(eq=False)
class View:
    """What a device has assembled. `changed` has the time of the last change of device lists."""

    since: str = ""
    rooms: dict[str, RoomView] = attrs.Factory(dict)
    account_data: dict[str, Json] = attrs.Factory(dict)
    to_device: "Counter[int]" = attrs.Factory(Counter)
    numbers: list[tuple[str, int]] = attrs.Factory(list)
    changed: dict[str, float] = attrs.Factory(dict)

    def merge(self, answer: Json, now: float, gaps: dict[str, list[str]]) -> Iterator[str]:
        """Take over a response, and the events in gaps of timelines; yield what is wrong."""
        for section in ("join", "leave"):
            for room_id, response in answer.get("rooms", {}).get(section, {}).items():
                room = self.rooms.setdefault(room_id, RoomView())
                room.is_joined = section == "join"
                yield from _merge_room(room, response, gaps.get(room_id, []))
        for event in answer.get("account_data", {}).get("events", []):
            self.account_data[event["type"]] = event["content"]
        for event in answer.get("to_device", {}).get("events", []):
            number = event["content"]["number"]
            self.to_device[number] += 1
            self.numbers.append((event["sender"], number))
            if self.to_device[number] > 1:
                yield f"got to-device message {number} twice"
        for user_id in answer.get("device_lists", {}).get("changed", []):
            self.changed[user_id] = now
        self.since = answer["next_batch"]


def _merge_room(room: RoomView, response: Json, missed: list[str]) -> Iterator[str]:
    events = response.get("timeline", {}).get("events", [])
    for event_id in (*missed, *(event["event_id"] for event in events)):
        if problem := room.add(event_id):
            yield problem
    for event in (*response.get("state", {}).get("events", []), *events):
        if "state_key" in event:
            room.state[event["type"], event["state_key"]] = event["event_id"]
    for event in response.get("account_data", {}).get("events", []):
        room.account_data[event["type"]] = event["content"]
    for event in response.get("ephemeral", {}).get("events", []):
        if event["type"] == "m.receipt":
            room.receipts.update(_receipts(event["content"]))
    if "unread_notifications" in response:
        room.unread = response["unread_notifications"]["notification_count"]


def _receipts(content: Json) -> dict[str, str]:
    return {
        user_id: event_id
        for event_id, kinds in content.items()
        for users in kinds.values()
        for user_id in users
    }
