"""Application services: their registrations, and a composed process that sends to fake services.

async with open_sending(database) as sending:
    room_id = await sending.world.create_room(ALICE, join=[GHOST])
    await sending.services.until(sending.services.events)
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import orjson
import trio

from hs.core.ids import UserID
from hs.lib.http_client import HttpResponse, HttpUnreachable
from hs.settings.sections.appservices import (
    AppserviceNamespace,
    AppserviceNamespaces,
    AppserviceRegistration,
    AppserviceSettings,
)
from hs.settings.settings import Settings
from hs.storage.appservices import transactions as storage
from hs.storage.database import Database
from tests.support.composition import SERVER, SETTINGS, open_process
from tests.support.rooms import World

GHOST = UserID(f"@_irc_ghost:{SERVER}")
OTHER_GHOST = UserID(f"@_irc_other:{SERVER}")
WAIT_S = 60.0
SENDER = "application services"


def registration(name: str = "irc", **more: Any) -> AppserviceRegistration:
    """Return the registration of a service whose namespaces are named after it."""
    namespaces = AppserviceNamespaces(
        users=(AppserviceNamespace(re.compile(f"@_{name}_.*"), True),),
        aliases=(AppserviceNamespace(re.compile(f"#_{name}_.*"), True),),
    )
    fields: dict[str, Any] = {
        "id": name,
        "url": f"http://{name}.test",
        "as_token": f"as-{name}",
        "hs_token": f"hs-{name}",
        "sender_localpart": f"{name}bot",
        "namespaces": namespaces,
    }
    return AppserviceRegistration(**{**fields, **more})


def settings_with(*registrations: AppserviceRegistration, **more: Any) -> Settings:
    """Return settings with services; `more` are fields of AppserviceSettings."""
    services = AppserviceSettings(registrations=registrations, **more)
    return attrs.evolve(SETTINGS, appservices=services)


@attrs.frozen
class SentRequest:
    """A request to a service."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None


@attrs.define(eq=False)
class FakeServices:
    """An HttpClient that acts as the services: it accepts requests, or fails as configured."""

    sent: list[SentRequest] = attrs.Factory(list)
    taken: list[tuple[str, bytes]] = attrs.Factory(list)
    answer: Callable[[SentRequest], int | None] = lambda sent: (
        200
    )  # None: never responds; 0: unreachable
    body: Callable[[SentRequest], bytes] = lambda sent: b"{}"
    news: trio.Event = attrs.Factory(trio.Event)

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] = {},
        body: bytes | None = None,
        timeout_s: float = 30.0,
        max_bytes: int = 1 << 20,
        redirects: int = 0,
    ) -> HttpResponse:
        await trio.lowlevel.checkpoint()
        sent = SentRequest(method, url, headers, body)
        self.sent.append(sent)
        status = self.answer(sent)
        if status == 0:
            self._wake()
            raise HttpUnreachable("connection refused")
        if status is None or status == 200:
            self.taken.append((url, body or b""))
        self._wake()
        if status is None:
            await trio.sleep_forever()
        return HttpResponse(status or 200, {}, self.body(sent), url)

    def transactions(self, service: str = "irc") -> dict[str, dict[str, Any]]:
        """Return the accepted transactions of a service in order, each once."""
        prefix = f"http://{service}.test/"
        return {url: orjson.loads(body) for url, body in self.taken if url.startswith(prefix)}

    def events(self, service: str = "irc") -> list[str]:
        """Return the IDs of the events that a service accepted."""
        bodies = self.transactions(service).values()
        return [event["event_id"] for body in bodies for event in body["events"]]

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until a condition holds."""
        with trio.fail_after(WAIT_S):
            while not holds():
                await self.news.wait()

    def _wake(self) -> None:
        self.news.set()
        self.news = trio.Event()


async def nothing() -> None:
    """Do nothing."""


class InterruptedDatabase:
    """A database that runs `meanwhile` once, after a starting sender has read missed members."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.meanwhile: Callable[[], Awaitable[None]] = nothing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def read(self, unit: Callable[..., Any], *args: Any, **more: Any) -> Any:
        result = await self._database.read(unit, *args, **more)
        if unit is storage.list_members_after:
            meanwhile, self.meanwhile = self.meanwhile, nothing
            await meanwhile()
        return result


@attrs.define(eq=False)
class SendingScene:
    """A process whose application service sender can be stopped and started again."""

    world: World
    services: FakeServices
    database: InterruptedDatabase
    nursery: trio.Nursery
    _scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    _ended: trio.Event = attrs.Factory(trio.Event)

    def begin(self) -> None:
        """Start the sender."""
        self._scope, self._ended = trio.CancelScope(), trio.Event()
        self.nursery.start_soon(self._run, self._scope, self._ended)

    async def end(self) -> None:
        """Cancel the sender, as a process does that stops or loses the lease."""
        self._scope.cancel()
        await self._ended.wait()

    async def over(self) -> None:
        """Wait until the sender ends by itself."""
        with trio.fail_after(WAIT_S):
            await self._ended.wait()

    async def _run(self, scope: trio.CancelScope, ended: trio.Event) -> None:
        with scope:
            await self.world.process.run_duty(SENDER)
        ended.set()


@asynccontextmanager
async def open_sending(
    database: Database, *registrations: AppserviceRegistration
) -> AsyncIterator[SendingScene]:
    """Open a process with services and start the sender."""
    services, interrupted = FakeServices(), InterruptedDatabase(database)
    settings = settings_with(*(registrations or (registration(),)))
    async with (
        open_process(interrupted, settings, http=services) as process,
        trio.open_nursery() as nursery,
    ):
        sending = SendingScene(World(process), services, interrupted, nursery)
        sending.begin()
        with trio.fail_after(WAIT_S):
            while not await database.read(storage.positions, storage.ALL_SERVICES):
                await trio.lowlevel.checkpoint()
        yield sending
        nursery.cancel_scope.cancel()
