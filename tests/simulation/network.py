"""The network of a simulation: it delays, loses, repeats and reorders requests and responses.

Requests are answered in tasks of the server that is asked, so its answer is computed to the end if
the asking server does not wait for it, and is lost if the answering server crashes.
"""

import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Protocol
from zlib import crc32

import attrs
import trio

from hs.core.errors import RemoteFault
from hs.core.ids import ServerName
from hs.services.federation_client.peer_transport import (
    PeerRequest,
    PeerResponse,
    StreamedResponse,
)
from tests.simulation.determinism import Trace

LONGEST_REPEAT_S = 90.0


class NoAnswer(Exception):
    """The connection ended without a response."""


class Node(Protocol):
    """A server in the network."""

    async def answer(self, request: PeerRequest) -> PeerResponse:
        """Return the response to a request. Raises: NoAnswer."""
        ...


@attrs.define
class Faults:
    """How likely what goes wrong is, for each request; and the mean delay of a message."""

    lost_requests: float = 0.0
    lost_answers: float = 0.0
    repeats: float = 0.0
    delay_s: float = 0.0
    stalls: float = 0.0  # a delay of many seconds


@attrs.define(eq=False)
class SimulatedNetwork:
    """Connects servers by name. No message passes between the two servers of an entry of `cuts`.

    `in_flight` is the number of requests that are not answered, repeats included.
    """

    chance: random.Random
    trace: Trace
    nursery: trio.Nursery
    faults: Faults = attrs.Factory(Faults)
    nodes: dict[ServerName, Node] = attrs.Factory(dict)
    cuts: set[frozenset[ServerName]] = attrs.Factory(set)
    in_flight: int = 0

    def heal(self) -> None:
        """End all faults."""
        self.faults = Faults()
        self.cuts.clear()

    async def exchange(self, sender: ServerName, request: PeerRequest) -> PeerResponse:
        """Send a request and return its response. Raises: NoAnswer."""
        self.in_flight += 1
        try:
            return await self._exchange(sender, request)
        finally:
            self.in_flight -= 1

    async def _exchange(self, sender: ServerName, request: PeerRequest) -> PeerResponse:
        chance, faults = self.chance, self.faults
        node = self.nodes[request.server]
        line = (sender, "->", request.server, request.method, request.uri.partition("?")[0])
        await self._pass(sender, request.server, faults.lost_requests)
        self.trace.note(*line)
        if chance.random() < faults.repeats:
            self.nursery.start_soon(self._repeat, sender, request)
        response = await node.answer(request)
        self.trace.note(*line, response.status, crc32(response.body))
        await self._pass(request.server, sender, faults.lost_answers)
        return response

    async def _repeat(self, sender: ServerName, request: PeerRequest) -> None:
        """Deliver a request once more, perhaps long after others that were sent later."""
        self.in_flight += 1
        try:
            await trio.sleep(round(self.chance.random() * LONGEST_REPEAT_S, 4))
            self.trace.note(sender, "repeats", request.server, request.uri.partition("?")[0])
            await self.nodes[request.server].answer(request)
        except NoAnswer:
            pass
        finally:
            self.in_flight -= 1

    async def _pass(self, sender: ServerName, receiver: ServerName, loss: float) -> None:
        """Let a message pass, or not."""
        chance, faults = self.chance, self.faults
        await trio.lowlevel.checkpoint()
        if faults.delay_s:
            await trio.sleep(round(chance.expovariate(1 / faults.delay_s), 4))
        if chance.random() < faults.stalls:
            await trio.sleep(round(chance.uniform(1, 40), 4))
        if frozenset((sender, receiver)) in self.cuts:
            # Firewalls refuse, or say nothing.
            await trio.sleep(chance.choice((0.01, 0.5, 100)))
            raise NoAnswer("there is no route")
        if chance.random() < loss:
            raise NoAnswer("the connection broke")


@attrs.define(eq=False)
class SimulatedTransport:
    """The PeerTransport of one life of a server; it reaches nobody when that is over."""

    _network: SimulatedNetwork
    _sender: ServerName
    is_dead: bool = False

    async def send(self, request: PeerRequest) -> PeerResponse:
        """Send a request; see PeerTransport."""
        if self.is_dead:
            raise RemoteFault(request.server, "the process has died")
        with trio.move_on_after(request.timeout_s):
            try:
                response = await self._network.exchange(self._sender, request)
            except NoAnswer as fault:
                raise RemoteFault(request.server, str(fault)) from None
            if len(response.body) > request.max_bytes:
                raise RemoteFault(request.server, "its response is too large", retry=False)
            return response
        raise RemoteFault(request.server, f"timed out after {request.timeout_s:g} s")

    @asynccontextmanager
    async def stream(self, request: PeerRequest) -> AsyncIterator[StreamedResponse]:
        """Open a response; see PeerTransport."""
        response = await self.send(request)

        async def parts() -> AsyncGenerator[bytes, None]:
            await trio.lowlevel.checkpoint()
            yield response.body

        async with aclosing(parts()) as body:
            yield StreamedResponse(response.status, response.headers, body)
