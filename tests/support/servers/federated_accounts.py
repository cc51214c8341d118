"""Accounts on servers that federate: what users do in rooms, and what their clients have seen.

Clients fill the gaps of limited timelines with `/messages`, as people do who scroll up.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from typing import Any
from urllib.parse import quote

import attrs
import orjson
import trio

from tests.support.ledger import CLIENT, Person
from tests.support.servers.federated import forward_extremities
from tests.support.servers.processes import Cluster
from tests.support.web import WebResponse

WAIT_S = 60.0
POLL_MS = 2_000
PAGE = 500
LOOK_S = 0.1
StateKey = tuple[str, str]
_NUMBERS = count()


@attrs.define
class RoomView:
    """What a client has seen of a room."""

    membership: str = ""
    timeline: list[dict[str, Any]] = attrs.Factory(list)
    state: dict[StateKey, dict[str, Any]] = attrs.Factory(dict)
    stripped: dict[StateKey, dict[str, Any]] = attrs.Factory(dict)
    typing: list[str] = attrs.Factory(list)
    receipts: dict[str, str] = attrs.Factory(dict)  # event ID by user ID
    before: str = ""  # token of what came before the first timeline
    filled: set[str] = attrs.Factory(set)  # events of filled gaps

    @property
    def texts(self) -> list[str]:
        """The texts of the messages, in the order in which they were seen."""
        return [event["content"]["body"] for event in self.timeline if is_message(event)]

    def content(self, event_type: str, state_key: str = "") -> dict[str, Any]:
        """Return the content of a state event; empty if there is none."""
        return self.state.get((event_type, state_key), {})

    def add(self, membership: str, room: dict[str, Any]) -> None:
        """Add what a sync response has of the room."""
        self.membership = membership
        for event in room.get("invite_state", {}).get("events", []):
            self.stripped[event["type"], event["state_key"]] = event["content"]
        timeline = room.get("timeline", {})
        if not self.timeline:
            self.before = timeline.get("prev_batch", "")
        events = timeline.get("events", [])
        for event in [*room.get("state", {}).get("events", []), *events]:
            if "state_key" in event:
                self.state[event["type"], event["state_key"]] = event["content"]
        self.append(events)
        for event in room.get("ephemeral", {}).get("events", []):
            if event["type"] == "m.typing":
                self.typing = event["content"]["user_ids"]
            elif event["type"] == "m.receipt":
                for event_id, by_type in event["content"].items():
                    self.receipts.update(dict.fromkeys(by_type.get("m.read", {}), event_id))

    def append(self, events: Iterable[dict[str, Any]]) -> None:
        """Append events to the timeline; those of a filled gap may arrive once more."""
        self.timeline += [each for each in events if each["event_id"] not in self.filled]

    def fill(self, missed: Sequence[dict[str, Any]]) -> None:
        """Append the events of a gap, which a later sync may contain."""
        self.append(missed)
        self.filled.update(event["event_id"] for event in missed)


@attrs.define
class Account(Person):
    """An account and the client of it that syncs; `server` is the name of its server."""

    server: str = ""
    since: str = ""
    device_id: str = ""
    rooms: dict[str, RoomView] = attrs.Factory(dict)
    presence: dict[str, dict[str, Any]] = attrs.Factory(dict)
    device_messages: list[dict[str, Any]] = attrs.Factory(list)
    changed_devices: set[str] = attrs.Factory(set)
    left_devices: set[str] = attrs.Factory(set)

    # Requests

    async def get(self, path: str, *variables: str) -> Any:
        """Return the JSON of a successful GET request; `path` has a `{}` for each variable."""
        return (await self.request("GET", CLIENT + filled(path, variables))).json

    async def put(self, path: str, *variables: str, json: Any = None) -> Any:
        """Send a PUT request that succeeds; return its JSON."""
        return (await self.request("PUT", CLIENT + filled(path, variables), json)).json

    async def post(self, path: str, *variables: str, json: Any = None) -> Any:
        """Send a POST request that succeeds; return its JSON."""
        return (await self.request("POST", CLIENT + filled(path, variables), json or {})).json

    async def refused(self, path: str, *variables: str, json: Any = None) -> WebResponse:
        """Send a POST request and return its response, whatever its status."""
        return await self.answer("POST", CLIENT + filled(path, variables), json=json or {})

    async def register(self, name: str) -> None:
        """Register the account."""
        await Person.register(self, name)
        self.device_id = (await self.get("/account/whoami"))["device_id"]

    # Rooms

    async def create_room(self, **options: Any) -> str:
        """Create a room, public if nothing else is said; return its ID."""
        options = {"preset": "public_chat", **options}
        room_id: str = (await self.post("/createRoom", json=options))["room_id"]
        return room_id

    async def join(self, room: str, *via: str) -> str:
        """Join a room by its ID or alias; return its ID."""
        query = "&".join(f"via={quote(server)}" for server in via)
        joined: str = (await self.post("/join/{}" + (f"?{query}" if via else ""), room))["room_id"]
        return joined

    async def invite(self, room_id: str, *invited: "Account") -> None:
        """Invite users."""
        for account in invited:
            await self.post("/rooms/{}/invite", room_id, json={"user_id": account.user_id})

    async def act(self, action: str, room_id: str, target: "Account", reason: str = "") -> None:
        """Kick, ban or unban a user."""
        body = {"user_id": target.user_id, "reason": reason or action}
        await self.post("/rooms/{}/" + action, room_id, json=body)

    async def leave(self, room_id: str) -> None:
        """Leave a room, or reject its invite."""
        await self.post("/rooms/{}/leave", room_id)

    async def send(self, room_id: str, text: str) -> str:
        """Send a message with its text as transaction ID; return the event ID."""
        body = {"msgtype": "m.text", "body": text}
        path = "/rooms/{}/send/m.room.message/{}"
        return str((await self.put(path, room_id, text, json=body))["event_id"])

    async def set_state(self, room_id: str, event_type: str, content: Any, key: str = "") -> str:
        """Send a state event; return its ID."""
        path = "/rooms/{}/state/{}/{}"
        return str((await self.put(path, room_id, event_type, key, json=content))["event_id"])

    async def room_state(self, room_id: str) -> dict[StateKey, str]:
        """Return the event IDs of a room's current state."""
        events = await self.get("/rooms/{}/state", room_id)
        return {(event["type"], event["state_key"]): event["event_id"] for event in events}

    async def history(self, room_id: str, before: str = "") -> list[dict[str, Any]]:
        """Return the events of a room back to its beginning, oldest first."""
        events: list[dict[str, Any]] = []
        with trio.fail_after(WAIT_S):
            while True:
                start = f"&from={quote(before)}" if before else ""
                page = await self.get(f"/rooms/{{}}/messages?dir=b&limit={PAGE}{start}", room_id)
                events += page["chunk"]
                if "end" not in page:
                    return events[::-1]
                before = page["end"]

    # Sync

    def view(self, room_id: str) -> RoomView:
        """Return what has been seen of a room."""
        return self.rooms.setdefault(room_id, RoomView())

    async def sync(self, timeout_ms: int = POLL_MS) -> None:
        """Sync once."""
        filter_json = quote('{"room":{"timeline":{"limit":500}}}')
        target = f"/sync?timeout={timeout_ms}&filter={filter_json}"
        if self.since:
            target += f"&since={quote(self.since)}"
        answer = await self.get(target)
        for membership, rooms in answer.get("rooms", {}).items():
            for room_id, room in rooms.items():
                view = self.view(room_id)
                if view.timeline and room.get("timeline", {}).get("limited"):
                    await self._fill_gap(room_id, view, room["timeline"])
                view.add(membership, room)
        for event in answer.get("presence", {}).get("events", []):
            self.presence[event["sender"]] = event["content"]
        self.device_messages += answer.get("to_device", {}).get("events", [])
        self.changed_devices.update(answer.get("device_lists", {}).get("changed", []))
        self.left_devices.update(answer.get("device_lists", {}).get("left", []))
        self.since = answer["next_batch"]

    async def _fill_gap(self, room_id: str, view: RoomView, timeline: dict[str, Any]) -> None:
        """Add what was missed, of all the history: what is sent late is not always the latest."""
        known = {event["event_id"] for event in (*view.timeline, *timeline["events"])}
        earlier = await self.history(room_id, timeline["prev_batch"])
        view.fill([event for event in earlier if event["event_id"] not in known])

    async def until(
        self, condition: Callable[[], object], *, what: str, limit_s: float = WAIT_S
    ) -> None:
        """Sync until a condition holds; `what` describes it."""
        with trio.move_on_after(limit_s):
            while not condition():
                await self.sync()
            return
        rooms = {room_id: (room.membership, room.texts) for room_id, room in self.rooms.items()}
        raise AssertionError(f"{self.user_id} waits in vain: {what}; rooms: {rooms}")

    async def until_room(
        self, room_id: str, condition: Callable[[RoomView], object], *, what: str
    ) -> None:
        """Sync until a condition holds for what has been seen of a room."""
        view = self.view(room_id)
        await self.until(lambda: condition(view), what=f"{what} in {room_id}")

    async def until_state(
        self, room_id: str, event_type: str, content: dict[str, Any], state_key: str = ""
    ) -> None:
        """Sync until a state event has these fields, and maybe others."""

        def has_fields(view: RoomView) -> bool:
            found = view.content(event_type, state_key)
            return all(found.get(field) == value for field, value in content.items())

        await self.until_room(room_id, has_fields, what=f"{event_type} {state_key} {content}")

    async def until_member(self, room_id: str, user: "Account", membership: str) -> None:
        """Sync until the room shows a user with a membership."""
        content = {"membership": membership}
        await self.until_state(room_id, "m.room.member", content, user.user_id)

    async def until_texts(self, room_id: str, texts: Iterable[str]) -> None:
        """Sync until messages have been seen; none of them may be there twice."""
        expected = set(texts)
        await self.until_room(
            room_id, lambda view: expected <= set(view.texts), what=f"messages {expected}"
        )
        seen = self.view(room_id).texts
        assert len(seen) == len(set(seen)), seen

    async def until_in(self, room_id: str, membership: str) -> None:
        """Sync until the room is among those with a membership of this account."""
        await self.until_room(
            room_id, lambda view: view.membership == membership, what=f"{membership}"
        )


def is_message(event: dict[str, Any]) -> bool:
    """Return whether an event is a message that is not redacted."""
    return event["type"] == "m.room.message" and "body" in event["content"]


def filled(path: str, variables: Sequence[str]) -> str:
    """Return a path with its variables."""
    return path.format(*(quote(variable, safe="") for variable in variables))


def account_on(servers: dict[str, Cluster], name: str) -> Account:
    """Return an account that is still to be registered; it uses all processes of its server."""
    cluster = servers[name]
    ports = cluster.ports
    return Account(ports, cluster.rng, server=name)


async def register_everywhere(servers: dict[str, Cluster]) -> list[Account]:
    """Register a new account on each server."""
    accounts = [account_on(servers, name) for name in servers]
    number = next(_NUMBERS)
    for account in accounts:
        await account.register(f"person{number}")
    return accounts


def rotations(accounts: Sequence[Account]) -> Iterator[tuple[Account, ...]]:
    """Yield the accounts in orders in which each of them is the first once."""
    for number in range(len(accounts)):
        yield (*accounts[number:], *accounts[:number])


@attrs.frozen
class Agreement:
    """What servers must agree on: the state of a room, and its forward extremities."""

    state: dict[StateKey, str]
    extremities: set[str]


async def agreement_of(
    servers: dict[str, Cluster], room_id: str, member: Account, asking: Account
) -> Agreement:
    """Return what the server of a member says; `asking` is a member on another server."""
    extremities = await forward_extremities(servers, member.server, room_id, asking.user_id)
    return Agreement(await member.room_state(room_id), extremities)


async def until_agreed(
    servers: dict[str, Cluster], room_id: str, members: Sequence[Account]
) -> Agreement:
    """Wait until the servers of joined members agree on a room."""
    found: list[Agreement] = []
    with trio.move_on_after(WAIT_S):
        while True:
            found = [
                await agreement_of(servers, room_id, member, asking)
                for member, asking in zip(members, [*members[1:], members[0]], strict=True)
            ]
            if all(each == found[0] for each in found):
                return found[0]
            await trio.sleep(LOOK_S)
    lines = [f"servers do not agree on {room_id}:"]
    for member, each in zip(members, found, strict=True):
        more = dict(set(each.state.items()) - set(found[0].state.items()))
        extremities = orjson.dumps(sorted(each.extremities)).decode()
        lines.append(f"{member.server}: extremities {extremities}, differing state {more}")
    raise AssertionError("\n".join(lines))
