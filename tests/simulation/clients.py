"""What users do in a simulation, and what they were told.

A request that got no answer is repeated with the same transaction ID, as clients do, until it is
answered or the user gives up.
"""

import random
from collections import Counter
from typing import Any, Final

import attrs
import trio

from hs.core.ids import EventID, RoomID, ServerName, UserID, server_of
from tests.simulation.determinism import Trace
from tests.simulation.evil_room import NAME
from tests.simulation.network import NoAnswer
from tests.simulation.servers import DEVICE, SimulatedServer
from tests.support.web import WebResponse

ATTEMPTS: Final = 6
PAUSE_S: Final = 4.0


@attrs.frozen
class SharedRoom:
    """A room, whose founder never leaves it."""

    room_id: RoomID
    version: str
    founder: UserID


@attrs.frozen
class Acknowledged:
    """An event that a server has acknowledged to a client."""

    event_id: EventID
    room_id: RoomID
    server: ServerName
    kind: str


@attrs.define(eq=False)
class Reader:
    """A user who syncs, and has been shown these events since the last join, in this order."""

    user_id: UserID
    since: str | None = None
    read: Counter[str] = attrs.Factory(Counter)  # texts of the messages in a room
    shown: dict[RoomID, list[EventID]] = attrs.Factory(dict)
    timeline: set[EventID] = attrs.Factory(set)
    state: set[EventID] = attrs.Factory(set)
    bodies: set[str] = attrs.Factory(set)
    messages: Counter[int] = attrs.Factory(Counter)  # numbers of to-device messages


@attrs.define(eq=False)
class Clients:
    """The users of all servers."""

    chance: random.Random
    trace: Trace
    servers: dict[ServerName, SimulatedServer]
    outsiders: list[UserID] = attrs.Factory(list)  # users of servers that are not honest
    rooms: list[SharedRoom] = attrs.Factory(list)
    acknowledged: list[Acknowledged] = attrs.Factory(list)
    to_device: dict[int, tuple[UserID, bool]] = attrs.Factory(dict)  # recipient, acknowledged
    readers: dict[UserID, Reader] = attrs.Factory(dict)
    counts: Counter[str] = attrs.Factory(Counter)
    problems: list[str] = attrs.Factory(list)
    _number: int = 0

    @property
    def users(self) -> list[UserID]:
        """All users."""
        return [user_id for server in self.servers.values() for user_id in server.users]

    def number(self) -> int:
        """Return a number that was not used before."""
        self._number += 1
        return self._number

    async def call(
        self, user_id: UserID, method: str, *path: str, json: Any = None, **query: Any
    ) -> WebResponse | None:
        """Return the response to a request, which is repeated; None if there is none."""
        server = self.servers[server_of(user_id)]
        for _ in range(ATTEMPTS):
            try:
                response = await server.call(user_id, method, *path, json=json, **query)
            except NoAnswer:
                await trio.sleep(PAUSE_S)
                continue
            if response.status not in (429, 503):
                self.trace.note(user_id, method, *path, response.status)
                return response
            await trio.sleep(PAUSE_S)
        self.trace.note(user_id, method, *path, "no answer")
        return None

    async def create_room(self, founder: UserID, version: str) -> SharedRoom | None:
        """Create a room in which everybody may change the topic and the name."""
        events = {"m.room.topic": 0, "m.room.name": 0, "m.room.power_levels": 50}
        content = {
            "preset": "public_chat",
            "room_version": version,
            "power_level_content_override": {"events": events},
        }
        response = await self.call(founder, "POST", "createRoom", json=content)
        if response is None or response.status != 200:
            return None
        room = SharedRoom(RoomID(response.json["room_id"]), version, founder)
        self.rooms.append(room)
        return room

    # Events

    async def send(self, user_id: UserID, room: SharedRoom, body: str | None = None) -> None:
        """Send a message."""
        number = self.number()
        content = {"msgtype": "m.text", "body": body or f"message {number}"}
        path = ("rooms", room.room_id, "send", "m.room.message", f"txn{number}")
        self._acknowledge(await self.call(user_id, "PUT", *path, json=content), user_id, room)

    async def redact(self, user_id: UserID, room: SharedRoom) -> None:
        """Redact an event that was acknowledged before."""
        events = [each for each in self.acknowledged if each.room_id == room.room_id]
        if events:
            target = self.chance.choice(events)
            path = ("rooms", room.room_id, "redact", target.event_id, f"txn{self.number()}")
            response = await self.call(user_id, "PUT", *path, json={})
            self._acknowledge(response, user_id, room, "redaction")

    async def set_state(
        self, user_id: UserID, room: SharedRoom, event_type: str, content: Any
    ) -> None:
        """Set a state event."""
        path = ("rooms", room.room_id, "state", event_type, "")
        response = await self.call(user_id, "PUT", *path, json=content)
        self._acknowledge(response, user_id, room, "state")

    async def change_levels(self, user_id: UserID, room: SharedRoom) -> None:
        """Change the power of a user, or what sending a message needs."""
        path = ("rooms", room.room_id, "state", "m.room.power_levels", "")
        response = await self.call(user_id, "GET", *path)
        if response is None or response.status != 200:
            return
        content = response.json
        target = self._target()
        if self.chance.random() < 0.15:
            content["events_default"] = self.chance.choice((0, 0, 10))
        elif target != room.founder:
            content.setdefault("users", {})[target] = self.chance.choice((0, 10, 50, 50, 100))
        await self.set_state(user_id, room, "m.room.power_levels", content)

    async def rename(self, user_id: UserID, room: SharedRoom) -> None:
        """Change a user's display name in a room."""
        content = {"membership": "join", "displayname": f"name {self.number()}"}
        path = ("rooms", room.room_id, "state", "m.room.member", user_id)
        self._acknowledge(
            await self.call(user_id, "PUT", *path, json=content), user_id, room, "state"
        )

    def _acknowledge(
        self, response: WebResponse | None, user_id: UserID, room: SharedRoom, kind: str = "message"
    ) -> None:
        if response is not None and response.status == 200:
            event_id = EventID(response.json["event_id"])
            entry = Acknowledged(event_id, room.room_id, server_of(user_id), kind)
            self.acknowledged.append(entry)

    # To-device messages

    async def message_device(self, user_id: UserID, recipient: UserID) -> None:
        """Send a to-device message."""
        number = self.number()
        self.to_device[number] = (recipient, False)
        path = ("sendToDevice", "m.simulation", f"txn{number}")
        content = {"messages": {recipient: {DEVICE: {"number": number}}}}
        response = await self.call(user_id, "PUT", *path, json=content)
        if response is not None and response.status == 200:
            self.to_device[number] = (recipient, True)

    # Devices

    async def upload_keys(self, user_id: UserID) -> None:
        """Upload the keys of a user's device."""
        keys = {
            "user_id": user_id,
            "device_id": DEVICE,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
            "keys": {f"ed25519:{DEVICE}": "A" * 43},
            "signatures": {user_id: {f"ed25519:{DEVICE}": "A" * 86}},
        }
        await self.call(user_id, "POST", "keys", "upload", json={"device_keys": keys})

    async def rename_device(self, user_id: UserID) -> None:
        """Rename a user's device, which users of other servers see."""
        content = {"display_name": f"device {self.number()}"}
        await self.call(user_id, "PUT", "devices", DEVICE, json=content)

    async def query_device(self, user_id: UserID, owner: UserID) -> str | None:
        """Return the name of another user's device as a user sees it."""
        content: Any = {"device_keys": {owner: []}}
        response = await self.call(user_id, "POST", "keys", "query", json=content)
        if response is None or response.status != 200:
            return None
        device = response.json["device_keys"].get(owner, {}).get(DEVICE, {})
        name = device.get("unsigned", {}).get("device_display_name")
        return None if name is None else str(name)

    # Memberships

    async def join(self, user_id: UserID, room: SharedRoom) -> bool:
        """Join a room through several servers; return whether that succeeded."""
        names = list(self.servers)
        via = self.chance.sample(names, min(2, len(names)))
        via.append(server_of(room.founder))
        response = await self.call(user_id, "POST", "join", room.room_id, json={}, via=via)
        return response is not None and response.status == 200

    async def set_membership(
        self, user_id: UserID, room: SharedRoom, action: str, target: UserID
    ) -> None:
        """Invite, kick, ban or unban a user."""
        path = ("rooms", room.room_id, action)
        await self.call(user_id, "POST", *path, json={"user_id": target})

    async def knock(self, user_id: UserID, room: SharedRoom) -> None:
        """Knock on a room."""
        via = [server_of(room.founder)]
        await self.call(user_id, "POST", "knock", room.room_id, json={}, via=via)

    async def leave(self, user_id: UserID, room: SharedRoom) -> None:
        """Leave a room, or reject an invite."""
        if user_id != room.founder:
            await self.call(user_id, "POST", "rooms", room.room_id, "leave", json={})

    # Reading

    async def sync(self, user_id: UserID) -> None:
        """Sync once, without waiting."""
        reader = self.readers.setdefault(user_id, Reader(user_id))
        query = {} if reader.since is None else {"since": reader.since}
        response = await self.call(user_id, "GET", "sync", **query)
        if response is None or response.status != 200:
            return
        if reader.since is not None and query.get("since") != reader.since:
            return  # two requests of one user overlapped
        reader.since = response.json["next_batch"]
        for event in response.json.get("to_device", {}).get("events", []):
            reader.messages[event["content"]["number"]] += 1
        rooms = response.json.get("rooms", {})
        for kind in ("join", "leave"):
            for room_id, room in rooms.get(kind, {}).items():
                events = room.get("timeline", {}).get("events", [])
                self._show(reader, RoomID(room_id), events)
                self._note(reader, room.get("state", {}).get("events", []), reader.state)
                if kind == "leave":
                    reader.shown.pop(RoomID(room_id), None)

    def _show(self, reader: Reader, room_id: RoomID, events: list[dict[str, Any]]) -> None:
        shown = reader.shown.setdefault(room_id, [])
        for event in events:
            if event["event_id"] in shown:
                self.problems.append(f"sync showed {event['event_id']} twice to {reader.user_id}")
            shown.append(EventID(event["event_id"]))
        self._note(reader, events, reader.timeline)

    def _note(self, reader: Reader, events: list[dict[str, Any]], shown: set[EventID]) -> None:
        for event in events:
            shown.add(EventID(event["event_id"]))
            reader.bodies.update(_texts_of(event))

    async def scroll(self, user_id: UserID, room: SharedRoom, most: int = 400) -> list[EventID]:
        """Read a room's history from its end; return the IDs of the events."""
        reader = self.readers.setdefault(user_id, Reader(user_id))
        found: list[EventID] = []
        reader.read.clear()
        query: dict[str, Any] = {"dir": "b", "limit": 50}
        for _ in range(most):
            path = ("rooms", room.room_id, "messages")
            response = await self.call(user_id, "GET", *path, **query)
            if response is None or response.status != 200:
                break
            chunk = response.json["chunk"]
            found += [EventID(event["event_id"]) for event in chunk]
            self._note(reader, chunk, reader.timeline)
            reader.read.update(text for event in chunk for text in _texts_of(event))
            if "end" not in response.json:
                break
            query["from"] = response.json["end"]
        return found

    async def state(self, user_id: UserID, room: SharedRoom) -> dict[tuple[str, str], EventID]:
        """Return the state of a room as a client sees it."""
        response = await self.call(user_id, "GET", "rooms", room.room_id, "state")
        if response is None or response.status != 200:
            return {}
        reader = self.readers.setdefault(user_id, Reader(user_id))
        self._note(reader, response.json, reader.state)
        return {
            (event["type"], event["state_key"]): EventID(event["event_id"])
            for event in response.json
        }

    # Chance

    def _target(self) -> UserID:
        """Return a user for others to invite, kick, promote; a malicious one often."""
        is_outsider = self.outsiders and self.chance.random() < 0.3
        return self.chance.choice(self.outsiders if is_outsider else self.users)

    async def act(self) -> None:
        """Have a user do something."""
        chance = self.chance
        user_id, room = chance.choice(self.users), chance.choice(self.rooms)
        action = chance.choice(_ACTIONS)
        self.counts[action] += 1
        if action in _DEVICE_ACTIONS:
            await self._act_on_devices(user_id, action)
        elif action in _MEMBERSHIP_ACTIONS:
            await self._change_membership(user_id, room, action)
        else:
            await self._act_in_room(user_id, room, action)

    async def _act_in_room(self, user_id: UserID, room: SharedRoom, action: str) -> None:
        chance = self.chance
        match action:
            case "send":
                await self.send(user_id, room)
            case "topic" | "name":
                content = {action: f"{action} {self.number()}"}
                await self.set_state(user_id, room, f"m.room.{action}", content)
            case "rules":
                knock = "knock" if int(room.version) >= 7 else "invite"
                rule = {"join_rule": chance.choice(("public", "public", "invite", knock))}
                await self.set_state(room.founder, room, "m.room.join_rules", rule)
            case "acl":
                acl = {"allow": ["*"], "deny": chance.choice(([], [NAME]))}
                await self.set_state(room.founder, room, "m.room.server_acl", acl)
            case "levels":
                await self.change_levels(chance.choice((user_id, room.founder)), room)
            case "redact":
                await self.redact(user_id, room)
            case "sync":
                await self.sync(user_id)
            case "scroll":
                await self.scroll(user_id, room, most=2)

    async def _change_membership(self, user_id: UserID, room: SharedRoom, action: str) -> None:
        target = self._target()
        match action:
            case "rename":
                await self.rename(user_id, room)
            case "knock":
                await self.knock(user_id, room)
            case "join":
                await self.join(user_id, room)
            case "leave":
                await self.leave(user_id, room)
            case "expel":
                for outsider in self.outsiders:
                    await self.set_membership(room.founder, room, "kick", outsider)
            case _ if target != room.founder:
                actor = self.chance.choice((user_id, room.founder))
                await self.set_membership(actor, room, action, target)

    async def _act_on_devices(self, user_id: UserID, action: str) -> None:
        owner = self.chance.choice(self.users)
        match action:
            case "message device":
                await self.message_device(user_id, owner)
            case "rename device":
                await self.rename_device(user_id)
            case "query device":
                await self.query_device(user_id, owner)


_DEVICE_ACTIONS: Final = ("message device", "rename device", "query device")
_MEMBERSHIP_ACTIONS: Final = (
    *("join",) * 6,
    *("leave", "invite", "expel") * 2,
    *("kick", "ban", "unban", "rename", "knock"),
)
_ACTIONS: Final = (
    *("send",) * 12,
    *("topic", "name") * 2,
    *("levels",) * 3,
    *("redact", "rules", "acl"),
    *_MEMBERSHIP_ACTIONS,
    *_DEVICE_ACTIONS * 3,
    *("sync",) * 4,
    "scroll",
)


def _texts_of(event: dict[str, Any]) -> list[str]:
    """Return the texts of a client event that a malicious server could have written."""
    content = event.get("content", {})
    return [text for key in ("body", "name") if isinstance(text := content.get(key), str)]
