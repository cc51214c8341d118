"""A listener that lacks a resource says which one to add, and where."""

import logging

import attrs
import pytest

from hs.apis.web.auth import NONE
from hs.apis.web.listener_view import LOGGED_EVERY_S, STATE_KEY
from hs.apis.web.route import route
from tests.support.web import client_for

SEND = "/_matrix/federation/v1/send/1"
UPLOAD = "/_matrix/media/v3/upload"


@attrs.frozen
class SomeApi:
    """Endpoints of clients, of other servers and of other processes."""

    @route("GET", "/_matrix/client/v3/sync", auth=NONE)
    @route("GET", "/_matrix/federation/v1/send/{txn_id}", auth=NONE)
    @route("GET", "/_synapse/replication/calls", auth=NONE)
    async def respond(self) -> list[str]:
        return []


async def logged(caplog: pytest.LogCaptureFixture, resources: list[str], *paths: str) -> list[str]:
    """Return what is logged when a listener with these resources gets these requests."""
    client = client_for(SomeApi())
    client.state = {STATE_KEY: client.app.view_for(resources)}
    with caplog.at_level(logging.WARNING, logger="hs.apis.web.listener_view"):
        for path in paths:
            response = await client.get(path)
            assert (response.status, response.errcode) == (404, "M_UNRECOGNIZED")
    return [record.getMessage() for record in caplog.records]


async def test_missing_resource_is_named_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    (message,) = await logged(caplog, ["client"], SEND, SEND)

    assert LOGGED_EVERY_S == 60
    assert f"GET {SEND}: add the resource federation to the listener, which has client" in message


async def test_process_without_media_says_that_another_one_has_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    (message,) = await logged(caplog, ["client", "federation"], UPLOAD)

    assert "enable_media_repo is false in this process" in message


async def test_unknown_and_internal_paths_log_nothing(caplog: pytest.LogCaptureFixture) -> None:
    paths = ["/_matrix/federation/v9/x", "/_synapse/replication/calls", "/_matrix/client/v3/x"]

    assert await logged(caplog, ["client"], *paths) == []
