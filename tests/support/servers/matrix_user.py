"""A user of any homeserver, through the client-server API only.

What other users do is awaited by syncing until it is seen, within a limit.
"""

import random
from collections.abc import Callable, Sequence
from itertools import count
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlencode

import attrs
import trio

from tests.support.servers.http_client import ConnectionLost, HttpClient
from tests.support.servers.sync_view import Json, SyncView
from tests.support.web import WebResponse

T = TypeVar("T")
V3 = "/_matrix/client/v3"
PASSWORD = "correct horse battery staple"
WAIT_S = 60.0
LONG_POLL_MS = 4000
PAGE = 100
MAX_PAGES = 100
_NAMES = count(1)


def path_of(*segments: str, base: str = V3) -> str:
    """Return a path with quoted segments."""
    return "/".join([base, *(quote(segment, safe="") for segment in segments)])


@attrs.define
class MatrixUser:
    """A device of a user; each request goes to a random port of its server.

    Without `keeps_connections` each has a connection of its own, and none may fail.
    """

    ports: Sequence[int]
    user_id: str = ""
    device_id: str = ""
    token: str | None = None
    view: SyncView = attrs.Factory(SyncView)
    keeps_connections: bool = True
    requests: int = 0
    _clients: dict[int, HttpClient] = attrs.Factory(dict)
    _rng: random.Random = attrs.Factory(lambda: random.Random(1))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.aclose()

    @property
    def server(self) -> str:
        """The name of the user's server."""
        return self.user_id.partition(":")[2]

    async def request(self, method: str, target: str, json: Any = None, **more: Any) -> WebResponse:
        """Send a request to one of the ports; on a new connection, if an idle one was closed."""
        port = self._rng.choice(self.ports)
        self.requests += 1
        if not self.keeps_connections:
            async with HttpClient(port, self.token) as client:
                return await client.request(method, target, json=json, **more)
        client = self._clients.setdefault(port, HttpClient(port))
        client.token = self.token
        try:
            return await client.request(method, target, json=json, **more)
        except ConnectionLost:
            return await client.request(method, target, json=json, **more)

    async def call(self, method: str, target: str, json: Any = None, **more: Any) -> Json:
        """Return the body of a response, which must be a success."""
        response = await self.request(method, target, json, **more)
        assert response.status == 200, f"{method} {target}: {response.status} {response.body!r}"
        body: Json = response.json
        return body

    async def sync(self, timeout_ms: int = LONG_POLL_MS) -> None:
        """Add what is new to the view."""
        query = {"timeout": timeout_ms, **({"since": self.view.since} if self.view.since else {})}
        self.view.add(await self.call("GET", f"{V3}/sync?{urlencode(query)}"))

    async def wait_until(self, condition: Callable[[SyncView], T]) -> T:
        """Sync until the condition returns something true; return that."""
        with trio.fail_after(WAIT_S):
            while not (result := condition(self.view)):
                await self.sync()
        return result

    async def wait_for_event(self, room_id: str, event_id: str) -> Json:
        """Wait for an event in the timeline of a room."""
        return await self.wait_until(lambda view: view.event(room_id, event_id)) or {}

    async def wait_for_member(self, room_id: str, user_id: str, membership: str) -> None:
        """Wait until a user has a membership in a room that this user is in."""
        await self.wait_until(lambda view: view.member(room_id, user_id) == membership)

    async def wait_for_section(self, room_id: str, section: str) -> None:
        """Wait until sync lists a room as joined, invited, knocked on or left."""
        await self.wait_until(lambda view: view.membership_is(room_id, section))

    async def wait_for_state(self, room_id: str, event_type: str) -> Json:
        """Wait for a state event with an empty state key; return its content."""
        return await self.wait_until(lambda view: view.content(room_id, event_type)) or {}

    async def wait_for_profile(self, room_id: str, user_id: str, **fields: str) -> None:
        """Wait until the membership of a user in a room has some fields of the profile."""

        def has_fields(view: SyncView) -> bool:
            content = view.content(room_id, "m.room.member", user_id) or {}
            return fields.items() <= content.items()

        await self.wait_until(has_fields)

    async def wait_for_typing(self, room_id: str, *user_ids: str) -> None:
        """Wait until just these users are typing."""
        await self.wait_until(lambda view: view.typing(room_id) == list(user_ids))

    async def wait_for_receipt(self, room_id: str, event_id: str, user_id: str) -> None:
        """Wait for a public receipt of a user."""
        await self.wait_until(lambda view: user_id in view.receipts(room_id, event_id))

    async def wait_for_status(self, user_id: str, status: str) -> None:
        """Wait for a status message in the presence of a user."""
        await self.wait_until(
            lambda view: view.presence.get(user_id, {}).get("status_msg") == status
        )

    async def wait_for_changed_devices(self, user_id: str) -> None:
        """Wait until sync says that the devices of a user have changed."""
        await self.wait_until(lambda view: user_id in view.changed)

    async def create_room(self, **options: Any) -> str:
        """Create a room."""
        room_id: str = (await self.call("POST", f"{V3}/createRoom", options))["room_id"]
        return room_id

    async def join(self, room: str, *via: str) -> str:
        """Join a room, by its ID or an alias."""
        query = urlencode([("via", name) for name in via] + [("server_name", name) for name in via])
        target = f"{path_of('join', room)}?{query}"
        room_id: str = (await self.call("POST", target, {}))["room_id"]
        return room_id

    async def knock(self, room_id: str, via: str) -> None:
        """Knock on a room."""
        query = urlencode({"via": via, "server_name": via})
        await self.call("POST", f"{path_of('knock', room_id)}?{query}", {"reason": "let me in"})

    async def act_on(self, room_id: str, action: str, user_id: str) -> None:
        """Invite, kick, ban or unban a user."""
        body = {"user_id": user_id}
        await self.call("POST", path_of("rooms", room_id, action), body)

    async def leave(self, room_id: str) -> None:
        """Leave a room, or reject an invite to it."""
        await self.call("POST", path_of("rooms", room_id, "leave"), {})

    async def send(self, room_id: str, content: Json, event_type: str = "m.room.message") -> str:
        """Send an event; return its ID."""
        target = path_of("rooms", room_id, "send", event_type, f"t{next(_NAMES)}")
        event_id: str = (await self.call("PUT", target, content))["event_id"]
        return event_id

    async def say(self, room_id: str, body: str) -> str:
        """Send a text message; return its event ID."""
        return await self.send(room_id, {"msgtype": "m.text", "body": body})

    async def set_state(
        self, room_id: str, event_type: str, content: Json, state_key: str = ""
    ) -> str:
        """Send a state event; return its ID."""
        target = path_of("rooms", room_id, "state", event_type, state_key)
        event_id: str = (await self.call("PUT", target, content))["event_id"]
        return event_id

    async def state(self, room_id: str) -> dict[tuple[str, str], str]:
        """Return the event IDs of the current state."""
        response = await self.request("GET", path_of("rooms", room_id, "state"))
        assert response.status == 200, response.body
        return {(event["type"], event["state_key"]): event["event_id"] for event in response.json}

    async def history(self, room_id: str) -> list[Json]:
        """Return all events of a room that are visible to the user, latest first."""
        events: list[Json] = []
        start = ""
        for _ in range(MAX_PAGES):
            target = path_of("rooms", room_id, "messages")
            page = await self.call("GET", f"{target}?dir=b&limit={PAGE}{start}")
            events += page["chunk"]
            if "end" not in page:
                return events
            start = f"&from={quote(page['end'])}"
        raise AssertionError(f"the history of {room_id} does not end: {len(events)} events")


async def sign_up(ports: Sequence[int], name: str) -> MatrixUser:
    """Register a user with a name that was not used before."""
    user = MatrixUser(ports)
    body: Json = {"username": f"{name}{next(_NAMES)}", "password": PASSWORD}
    body["auth"] = {"type": "m.login.dummy"}
    registered = await user.call("POST", f"{V3}/register", body)
    user.user_id, user.device_id = registered["user_id"], registered["device_id"]
    user.token = registered["access_token"]
    return user


async def log_in(user: MatrixUser) -> MatrixUser:
    """Log in another device of a user."""
    device = MatrixUser(user.ports)
    identifier = {"type": "m.id.user", "user": user.user_id}
    body = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}
    logged_in = await device.call("POST", f"{V3}/login", body)
    device.user_id, device.device_id = logged_in["user_id"], logged_in["device_id"]
    device.token = logged_in["access_token"]
    return device
