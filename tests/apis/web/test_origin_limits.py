"""Limits on the requests of other servers: a server that floods this one slows itself."""

from typing import Any

import attrs
import pytest
import trio

from hs.apis.web.app import Application
from hs.apis.web.auth import FEDERATION
from hs.apis.web.limits import Admission
from hs.apis.web.origin_limits import OriginLimits
from hs.apis.web.render import Empty
from hs.apis.web.route import collect, route
from hs.core.errors import LimitExceeded
from hs.core.ids import ServerName
from hs.core.signing.requests import SignedRequest
from hs.settings.sections.rate_limits import FederationRates
from tests.support.web import Tokens, WebClient

RATES = FederationRates(
    window_size=1000, sleep_limit=4, sleep_delay=500, reject_limit=3, concurrent=2
)


async def test_requests_beyond_the_limit_are_delayed_and_then_run(autojump_clock: Any) -> None:
    limits, finished = OriginLimits(RATES), []

    async def note() -> None:
        finished.append(trio.current_time() - start)

    start = trio.current_time()
    for _ in range(6):
        await limits.run("flood.example", note)
    await limits.run("calm.example", note)

    assert [round(at, 1) for at in finished] == [0, 0, 0, 0, 0.5, 1.0, 1.0]


async def test_requests_are_not_delayed_once_the_window_is_over(autojump_clock: Any) -> None:
    limits = OriginLimits(RATES)
    for _ in range(4):
        await limits.run("calm.example", trio.lowlevel.checkpoint)
    await trio.sleep(1.1)
    start = trio.current_time()

    await limits.run("calm.example", trio.lowlevel.checkpoint)

    assert trio.current_time() == start


async def test_requests_beyond_the_delayed_ones_are_rejected(autojump_clock: Any) -> None:
    limits, outcomes = OriginLimits(RATES), []

    async def send() -> None:
        try:
            await limits.run("flood.example", trio.lowlevel.checkpoint)
        except LimitExceeded:
            outcomes.append("rejected")
        else:
            outcomes.append("done")

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(send)

    assert sorted(outcomes) == ["done"] * 7 + ["rejected"] * 3


async def test_few_requests_of_a_server_run_at_once(autojump_clock: Any) -> None:
    limits, running = OriginLimits(RATES), {"now": 0, "most": 0}

    async def work() -> None:
        running["now"] += 1
        running["most"] = max(running["most"], running["now"])
        await trio.sleep(1)
        running["now"] -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(limits.run, "flood.example", work)

    assert running == {"now": 0, "most": 2}


async def test_failed_request_frees_its_place() -> None:
    limits = OriginLimits(RATES)

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("lost")

    for _ in range(3):
        with pytest.raises(ValueError, match="lost"):
            await limits.run("a.example", fail)


async def test_without_limits_everything_runs() -> None:
    limits = OriginLimits()
    for _ in range(100):
        await limits.run("a.example", trio.lowlevel.checkpoint)


class OneOrigin:
    """An OriginAuthenticator that takes every request for one of the same server."""

    async def origin_of(self, request: SignedRequest) -> ServerName:
        """Return the server."""
        await trio.lowlevel.checkpoint()
        return ServerName("flood.example")


@attrs.frozen
class SlowApi:
    """An endpoint for other servers that takes a second."""

    @route("GET", "/_matrix/federation/v1/slow", auth=FEDERATION)
    async def slow(self) -> Empty:
        """Wait."""
        await trio.sleep(1)
        return Empty()


async def test_requests_of_servers_are_limited_by_the_application(autojump_clock: Any) -> None:
    application = Application(
        collect(SlowApi()),
        Tokens(),
        origins=OneOrigin(),
        admission=Admission(origins=OriginLimits(RATES)),
    )
    client, statuses = WebClient(application), []

    async def send() -> None:
        response = await client.get("/_matrix/federation/v1/slow")
        statuses.append(response.status)

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(send)

    assert sorted(statuses) == [200] * 5 + [429] * 5
