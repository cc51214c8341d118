"""What sends to application services, over a World, with services that are tables.

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
from hs.lib.http_client import HttpAnswer, Unreachable
from hs.services.appservices.appservice_client import ServiceCalls
from hs.services.appservices.appservice_registry import ServiceRegistry
from hs.services.appservices.appservice_sender import AppserviceSender
from hs.services.appservices.event_interest import Interest
from hs.services.appservices.invite_state import InviteStates
from hs.services.appservices.previous_memberships import PastMembers
from hs.services.appservices.transactions import TransactionMaker
from hs.services.rooms.read.stripped_state import StrippedState
from hs.settings.sections.appservices import AppserviceRegistration, Namespace, Namespaces
from hs.storage.appservices import transactions as storage
from hs.storage.database import Database
from tests.support.reading import Reading, readers_of
from tests.support.rooms import SERVER, World, open_world

GHOST = UserID(f"@_irc_ghost:{SERVER}")
OTHER_GHOST = UserID(f"@_irc_other:{SERVER}")
WAIT_S = 60.0


def registration(name: str = "irc", **more: Any) -> AppserviceRegistration:
    """Make a service with users, aliases and rooms named after it."""
    namespaces = Namespaces(
        users=(Namespace(re.compile(f"@_{name}_.*"), True),),
        aliases=(Namespace(re.compile(f"#_{name}_.*"), True),),
    )
    given: dict[str, Any] = {
        "id": name,
        "url": f"http://{name}.test",
        "as_token": f"as-{name}",
        "hs_token": f"hs-{name}",
        "sender_localpart": f"{name}bot",
        "namespaces": namespaces,
    }
    return AppserviceRegistration(**{**given, **more})


@attrs.frozen
class Sent:
    """One request to a service."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None


@attrs.define(eq=False)
class Services:
    """The other side: takes what is sent, or fails as it is told to."""

    sent: list[Sent] = attrs.Factory(list)
    taken: list[tuple[str, bytes]] = attrs.Factory(list)
    answer: Callable[[Sent], int | None] = lambda sent: 200  # None: the answer never comes
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
    ) -> HttpAnswer:
        await trio.lowlevel.checkpoint()
        sent = Sent(method, url, headers, body)
        self.sent.append(sent)
        status = self.answer(sent)
        if status == 0:
            self._wake()
            raise Unreachable("nobody is there")
        if status is None or status == 200:
            self.taken.append((url, body or b""))
        self._wake()
        if status is None:
            await trio.sleep_forever()
        return HttpAnswer(status or 200, {}, b"{}", url)

    def transactions(self, service: str = "irc") -> dict[str, dict[str, Any]]:
        """Give what a service took, each transaction once, in their order."""
        prefix = f"http://{service}.test/"
        return {url: orjson.loads(body) for url, body in self.taken if url.startswith(prefix)}

    def events(self, service: str = "irc") -> list[str]:
        """List the events that a service took."""
        bodies = self.transactions(service).values()
        return [one["event_id"] for body in bodies for one in body["events"]]

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until something holds."""
        with trio.fail_after(WAIT_S):
            while not holds():
                await self.news.wait()

    def _wake(self) -> None:
        self.news.set()
        self.news = trio.Event()


async def nothing() -> None:
    """Let nothing happen."""


@attrs.define(eq=False)
class BusyPast:
    """Looks up the past, while something happens in the present."""

    past: PastMembers
    meanwhile: Callable[[], Awaitable[None]]

    async def memberships(self, event_id: EventID) -> tuple[str | None, str | None]:
        meanwhile, self.meanwhile = self.meanwhile, nothing
        await meanwhile()
        return await self.past.memberships(event_id)


@attrs.define(eq=False)
class Sending:
    """A world, and the duty that sends of it, which can be ended and begun again.

    `meanwhile` happens once while a duty that begins looks for what was missed.
    """

    world: World
    reading: Reading
    services: Services
    nursery: trio.Nursery
    registrations: list[AppserviceRegistration]
    meanwhile: Callable[[], Awaitable[None]] = nothing
    _scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    _ended: trio.Event = attrs.Factory(trio.Event)

    def begin(self) -> None:
        """Begin, as a process does that has just started."""
        sender = self._make()
        self._scope, self._ended = trio.CancelScope(), trio.Event()
        self.nursery.start_soon(self._run, sender, self._scope, self._ended)

    async def end(self) -> None:
        """End it as a process that leaves, or dies, does."""
        self._scope.cancel()
        await self._ended.wait()

    async def over(self) -> None:
        """Wait until it ends by itself."""
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
        registry = ServiceRegistry(self.registrations, SERVER)
        stripped = StrippedState(world.database, world.events, world.states)
        maker = TransactionMaker(
            database=world.database,
            clock=world.clock,
            events=world.events,
            rendering=reading.rendering,
            invites=InviteStates(reading.memberships, stripped),
        )
        return AppserviceSender(
            world.database,
            world.feed,
            Interest(registry, world.database),
            reading.memberships,
            BusyPast(PastMembers(world.events, world.states), self.meanwhile),
            maker,
            ServiceCalls(self.services, False),
        )


@asynccontextmanager
async def open_sending(
    database: Database, *registrations: AppserviceRegistration
) -> AsyncIterator[Sending]:
    """Open a world with services; sending has begun."""
    async with open_world(database) as world, trio.open_nursery() as nursery:
        given = list(registrations) or [registration()]
        sending = Sending(world, readers_of(world), Services(), nursery, given)
        sending.begin()
        with trio.fail_after(WAIT_S):
            while not await database.read(storage.positions, storage.ALL):
                await trio.lowlevel.checkpoint()
        yield sending
        nursery.cancel_scope.cancel()
