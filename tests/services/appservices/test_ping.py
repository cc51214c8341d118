"""What a service is told that asks to be pinged and is not reached."""

from collections.abc import Callable

import pytest

from hs.core.errors import MatrixError
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.lib.http_client import TimedOut
from hs.repl.feed import Feed
from hs.repl.inproc import alone
from hs.repl.memory_writer import MemoryWriter
from hs.repl.streams import CACHES
from hs.services.appservices.appservice_client import ServiceCalls
from hs.services.appservices.appservice_registry import ServiceRegistry
from hs.services.appservices.ping import ServicePing
from tests.support.appservices import Sent, Services, registration
from tests.support.rooms import SERVER

IRC = Requester(UserID(f"@ircbot:{SERVER}"), appservice_id="irc")


def slow(sent: Sent) -> int:
    raise TimedOut("no answer in 30 s")


async def refused(answer: Callable[[Sent], int], url: str | None) -> MatrixError:
    """Give the error of a ping."""
    caches = MemoryWriter(CACHES, "main", alone(Feed()), 0)
    registry = ServiceRegistry([registration(url=url)], SERVER)
    ping = ServicePing(registry, ServiceCalls(Services(answer=answer), False), caches)
    with pytest.raises(MatrixError) as refusal:
        await ping.ping(IRC, "irc", "t1")
    return refusal.value


@pytest.mark.parametrize(
    ("answer", "url", "errcode", "status"),
    [
        (lambda sent: 200, None, "M_URL_NOT_SET", 400),
        (lambda sent: 0, "http://irc.test", "M_CONNECTION_FAILED", 502),
        (slow, "http://irc.test", "M_CONNECTION_TIMEOUT", 504),
        (lambda sent: 503, "http://irc.test", "M_BAD_STATUS", 502),
    ],
)
async def test_a_service_that_is_not_reached_is_told_why(
    answer: Callable[[Sent], int], url: str | None, errcode: str, status: int
) -> None:
    error = await refused(answer, url)

    assert (error.errcode, error.status) == (errcode, status)


async def test_a_bad_status_is_told_with_the_body() -> None:
    error = await refused(lambda sent: 503, "http://irc.test")

    assert (error.body()["status"], error.body()["body"]) == (503, "{}")
