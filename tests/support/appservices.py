"""Sending to application services over a World, with fake services.

async with open_sending(database) as sending:
    room_id = await sending.world.create_room(ALICE, join=[GHOST])
    await sending.told(1)
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import orjson
import trio

from hs.core.ids import EventID, UserID
from hs.lib.http_client import HttpResponse, HttpUnreachable
from hs.services.appservices.appservice_client import AppserviceClient
from hs.services.appservices.appservice_registry import AppserviceRegistry
from hs.services.appservices.appservice_sender import AppserviceSender
from hs.services.appservices.event_interest import EventInterest
from hs.services.appservices.invite_state import InviteStates
from hs.services.appservices.previous_memberships import PreviousMembershipReader
from hs.services.appservices.transactions import TransactionMaker
from hs.services.rooms.read.stripped_state import StrippedState
from hs.settings.sections.appservices import (
    AppserviceNamespace,
    AppserviceNamespaces,
    AppserviceRegistration,
)
from hs.storage.appservices import transactions as storage
from hs.storage.database import Database
from tests.support.reading import ReadingScene, readers_of
from tests.support.rooms import SERVER, World, open_world

GHOST = UserID(f"@_irc_ghost:{SERVER}")
OTHER_GHOST = UserID(f"@_irc_other:{SERVER}")
WAIT_S = 60.0


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
        return HttpResponse(status or 200, {}, b"{}", url)

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


@attrs.define(eq=False)
class InterruptedPastMembers:
    """A PastMembers that runs `meanwhile` before its first look-up."""

    past: PreviousMembershipReader
    meanwhile: Callable[[], Awaitable[None]]

    async def memberships(self, event_id: EventID) -> tuple[str | None, str | None]:
        meanwhile, self.meanwhile = self.meanwhile, nothing
        await meanwhile()
        return await self.past.memberships(event_id)


@attrs.define(eq=False)
class SendingScene:
    """A world and its application service sender, which can be stopped and started again.

    `meanwhile` runs once while a starting sender looks for missed events.
    """

    world: World
    reading: ReadingScene
    services: FakeServices
    nursery: trio.Nursery
    registrations: list[AppserviceRegistration]
    meanwhile: Callable[[], Awaitable[None]] = nothing
    _scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    _ended: trio.Event = attrs.Factory(trio.Event)

    def begin(self) -> None:
        """Start the sender, as in a process that has just started."""
        sender = self._make()
        self._scope, self._ended = trio.CancelScope(), trio.Event()
        self.nursery.start_soon(self._run, sender, self._scope, self._ended)

    async def end(self) -> None:
        """Cancel the sender, as in a process that stops or crashes."""
        self._scope.cancel()
        await self._ended.wait()

    async def over(self) -> None:
        """Wait until the sender ends by itself."""
        with trio.fail_after(WAIT_S):
            await self._ended.wait()

    async def _run(
        self, sender: AppserviceSender, scope: trio.CancelScope, ended: trio.Event
    ) -> None:
        with scope:
            await sender.run()
        ended.set()

    def _make(self) -> AppserviceSender:
        world, reading = self.world, self.reading
        registry = AppserviceRegistry(self.registrations, SERVER)
        stripped = StrippedState(world.database, world.events, world.states)
        maker = TransactionMaker(
            database=world.database,
            clock=world.clock,
            events=world.events,
            rendering=reading.rendering,
            invites=InviteStates(reading.memberships, stripped),
        )
        return AppserviceSender(
            database=world.database,
            feed=world.feed,
            interest=EventInterest(registry, world.database),
            rooms=reading.memberships,
            past=InterruptedPastMembers(
                PreviousMembershipReader(world.events, world.states), self.meanwhile
            ),
            maker=maker,
            calls=AppserviceClient(self.services, False),
        )


@asynccontextmanager
async def open_sending(
    database: Database, *registrations: AppserviceRegistration
) -> AsyncIterator[SendingScene]:
    """Open a world with services and start the sender."""
    async with open_world(database) as world, trio.open_nursery() as nursery:
        chosen = list(registrations) or [registration()]
        sending = SendingScene(world, readers_of(world), FakeServices(), nursery, chosen)
        sending.begin()
        with trio.fail_after(WAIT_S):
            while not await database.read(storage.positions, storage.ALL_SERVICES):
                await trio.lowlevel.checkpoint()
        yield sending
        nursery.cancel_scope.cancel()
