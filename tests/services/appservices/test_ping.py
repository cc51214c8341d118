"""The errors of pings to services that cannot be reached."""

from collections.abc import Callable

import pytest

from hs.lib.http_client import HttpTimedOut
from hs.storage.database import Database
from tests.support.appservices import FakeServices, SentRequest, registration, settings_with
from tests.support.composition import open_process
from tests.support.web import WebResponse

pytestmark = pytest.mark.parametrize("engine", ["inline"], indirect=True)

PING = "/_matrix/client/v1/appservice/irc/ping"


def time_out(sent: SentRequest) -> int:
    raise HttpTimedOut("no answer in 30 s")


async def ping(
    database: Database, answer: Callable[[SentRequest], int], url: str | None
) -> WebResponse:
    """Return the response to a service that asks to be pinged."""
    settings = settings_with(registration(url=url))
    async with open_process(database, settings, http=FakeServices(answer=answer)) as process:
        return await process.client().post(PING, {"transaction_id": "t1"}, token="as-irc")


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
    database: Database,
    answer: Callable[[SentRequest], int],
    url: str | None,
    errcode: str,
    status: int,
) -> None:
    response = await ping(database, answer, url)

    assert (response.errcode, response.status) == (errcode, status)


async def test_bad_status_is_returned_with_the_body(database: Database) -> None:
    response = await ping(database, lambda sent: 503, "http://irc.test")

    assert (response.json["status"], response.json["body"]) == (503, "{}")
