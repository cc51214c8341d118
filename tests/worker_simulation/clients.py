"""The users of a simulated server: each sends and syncs through any process, and tries again."""

import random
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

import attrs
import trio

from tests.simulation.determinism import Trace
from tests.support.web import WebResponse
from tests.worker_simulation.processes import NoAnswer, SimulatedCluster

CLIENT: Final = "/_matrix/client/v3/"
ANSWER_S: Final = 90.0
RETRY_S: Final = 0.2
AGAIN: Final = (502, 503, 504)


@attrs.define(eq=False)
class Clients:
    """Sends requests for users, and checks all responses for signs of bugs."""

    cluster: SimulatedCluster
    chance: random.Random
    trace: Trace
    requests: int = 0
    refused: int = 0
    _number: int = 0

    def number(self) -> int:
        """Return the next number, for texts and transaction IDs."""
        self._number += 1
        return self._number

    async def try_once(
        self,
        token: str | None,
        method: str,
        *path: str,
        at: str | None = None,
        json: Any = None,
        **query: Any,
    ) -> WebResponse | None:
        """Send a request to a process, or any; return None if it is to be sent again."""
        name = at or self.chance.choice(list(self.cluster.processes))
        process = self.cluster.processes[name]
        uri = CLIENT + "/".join(quote(segment, safe="") for segment in path)
        self.requests += 1
        response: WebResponse | None = None
        with trio.move_on_after(ANSWER_S):
            try:
                response = await process.ask(
                    lambda web: web.request(
                        method, uri, json=json, token=token, query=query or None
                    )
                )
            except NoAnswer as error:
                self.trace.note(name, method, "/".join(path), error)
                return None
        if response is None:
            self.trace.note(name, method, "/".join(path), "no answer in time")
            return None
        self.trace.note(name, method, "/".join(path), response.status)
        if response.status in AGAIN:
            self.refused += 1
            return None
        if response.status >= 500:
            self.problem(f"{name} answered {method} {uri}: {response.status} {response.body!r}")
        return response

    async def ask(
        self, token: str | None, method: str, *path: str, json: Any = None, **query: Any
    ) -> WebResponse:
        """Send a request to random processes until there is an answer."""
        while True:
            response = await self.try_once(token, method, *path, json=json, **query)
            if response is not None:
                return response
            await trio.sleep(RETRY_S + round(self.chance.random(), 3))

    def problem(self, text: str) -> None:
        """Report a violation."""
        self.trace.note("PROBLEM", text)
        self.cluster.problems.append(text)


@attrs.define(eq=False)
class View:
    """What a client has assembled from its syncs."""

    since: str = ""
    timelines: dict[str, list[str]] = attrs.Factory(dict)

    def merge(self, answer: dict[str, Any]) -> list[str]:
        """Take over a response; return what is wrong with it."""
        problems = []
        for section in ("join", "leave"):
            for room_id, room in answer.get("rooms", {}).get(section, {}).items():
                seen = self.timelines.setdefault(room_id, [])
                for event in room.get("timeline", {}).get("events", []):
                    if event["event_id"] in seen:
                        problems.append(f"saw {event['event_id']} twice")
                    seen.append(event["event_id"])
        self.since = answer["next_batch"]
        return problems


@attrs.define(eq=False)
class User:
    """A user with one device, which syncs all the time."""

    clients: Clients
    name: str
    user_id: str = ""
    token: str = ""
    view: View = attrs.Factory(View)
    is_stopping: bool = False

    async def register(self) -> None:
        """Register an account."""
        account = {"username": self.name, "password": "p", "auth": {"type": "m.login.dummy"}}
        response = await self.clients.ask(None, "POST", "register", json=account)
        assert response.status == 200, response.body
        self.user_id, self.token = response.json["user_id"], response.json["access_token"]

    async def ask(self, method: str, *path: str, json: Any = None, **query: Any) -> WebResponse:
        """Send a request until there is an answer."""
        return await self.clients.ask(self.token, method, *path, json=json, **query)

    async def sync_until(self, stop: Callable[[], bool]) -> None:
        """Sync, on a random process each time, until stopped."""
        chance = self.clients.chance
        while not stop():
            timeout_ms = chance.choice((0, 1_000, 5_000))
            await self.sync(timeout_ms)
            if chance.random() < 0.5:
                await trio.sleep(round(chance.random() * 2, 3))

    async def sync(self, timeout_ms: int = 0, at: str | None = None) -> bool:
        """Sync once; return whether there was an answer."""
        query: dict[str, Any] = {"timeout": timeout_ms}
        if self.view.since:
            query["since"] = self.view.since
        response = await self.clients.try_once(self.token, "GET", "sync", at=at, **query)
        if response is None:
            await trio.sleep(RETRY_S)
            return False
        assert response.status == 200, response.body
        for problem in self.view.merge(response.json):
            self.clients.problem(f"{self.user_id}: {problem}")
        return True
