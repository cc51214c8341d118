"""The errors of pings to services that cannot be reached."""

from collections.abc import Callable

import pytest

from hs.core.errors import MatrixError
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.core.streams import CACHES
from hs.lib.http_client import HttpTimedOut
from hs.repl.feed import Feed
from hs.repl.inproc import local_transport
from hs.repl.memory_writer import MemoryWriter
from hs.services.appservices.appservice_client import AppserviceClient
from hs.services.appservices.appservice_registry import AppserviceRegistry
from hs.services.appservices.ping import AppservicePing
from tests.support.appservices import FakeServices, SentRequest, registration
from tests.support.rooms import SERVER

IRC = Requester(UserID(f"@ircbot:{SERVER}"), appservice_id="irc")


def time_out(sent: SentRequest) -> int:
    raise HttpTimedOut("no answer in 30 s")


async def ping_error(answer: Callable[[SentRequest], int], url: str | None) -> MatrixError:
    """Return the error of a ping."""
    caches = MemoryWriter(CACHES, "main", local_transport(Feed()), 0)
    registry = AppserviceRegistry([registration(url=url)], SERVER)
    ping = AppservicePing(registry, AppserviceClient(FakeServices(answer=answer), False), caches)
    with pytest.raises(MatrixError) as error:
        await ping.ping(IRC, "irc", "t1")
    return error.value


@pytest.mark.parametrize(
    ("answer", "url", "errcode", "status"),
    [
        (lambda sent: 200, None, "M_URL_NOT_SET", 400),
        (lambda sent: 0, "http://irc.test", "M_CONNECTION_FAILED", 502),
        (time_out, "http://irc.test", "M_CONNECTION_TIMEOUT", 504),
        (lambda sent: 503, "http://irc.test", "M_BAD_STATUS", 502),
    ],
)
async def test_failed_ping_returns_the_reason(
    answer: Callable[[SentRequest], int], url: str | None, errcode: str, status: int
) -> None:
    error = await ping_error(answer, url)

    assert (error.errcode, error.status) == (errcode, status)


async def test_bad_status_is_returned_with_the_body() -> None:
    error = await ping_error(lambda sent: 503, "http://irc.test")

    assert (error.body()["status"], error.body()["body"]) == (503, "{}")
