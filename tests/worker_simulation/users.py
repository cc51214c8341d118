"""The users of a simulated server: what they do, and what they check on the way."""

from collections.abc import Callable
from typing import Any, Final

import attrs
import orjson
import trio

from tests.support.web import WebResponse
from tests.worker_simulation.ledger import Ledger, SentEvent, StateRead
from tests.worker_simulation.requests import RETRY_S, Requests
from tests.worker_simulation.views import View

FRESH_S: Final = 1.0  # a process that takes longer may answer without the latest changes
PAGE: Final = 50
COUNTER: Final = "org.example.counter"


@attrs.frozen
class Room:
    """A room; nobody but the founder and those who may `roam` leaves, or is banned."""

    room_id: str
    founder: str
    roams: bool


@attrs.define(eq=False)
class User:
    """A user with one device, which syncs all the time.

    A user who is `silent` only reads. `limit` is that of timelines. `is_strict` says that a process
    must know what any other one has acknowledged.
    """

    requests: Requests
    ledger: Ledger
    name: str
    limit: int = 200
    is_silent: bool = False
    is_strict: bool = True
    user_id: str = ""
    device_id: str = ""
    token: str = ""
    view: View = attrs.Factory(View)
    syncs: int = 0
    _counter: int = 0

    async def register(self) -> None:
        """Register an account."""
        account = {"username": self.name, "password": "p", "auth": {"type": "m.login.dummy"}}
        response = await self.requests.ask(None, "POST", "register", json=account)
        assert response.status == 200, response.body
        self.user_id, self.token = response.json["user_id"], response.json["access_token"]
        self.device_id = response.json["device_id"]

    async def ask(
        self, method: str, *path: str, at: str | None = None, json: Any = None, **query: Any
    ) -> WebResponse:
        """Send a request until there is an answer."""
        return await self.requests.ask(self.token, method, *path, at=at, json=json, **query)

    # Reading

    async def sync_until(self, stop: Callable[[], bool]) -> None:
        """Sync, on a random process each time, until stopped."""
        chance = self.requests.chance
        while not stop():
            await self.sync(chance.choice((0, 1_000, 5_000)))
            if chance.random() < 0.3:
                await trio.sleep(round(chance.random() * 3, 3))

    async def sync(self, timeout_ms: int = 0, at: str | None = None) -> bool:
        """Sync once, and fill the gaps of timelines; return whether there was an answer."""
        answer = await self.ask_sync(self.view.since, timeout_ms, at)
        if answer is None:
            return False
        gaps: dict[str, list[str]] = {}
        for room_id, room in answer.get("rooms", {}).get("join", {}).items():
            view = self.view.rooms.get(room_id)
            if room.get("timeline", {}).get("limited") and view is not None:
                events = room["timeline"]["events"]
                gaps[room_id] = await self._gap(room_id, room["timeline"]["prev_batch"], events)
        self.syncs += 1
        for problem in self.view.merge(answer, trio.current_time(), gaps):
            self.requests.problem(f"{self.user_id}: {problem}")
        return True

    async def ask_sync(
        self, since: str, timeout_ms: int = 0, at: str | None = None
    ) -> dict[str, Any] | None:
        """Return the response to a sync; None if there is none."""
        query: dict[str, Any] = {"timeout": timeout_ms, "filter": _filter(self.limit)}
        if since:
            query["since"] = since
        response = await self.requests.try_once(self.token, "GET", "sync", at=at, **query)
        if response is None:
            await trio.sleep(RETRY_S)
            return None
        assert response.status == 200, response.body
        answer: dict[str, Any] = response.json
        return answer

    async def _gap(self, room_id: str, before: str, events: list[dict[str, Any]]) -> list[str]:
        """Return the events of a gap, oldest first."""
        known = {event["event_id"] for event in events} | self.view.rooms[room_id].known
        missed: list[str] = []
        while True:
            query: dict[str, Any] = {"dir": "b", "limit": PAGE, "from": before}
            page = (await self.ask("GET", "rooms", room_id, "messages", **query)).json
            for event in page["chunk"]:
                if event["event_id"] in known:
                    return missed[::-1]
                missed.append(event["event_id"])
            if "end" not in page:
                return missed[::-1]
            before = page["end"]

    # Events

    async def send(self, room: Room) -> None:
        """Send a message, and read it at another process."""
        began = trio.current_time()
        number = self.requests.number()
        text = f"{self.name}|{number}"
        path = ("rooms", room.room_id, "send", "m.room.message", text)
        content = {"msgtype": "m.text", "body": text}
        response = await self.ask("PUT", *path, json=content)
        if response.status != 200:
            self._check_refusal(response, room)
            return
        event_id = response.json["event_id"]
        banned_at = self.ledger.bans.get((room.room_id, self.user_id))
        if banned_at is not None and banned_at <= began:
            self.requests.problem(f"{self.user_id} sent {event_id} after the ban was acknowledged")
        self.ledger.events.append(SentEvent(event_id, room.room_id, self.user_id, text))
        if self.requests.chance.random() < 0.15:
            again = await self.ask("PUT", *path, json=content)
            if again.status == 200 and again.json["event_id"] != event_id:
                self.requests.problem(f"{text} became {event_id} and {again.json['event_id']}")
        elif self.requests.chance.random() < 0.5:
            await self._read_own(room, event_id)

    async def _read_own(self, room: Room, event_id: str) -> None:
        began = trio.current_time()
        if self.requests.chance.random() < 0.5:
            path = ("rooms", room.room_id, "event", event_id)
            response = await self.requests.try_once(self.token, "GET", *path)
            found = response is None or response.status == 200
        else:
            history = ("rooms", room.room_id, "messages")
            query: dict[str, Any] = {"dir": "b", "limit": PAGE}
            response = await self.requests.try_once(self.token, "GET", *history, **query)
            found = response is None or response.status != 200 or event_id in response.body.decode()
        if not found and self._must_be_fresh(began, room):
            self.requests.problem(f"{self.user_id} cannot read {event_id}, just acknowledged")

    def _must_be_fresh(self, began: float, room: Room | None = None) -> bool:
        is_quick = trio.current_time() - began < FRESH_S
        return is_quick and self.is_strict and not (room and room.roams)

    def _check_refusal(self, response: WebResponse, room: Room) -> None:
        if response.status != 403 or not room.roams:
            self.requests.problem(
                f"{self.user_id} in {room.room_id}: {response.status} {response.body!r}"
            )

    async def set_topic(self, room: Room) -> None:
        """Set the topic, and read it at another process."""
        topic = f"topic {self.requests.number()}"
        path = ("rooms", room.room_id, "state", "m.room.topic")
        response = await self.ask("PUT", *path, json={"topic": topic})
        if response.status != 200:
            self._check_refusal(response, room)
            return
        event_id = response.json["event_id"]
        self.ledger.topics[topic] = event_id
        self.ledger.events.append(SentEvent(event_id, room.room_id, self.user_id, topic))
        began = trio.current_time()
        read = await self.requests.try_once(self.token, "GET", *path)
        if read is not None and self._must_be_fresh(began, room):
            seen = read.json.get("topic") if read.status == 200 else None
            place = f"{self.user_id} at {began:.3f}"
            self.ledger.reads.append(StateRead(room.room_id, event_id, seen, place))

    # Memberships

    async def set_membership(self, room: Room, action: str, target: "User") -> None:
        """Ban, unban, kick or invite a user."""
        key = (room.room_id, target.user_id)
        if action != "ban":
            self.ledger.bans.pop(key, None)
        path = ("rooms", room.room_id, action)
        response = await self.ask("POST", *path, json={"user_id": target.user_id})
        if action == "ban" and response.status == 200:
            self.ledger.bans[key] = trio.current_time()

    async def join(self, room: Room) -> bool:
        """Join a room; return whether that succeeded."""
        began = trio.current_time()
        response = await self.ask("POST", "join", room.room_id, json={})
        banned_at = self.ledger.bans.get((room.room_id, self.user_id))
        if response.status == 200 and banned_at is not None and banned_at <= began:
            self.requests.problem(f"{self.user_id} joined after the ban was acknowledged")
        return response.status == 200

    async def leave(self, room: Room) -> None:
        """Leave a room."""
        await self.ask("POST", "rooms", room.room_id, "leave", json={})

    # Receipts, account data, rules, names, devices

    async def read_room(self, room: Room) -> None:
        """Send a receipt for the latest event that the client knows."""
        view = self.view.rooms.get(room.room_id)
        if view is None or not view.timeline or not view.is_joined:
            return
        event_id = view.timeline[-1]
        path = ("rooms", room.room_id, "receipt", "m.read", event_id)
        response = await self.ask("POST", *path, json={})
        if response.status == 200:
            self.ledger.receipts[room.room_id, self.user_id] = event_id

    async def count(self, room: Room | None) -> None:
        """Change account data, global or of a room, and read it at another process."""
        self._counter = count = self._counter + 1
        scope = () if room is None else ("rooms", room.room_id)
        path = ("user", self.user_id, *scope, "account_data", COUNTER)
        response = await self.ask("PUT", *path, json={"count": count})
        assert response.status == 200, response.body
        self.ledger.account_data[self.user_id, room.room_id if room else ""] = count
        began = trio.current_time()
        read = await self.requests.try_once(self.token, "GET", *path)
        if read is None or not self._must_be_fresh(began):
            return
        if read.status != 200 or read.json["count"] != count:
            self.requests.problem(
                f"{self.user_id} reads {read.body!r}, not {count}, as account data"
            )

    async def add_rule(self) -> None:
        """Add a push rule without effect, and read it at another process."""
        rule_id = f"@nobody{self.requests.number()}:elsewhere.example"
        path = ("pushrules", "global", "sender", rule_id)
        response = await self.ask("PUT", *path, json={"actions": ["notify"]})
        assert response.status == 200, response.body
        self.ledger.rules.setdefault(self.user_id, set()).add(rule_id)
        began = trio.current_time()
        read = await self.requests.try_once(self.token, "GET", *path)
        if read is not None and read.status != 200 and self._must_be_fresh(began):
            self.requests.problem(f"{self.user_id} cannot read the rule {rule_id}")

    async def rename(self) -> None:
        """Change the display name."""
        name = f"name {self.requests.number()}"
        path = ("profile", self.user_id, "displayname")
        response = await self.ask("PUT", *path, json={"displayname": name})
        assert response.status == 200, response.body
        self.ledger.names[self.user_id] = name

    async def message_device(self, recipient: "User") -> None:
        """Send a to-device message."""
        number = self.requests.number()
        content = {"messages": {recipient.user_id: {recipient.device_id: {"number": number}}}}
        path = ("sendToDevice", "m.simulation", f"txn{number}")
        response = await self.ask("PUT", *path, json=content)
        assert response.status == 200, response.body
        self.ledger.to_device[number] = (self.user_id, recipient.user_id)

    async def upload_keys(self) -> None:
        """Upload the keys of the device, which changes the device list."""
        began = trio.current_time()
        path = ("devices", self.device_id)
        name = {"display_name": f"device {self.requests.number()}"}
        keys = {
            "user_id": self.user_id,
            "device_id": self.device_id,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
            "keys": {f"ed25519:{self.device_id}": f"{self.requests.number():A>43}"},
            "signatures": {self.user_id: {f"ed25519:{self.device_id}": "A" * 86}},
        }
        await self.ask("PUT", *path, json=name)
        response = await self.ask("POST", "keys", "upload", json={"device_keys": keys})
        assert response.status == 200, response.body
        self.ledger.changes[self.user_id] = began


def _filter(limit: int) -> str:
    return orjson.dumps({"room": {"timeline": {"limit": limit}}}).decode()
