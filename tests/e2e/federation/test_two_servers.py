"""Two servers that find each other, fetch each other's keys and answer signed requests over TLS."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.servers.federated import federated_servers
from tests.support.servers.http_client import HttpClient
from tests.support.servers.processes import ROOT, Cluster, Layout, free_ports

pytestmark = pytest.mark.process


@pytest.fixture(
    scope="module",
    params=["T0", pytest.param("T2", marks=[pytest.mark.postgres, pytest.mark.redis])],
)
def servers(request: pytest.FixtureRequest) -> Iterator[dict[str, Cluster]]:
    """Servers named by an IP address and by a host name; the first one in several layouts."""
    postgres, redis = None, None
    if request.param == "T2":
        postgres = request.getfixturevalue("postgres_server")
        redis = request.getfixturevalue("redis_server")
    layouts: dict[str, Layout] = {"127.0.0.1": request.param, "localhost": "T0"}
    with federated_servers(layouts, postgres, redis) as running:
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

        for process in servers[near].processes.values():
            async with HttpClient(process.port, asking.token) as client:
                found = await client.get(f"/_matrix/client/v3/directory/room/{alias}")

            assert found.status == 200, found.json
            assert found.json == {"room_id": created.json["room_id"], "servers": [far]}


def check(cluster: Cluster, name: str) -> "subprocess.CompletedProcess[str]":
    """Run `hs federation-check`."""
    (config,) = cluster.processes["main"].configs
    return subprocess.run(
        [sys.executable, "-c", "from hs.cli.main import run; run()", "federation-check",
         "-c", str(config), name],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_check_explains_a_server_that_is_well(servers: dict[str, Cluster]) -> None:
    near, far = sorted(servers)

    result = check(servers[near], far)

    assert result.returncode == 0, result.stdout + result.stderr
    host, _, port = far.partition(":")
    for finding in (
        f"address: {host} port {port} (by server name)",
        f"names: Host header {far}, certificate for {host}",
        "connection: connected",
        "version: hs ",
        "clock: agrees",
        "keys: ed25519:a_test, valid for 24.0 h",
        f"signature: it accepts requests of {near}",
    ):
        assert finding in result.stdout


def test_check_of_the_own_server_compares_the_key(servers: dict[str, Cluster]) -> None:
    near, far = sorted(servers)
    (config,) = servers[near].processes["main"].configs
    (key,) = config.parent.glob("signing.key")
    before = key.read_text()
    key.write_text(before.replace("a_test", "a_other"))
    try:
        result = check(servers[near], near)
    finally:
        key.write_text(before)

    assert result.returncode == 1
    assert "but this configuration signs with ed25519:a_other" in result.stdout
    assert far not in result.stdout


def test_check_says_which_step_fails(servers: dict[str, Cluster]) -> None:
    near, _ = sorted(servers)
    (port,) = free_ports(1)

    result = check(servers[near], f"localhost:{port}")

    assert result.returncode == 1
    assert f"address: localhost port {port}" in result.stdout
    assert "FAILED connection: " in result.stdout
