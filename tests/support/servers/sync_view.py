"""What a client knows from its /sync responses, whichever server sends them."""

from typing import Any

import attrs

Json = dict[str, Any]


@attrs.define
class SyncView:
    """The contents of all sync responses of one device so far."""

    since: str = ""
    memberships: dict[str, str] = attrs.Factory(dict)  # the section that listed the room last
    timelines: dict[str, list[Json]] = attrs.Factory(dict)
    states: dict[str, dict[tuple[str, str], Json]] = attrs.Factory(dict)
    stripped: dict[str, list[Json]] = attrs.Factory(dict)
    ephemeral: dict[str, list[Json]] = attrs.Factory(dict)
    presence: dict[str, Json] = attrs.Factory(dict)
    to_device: list[Json] = attrs.Factory(list)
    changed: list[str] = attrs.Factory(list)
    device_left: list[str] = attrs.Factory(list)

    def add(self, response: Json) -> None:
        """Add a sync response."""
        self.since = response["next_batch"]
        for section, rooms in response.get("rooms", {}).items():
            for room_id, room in rooms.items():
                self.memberships[room_id] = section
                self._add_room(room_id, room)
        for event in response.get("presence", {}).get("events", ()):
            self.presence[event["sender"]] = event["content"]
        self.to_device += response.get("to_device", {}).get("events", ())
        self.changed += response.get("device_lists", {}).get("changed", ())
        self.device_left += response.get("device_lists", {}).get("left", ())

    def _add_room(self, room_id: str, room: Json) -> None:
        for key in ("invite_state", "knock_state"):
            if key in room:
                self.stripped[room_id] = room[key]["events"]
        timeline = room.get("timeline", {}).get("events", ())
        self.timelines.setdefault(room_id, []).extend(timeline)
        state = self.states.setdefault(room_id, {})
        for event in (*room.get("state", {}).get("events", ()), *timeline):
            if "state_key" in event:
                state[event["type"], event["state_key"]] = event
        self.ephemeral.setdefault(room_id, []).extend(room.get("ephemeral", {}).get("events", ()))

    def membership_is(self, room_id: str, section: str) -> bool:
        """Return whether a room was listed last in a section: join, invite, knock or leave."""
        return self.memberships.get(room_id) == section

    def event(self, room_id: str, event_id: str) -> Json | None:
        """Return an event of a timeline."""
        events = self.timelines.get(room_id, ())
        return next((event for event in events if event["event_id"] == event_id), None)

    def content(self, room_id: str, event_type: str, state_key: str = "") -> Json | None:
        """Return the content of a state event."""
        event = self.states.get(room_id, {}).get((event_type, state_key))
        return None if event is None else event["content"]

    def member(self, room_id: str, user_id: str) -> str | None:
        """Return the membership of a user in a room that this user is in."""
        content = self.content(room_id, "m.room.member", user_id)
        return None if content is None else content["membership"]

    def receipts(self, room_id: str, event_id: str) -> set[str]:
        """Return the users with a public read receipt for an event."""
        contents = [
            event["content"]
            for event in self.ephemeral.get(room_id, ())
            if event["type"] == "m.receipt"
        ]
        return {
            user_id
            for content in contents
            for user_id in content.get(event_id, {}).get("m.read", {})
        }

    def typing(self, room_id: str) -> list[str]:
        """Return the users who are typing."""
        typing: list[str] = []
        for event in self.ephemeral.get(room_id, ()):
            if event["type"] == "m.typing":
                typing = event["content"]["user_ids"]
        return typing
