"""The servers of a simulation: composed processes that crash and start again.

A crash drops everything in memory. The next life of the server begins with its database.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import quote

import attrs
import trio

from hs.core.ids import ServerName, UserID
from hs.core.requester import Requester
from hs.lib.tasks import keep_running
from hs.services.federation_client.peer_transport import PeerRequest, PeerResponse
from hs.settings.settings import Settings
from hs.storage.devices import devices
from hs.storage.inline import InlineDatabase
from tests.simulation.database import MortalDatabase
from tests.simulation.determinism import VirtualClock
from tests.simulation.network import NoAnswer, SimulatedNetwork, SimulatedTransport
from tests.simulation.watch import SoftFailureWatch
from tests.support.composition import ComposedProcess, open_process
from tests.support.federation import settings_of
from tests.support.sql.databases import new_inline
from tests.support.web import WebClient, WebResponse

DUTIES: Final = frozenset(
    (
        "federation sender 1 of 1",
        "incomplete PDUs",
        "forward extremities",
        "departures",
        "stale device lists",
        "device list cleanup",
        "remote device lists",
    )
)
DEVICE: Final = "DEVICE"
DEATH_TIMEOUT_S: Final = 3600.0


class AnyUser:
    """An Authenticator for which the access token is the user ID."""

    def authenticate_nowait(self, token: str, client_ip: str, user_agent: str) -> Requester | None:
        return Requester(UserID(token), device_id=DEVICE, token_id=1)

    async def requester_for(self, token: str, client_ip: str, user_agent: str) -> Requester:
        raise AssertionError("all tokens are known")

    async def acting_as(
        self, requester: Requester, user_id: str | None, device_id: str | None
    ) -> Requester:
        raise AssertionError("there are no application services")

    def note_use(self, requester: Requester, client_ip: str, user_agent: str) -> None:
        """Do nothing."""


@attrs.frozen(eq=False)
class Life:
    """A process from its start to its end."""

    process: ComposedProcess
    nursery: trio.Nursery
    web: WebClient


@attrs.define(eq=False)
class SimulatedServer:
    """An honest server; `life` is None while it is down."""

    name: ServerName
    network: SimulatedNetwork
    settings: Settings
    users: list[UserID]
    clock: VirtualClock = attrs.field(factory=VirtualClock, kw_only=True)
    store: InlineDatabase = attrs.Factory(new_inline)
    life: Life | None = None
    _database: MortalDatabase | None = None
    _transport: SimulatedTransport | None = None
    _watch: SoftFailureWatch | None = None
    _scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    _ended: trio.Event = attrs.Factory(trio.Event)
    crashes: int = 0
    problems: list[str] = attrs.Factory(list)

    async def start(self) -> None:
        """Begin a life, unless the server lives."""
        if self.life is None:
            for user_id in self.users:
                await self.store.write(devices.ensure, user_id, DEVICE, None, 0)
            self._ended = trio.Event()
            await self.network.nursery.start(self._live)
            self.network.nodes[self.name] = self

    async def crash(self) -> None:
        """End the present life: nothing is stored or sent any more."""
        if self.life is None or self._database is None or self._transport is None:
            return
        self.crashes += 1
        self._database.is_dead = self._transport.is_dead = True
        self.life = None
        self._scope.cancel()
        with trio.fail_after(DEATH_TIMEOUT_S):
            await self._ended.wait()

    async def _live(self, task_status: trio.TaskStatus[None]) -> None:
        database = self._database = MortalDatabase(self.store, self.network.chance)
        transport = self._transport = SimulatedTransport(self.network, self.name)
        try:
            with trio.CancelScope() as self._scope:
                async with (
                    open_process(
                        database,
                        settings_of(self.name, self.settings),
                        clock=self.clock,
                        peers=transport,
                    ) as process,
                    trio.open_nursery() as nursery,
                ):
                    for part in process.services.parts:
                        for duty in part.duties:
                            if duty.name in DUTIES:
                                nursery.start_soon(keep_running, duty)
                    self._watch = SoftFailureWatch(self.name, self.problems)
                    await self._watch.begin(self.store, process.base.feed)
                    self.life = Life(process, nursery, process.client(AnyUser()))
                    task_status.started()
                    await trio.sleep_forever()
        except Exception:
            if not database.is_dead:
                raise
        finally:
            if self._watch is not None:
                self._watch.end()
            self._ended.set()

    async def answer(self, request: PeerRequest) -> PeerResponse:
        """Return the response to another server. Raises: NoAnswer."""
        response = await self._ask(
            lambda web: web.request(
                request.method,
                request.uri,
                body=request.body or b"",
                headers=dict(request.headers),
            )
        )
        headers = {name.lower(): value for name, value in response.headers.items()}
        return PeerResponse(response.status, headers, response.body)

    async def call(
        self, user_id: UserID, method: str, *path: str, json: Any = None, **query: Any
    ) -> WebResponse:
        """Return the response to a client; `path` are segments. Raises: NoAnswer."""
        uri = "/_matrix/client/v3/" + "/".join(quote(segment, safe="") for segment in path)
        return await self._ask(
            lambda web: web.request(method, uri, json=json, token=user_id, query=query or None)
        )

    async def _ask(self, ask: Callable[[WebClient], Awaitable[WebResponse]]) -> WebResponse:
        """Have a task of the server answer, which goes on if the caller is canceled."""
        life = self.life
        if life is None:
            raise NoAnswer("connection refused")
        responses: list[WebResponse] = []
        ended = trio.Event()

        async def work(web: WebClient) -> None:
            try:
                responses.append(await ask(web))
            finally:
                ended.set()

        life.nursery.start_soon(work, life.web)
        await ended.wait()
        if not responses or self.life is not life:
            raise NoAnswer("the server has crashed")
        self.check(responses[0])
        return responses[0]

    def check(self, response: WebResponse) -> None:
        """Raise AssertionError if a response says that the server has a bug."""
        if response.status >= 500 and response.status not in (502, 503, 504):
            raise AssertionError(f"{self.name} answered {response.status}: {response.body!r}")
