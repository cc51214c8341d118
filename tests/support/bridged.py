"""Scenes with application services: a running server, two services, and a user with a room."""

import os
import random
from typing import Any
from urllib.parse import quote

import attrs
import trio

from tests.support.ledger import CLIENT, Person
from tests.support.servers.appservice_bridge import Bridge
from tests.support.servers.http_client import HttpClient
from tests.support.servers.processes import SERVER_NAME, Cluster
from tests.support.web import WebResponse

NAMES = iter(range(10_000))


@attrs.define
class BridgedServer:
    """A server with two application services."""

    cluster: Cluster
    fax: Bridge
    pager: Bridge


@attrs.define
class BridgedScene:
    """A user with a room, and a service that may be in it."""

    bridged: BridgedServer
    ada: Person
    room_id: str
    number: int
    sent: int = 0

    @property
    def ghost(self) -> str:
        """A user of the service."""
        return f"@_fax_{self.number}:{SERVER_NAME}"

    @property
    def fax(self) -> Bridge:
        """The service."""
        return self.bridged.fax

    @property
    def room(self) -> str:
        """The path of the room."""
        return f"{CLIENT}/rooms/{quote(self.room_id)}"

    async def request(
        self, method: str, target: str, content: Any = None, *, bridge: Bridge | None = None
    ) -> WebResponse:
        """Send a request as the service, or as another one."""
        url = self.bridged.cluster.any_url()
        token = (bridge or self.fax).as_token
        async with HttpClient(int(url.rpartition(":")[2]), token) as client:
            return await client.request(method, target, json=content)

    async def add_ghost(self) -> None:
        """Register a user of the service and let it join the room."""
        account = {"type": "m.login.application_service", "username": f"_fax_{self.number}"}
        registered = await self.request(
            "POST", f"{CLIENT}/register", {**account, "inhibit_login": True}
        )
        assert registered.status == 200, registered.body
        joined = await self.request("POST", f"{self.room}/join?user_id={quote(self.ghost)}", {})
        assert joined.status == 200, joined.body

    async def say(self, text: str) -> str:
        """Send a message as Ada and return the event ID."""
        self.sent += 1
        target = f"{self.room}/send/m.room.message/t{self.sent}"
        response = await self.ada.request("PUT", target, {"msgtype": "m.text", "body": text})
        return str(response.json["event_id"])

    async def until(self, holds: Any, what: str) -> Any:
        """Wait until a condition on the service holds."""
        return await trio.to_thread.run_sync(self.fax.wait_until, holds, what)


async def open_scene(bridged: BridgedServer) -> BridgedScene:
    ports = bridged.cluster.ports
    number = next(NAMES)
    ada = Person(ports, random.Random(number))
    await ada.register(f"ada{number}-{os.getpid()}")
    room = {"preset": "public_chat", "name": "The office"}
    room_id = (await ada.request("POST", f"{CLIENT}/createRoom", room)).json["room_id"]
    return BridgedScene(bridged, ada, room_id, number)
