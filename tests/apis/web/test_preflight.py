"""Preflight requests of browsers."""

from tests.support.web import client_for


async def test_browser_may_remember_a_preflight_for_a_day() -> None:
    client = client_for()

    preflight = await client.request("OPTIONS", "/_matrix/client/v3/sync")
    response = await client.get("/_matrix/client/v3/sync")

    assert (preflight.status, preflight.body) == (204, b"")
    assert preflight.headers["access-control-max-age"] == "86400"
    assert "access-control-max-age" not in response.headers
