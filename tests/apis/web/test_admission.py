"""A client that sends slowly, or leaves, occupies no slot of a class of work."""

from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from hs.apis.web.auth import FEDERATION, NONE, USER
from hs.apis.web.limits import Admission, GateSize, WorkClass
from hs.apis.web.render import Empty
from hs.apis.web.request import body_stream, whole_body
from hs.apis.web.route import collect, route
from hs.core.errors import LimitExceeded
from hs.core.requester import Requester
from tests.support.web import Tokens, WebClient, WebResponse, client_for


@attrs.frozen
class SearchRequest:
    """A request with a body."""

    requester: Requester | None
    content: dict[str, Any] = whole_body(factory=dict)


@attrs.frozen
class UploadRequest:
    """A request whose body the handler reads."""

    parts: AsyncIterator[bytes] = body_stream()


@attrs.frozen
class HeavyApi:
    """Endpoints that compute in a gate."""

    may_end: trio.Event = attrs.field(factory=trio.Event)

    @route("POST", "/search", auth=USER, rate="search", work=WorkClass.HEAVY)
    async def search(self, request: SearchRequest) -> Empty:
        return Empty()

    @route("PUT", "/_matrix/federation/v1/send", auth=FEDERATION, work=WorkClass.HEAVY)
    async def send(self, request: SearchRequest) -> Empty:
        return Empty()

    @route("POST", "/wait", auth=NONE, work=WorkClass.HEAVY, cancel_on_disconnect=True)
    async def wait(self, request: SearchRequest) -> Empty:
        await self.may_end.wait()
        return Empty()

    @route("POST", "/compute", auth=USER, work=WorkClass.HEAVY)
    async def compute(self, request: SearchRequest) -> Empty:
        await self.may_end.wait()
        return Empty()


@attrs.frozen
class StreamingApi:
    """An endpoint that would let its client occupy a slot."""

    @route("POST", "/upload", auth=USER, work=WorkClass.HEAVY)
    async def upload(self, request: UploadRequest) -> Empty:
        return Empty()


@attrs.define
class CountedRates:
    """Rate limits that permit a number of requests."""

    left: int

    def check(self, rate: str, requester: Requester | None, client_ip: str) -> None:
        self.left -= 1
        if self.left < 0:
            raise LimitExceeded("Too many requests", retry_after_ms=1000)


@attrs.define
class SlowBody:
    """A body whose second half never arrives, until `rest` is set."""

    rest: trio.Event = attrs.field(factory=trio.Event)
    begun: trio.Event = attrs.field(factory=trio.Event)

    async def parts(self) -> AsyncIterator[bytes]:
        yield b"{"
        self.begun.set()
        await self.rest.wait()
        yield b"}"


def small_gate() -> Admission:
    return Admission({WorkClass.HEAVY: GateSize(running=1, waiting=1)})


def heavy_client(api: HeavyApi, admission: Admission, **more: Any) -> WebClient:
    tokens = Tokens()
    tokens.user("alice")
    tokens.user("bridge", appservice_id="bridge")
    return client_for(api, tokens=tokens, admission=admission, **more)


@pytest.mark.parametrize("path", ["/search", "/_matrix/federation/v1/send"])
async def test_slow_bodies_do_not_keep_others_from_a_gate(path: str) -> None:
    client, slow = heavy_client(HeavyApi(), small_gate()), SlowBody()
    method = "POST" if path == "/search" else "PUT"
    statuses: list[int] = []

    async def drip() -> None:
        response = await client.request(method, path, token="alice", body=slow.parts())
        statuses.append(response.status)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            slow.begun = trio.Event()
            nursery.start_soon(drip)
            await slow.begun.wait()

        with trio.fail_after(5):
            response = await client.post("/search", {}, token="alice")
        slow.rest.set()

    assert response.status == 200
    assert len(statuses) == 5


async def test_body_is_not_read_beyond_the_rate() -> None:
    client = heavy_client(HeavyApi(), small_gate(), rates=CountedRates(left=0))

    with trio.fail_after(5):
        response = await client.request("POST", "/search", token="alice", body=SlowBody().parts())

    assert response.status == 429


async def test_client_that_leaves_the_queue_of_a_gate_frees_its_place() -> None:
    api, admission = HeavyApi(), small_gate()
    client, gate = heavy_client(api, admission), admission.gates[WorkClass.HEAVY]
    gone = trio.Event()
    responses: list[WebResponse] = []

    async def wait(disconnect: trio.Event | None = None) -> None:
        responses.append(await client.post("/wait", {}, disconnect=disconnect))

    async def wait_and_leave() -> None:
        with pytest.raises(ConnectionError):
            await wait(gone)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wait_and_leave)
        await trio.testing.wait_all_tasks_blocked()
        assert (gate.running, gate.waiting) == (1, 1)

        gone.set()
        await trio.testing.wait_all_tasks_blocked()
        assert (gate.running, gate.waiting) == (1, 0)
        api.may_end.set()

    assert [response.status for response in responses] == [200]


def test_endpoint_that_streams_its_body_cannot_have_a_gate() -> None:
    with pytest.raises(TypeError, match="must not read its body inside a gate"):
        collect(StreamingApi())


async def test_user_cannot_fill_a_gate_but_application_service_can() -> None:
    api = HeavyApi()
    admission = Admission({WorkClass.HEAVY: GateSize(running=5, waiting=4, of_user=2)})
    client, gate = heavy_client(api, admission), admission.gates[WorkClass.HEAVY]
    responses: list[WebResponse] = []

    async def compute(token: str) -> None:
        responses.append(await client.post("/compute", {}, token=token))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(compute, "alice")
        await trio.testing.wait_all_tasks_blocked()
        assert (gate.running, gate.waiting) == (2, 0)
        assert [response.status for response in responses] == [429]
        for _ in range(3):
            nursery.start_soon(compute, "bridge")
        await trio.testing.wait_all_tasks_blocked()
        assert (gate.running, gate.waiting) == (5, 0)
        api.may_end.set()

    assert [response.status for response in responses[1:]] == [200] * 7
