"""Two servers that find each other, fetch each other's keys and answer signed requests over TLS."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.servers.federated import federated_servers
from tests.support.servers.http_client import HttpClient
from tests.support.servers.processes import Cluster

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Cluster]]:
    """Servers named by an IP address and by a host name."""
    with federated_servers({"127.0.0.1": "T0", "localhost": "T0"}) as running:
        yield running


async def registered(cluster: Cluster, name: str) -> HttpClient:
    """Return a client of a new user."""
    client = HttpClient(cluster.processes["main"].port)
    body: dict[str, Any] = {"username": name, "password": f"{name} 12345678"}
    body["auth"] = {"type": "m.login.dummy"}
    response = await client.post("/_matrix/client/v3/register", body)
    assert response.status == 200, response.json
    client.token = response.json["access_token"]
    return client


@pytest.mark.parametrize("asks_first", [True, False])
async def test_alias_of_another_server_is_found(
    servers: dict[str, Cluster], asks_first: bool
) -> None:
    (near, far) = sorted(servers, reverse=asks_first)
    async with (
        await registered(servers[near], f"asking{asks_first}".lower()) as asking,
        await registered(servers[far], f"naming{asks_first}".lower()) as naming,
    ):
        created = await naming.post("/_matrix/client/v3/createRoom", {"room_alias_name": "tea"})
        alias = quote(f"#tea:{far}", safe="")

        found = await asking.get(f"/_matrix/client/v3/directory/room/{alias}")

    assert found.status == 200, found.json
    assert found.json == {"room_id": created.json["room_id"], "servers": [far]}
