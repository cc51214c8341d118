"""A running server with the settings of automatic work: retention, notices, accepted invites."""

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import pytest
import trio

from tests.support.servers.http_client import HttpClient
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import Cluster, Layout, running_cluster
from tests.support.servers.redis import RedisServer
from tests.support.web import WebResponse

pytestmark = pytest.mark.process

SETTINGS: dict[str, Any] = {
    "retention": {"enabled": True, "default_policy": {"max_lifetime": "1y"}},
    "redaction_retention_period": "1s",
    "forgotten_room_retention_period": "1d",
    "forget_rooms_on_leave": True,
    "delete_stale_devices_after": "1y",
    "auto_accept_invites": {"enabled": True},
    "server_notices": {"system_mxid_localpart": "notices"},
    "room_prejoin_state": {"additional_event_types": ["m.room.pinned_events"]},
}
WAIT_S = 60.0


@pytest.fixture(
    scope="module",
    params=[
        "T0",
        pytest.param("T2", marks=[pytest.mark.postgres, pytest.mark.redis]),
    ],
)
def server(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    layout: Layout = request.param
    postgres: PostgresServer | None = None
    redis: RedisServer | None = None
    if layout == "T2":
        postgres = request.getfixturevalue("postgres_server")
        redis = request.getfixturevalue("redis_server")
    with running_cluster(layout, postgres, redis, **SETTINGS) as running:
        yield running


async def test_invites_are_accepted_and_left_rooms_are_forgotten(server: Cluster) -> None:
    ports = cycle(server.ports)
    alice = (await _register(ports, "alice")).json["access_token"]
    bob = (await _register(ports, "bob")).json["access_token"]

    configuration = await _request(
        ports, alice, "GET", "unstable/org.matrix.msc1763/retention/configuration"
    )
    assert configuration.json == {"policies": {"*": {"max_lifetime": 31_536_000_000}}, "limits": {}}
    # The server registers the sender of server notices while it starts.
    with trio.fail_after(WAIT_S):
        while (registration := await _register(ports, "notices")).errcode != "M_USER_IN_USE":
            assert registration.status == 401
            await trio.sleep(0.2)

    invite = ["@bob:hs.test"]
    room = await _request(ports, alice, "POST", "v3/createRoom", {"invite": invite})
    room_id = room.json["room_id"]
    with trio.fail_after(WAIT_S):
        while True:
            if room_id in await _joined(ports, bob):
                break
            await trio.sleep(0.1)
    await _request(ports, bob, "POST", f"v3/rooms/{room_id}/leave", {})
    with trio.fail_after(WAIT_S):
        # A user who has forgotten a room cannot read it.
        while True:
            if (
                await _request(ports, bob, "GET", f"v3/rooms/{room_id}/messages?dir=b")
            ).status == 403:
                break
            await trio.sleep(0.1)


async def _joined(ports: Iterator[int], token: str) -> list[str]:
    rooms: list[str] = (await _request(ports, token, "GET", "v3/joined_rooms")).json["joined_rooms"]
    return rooms


async def _register(ports: Iterator[int], name: str) -> WebResponse:
    auth = {"auth": {"type": "m.login.dummy"}} if name != "notices" else {}
    return await _request(
        ports, "", "POST", "v3/register", {"username": name, "password": "correct horse", **auth}
    )


async def _request(
    ports: Iterator[int], token: str, method: str, path: str, body: Any = None
) -> WebResponse:
    async with HttpClient(next(ports)) as client:
        client.token = token or None
        return await client.request(method, f"/_matrix/client/{path}", json=body)


async def test_disabled_server_rejects_registrations_with_admin_contact() -> None:
    with running_cluster("T0", None, None, hs_disabled=True, admin_contact="mailto:a@b") as server:
        ports = cycle([int(server.urls[0].rpartition(":")[2])])
        refused = await _register(ports, "alice")

    assert (refused.status, refused.errcode) == (403, "M_RESOURCE_LIMIT_EXCEEDED")
    assert refused.json["admin_contact"] == "mailto:a@b"
    assert refused.json["limit_type"] == "hs_disabled"
