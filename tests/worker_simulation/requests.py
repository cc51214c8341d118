"""Requests of clients to the processes of a simulated server, sent again until answered."""

import random
from typing import Any, Final
from urllib.parse import quote

import attrs
import trio

from tests.simulation.determinism import Trace
from tests.support.web import WebResponse
from tests.worker_simulation.processes import NoAnswer, SimulatedCluster

CLIENT: Final = "/_matrix/client/v3/"
ANSWER_S: Final = 90.0
LATE_S: Final = 18.0
RETRY_S: Final = 0.2
AGAIN: Final = (502, 503, 504)


@attrs.define(eq=False)
class Requests:
    """Sends requests for users, and checks all responses for signs of bugs."""

    cluster: SimulatedCluster
    chance: random.Random
    trace: Trace
    sent: int = 0
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
        name = at or self.chance.choice(self.cluster.serving)
        process = self.cluster.processes[name]
        uri = CLIENT + "/".join(quote(segment, safe="") for segment in path)
        self.sent += 1
        began, life = trio.current_time(), process.life
        response: WebResponse | None = None
        with trio.move_on_after(ANSWER_S):
            try:
                response = await process.ask(
                    lambda web: web.request(method, uri, json=json, token=token, query=query)
                )
            except NoAnswer as error:
                self.trace.note(name, method, "/".join(path), error)
                return None
        took_s = trio.current_time() - began - query.get("timeout", 0) / 1000
        if took_s > LATE_S and life is not None and self.cluster.was_calm(life, began):
            self.problem(f"{name} took {took_s:.1f} s for {method} {uri}")
        if response is None:
            self.trace.note(name, method, "/".join(path), "no answer in time")
            return None
        self.trace.note(name, method, "/".join(path), response.status)
        if response.status in AGAIN:
            return None
        if response.status >= 500:
            self.problem(f"{name} answered {method} {uri}: {response.status} {response.body!r}")
        return response

    async def ask(
        self,
        token: str | None,
        method: str,
        *path: str,
        at: str | None = None,
        json: Any = None,
        **query: Any,
    ) -> WebResponse:
        """Send a request until there is an answer, to a random process each time unless `at`."""
        while True:
            response = await self.try_once(token, method, *path, at=at, json=json, **query)
            if response is not None:
                return response
            await trio.sleep(RETRY_S + round(self.chance.random(), 3))

    def problem(self, text: str) -> None:
        """Report a violation."""
        self.trace.note("PROBLEM", text)
        self.cluster.problems.append(text)
