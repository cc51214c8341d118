"""Third-party invites on running servers, with an identity server on this machine."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.ledger import CLIENT, Person
from tests.support.servers.http_client import HttpClient
from tests.support.servers.identity_server import TOKEN, open_identity_server
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import Cluster, Layout, running_cluster
from tests.support.servers.redis import RedisServer
from tests.support.servers.sites import make_certificate

pytestmark = pytest.mark.process
ON_BIND = "/_matrix/federation/v1/3pid/onbind"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(
    scope="module",
    params=["T0", pytest.param("T2", marks=[pytest.mark.postgres, pytest.mark.redis])],
)
def cluster(request: pytest.FixtureRequest, certificate: Path) -> Iterator[Cluster]:
    """A server that trusts the certificate of the test and may connect to this machine."""
    layout: Layout = request.param
    postgres: PostgresServer | None = None
    redis: RedisServer | None = None
    settings: dict[str, Any] = {"ip_range_blacklist": []}
    if layout == "T2":
        postgres = request.getfixturevalue("postgres_server")
        redis = request.getfixturevalue("redis_server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(certificate))
        with running_cluster(layout, postgres, redis, **settings) as running:
            yield running


async def register_person(cluster: Cluster) -> Person:
    person = Person(cluster.ports, random.Random(7))
    await person.register(f"u{random.SystemRandom().randrange(10**9)}")
    return person


async def test_third_party_invite_becomes_membership_when_address_is_bound(
    cluster: Cluster, certificate: Path
) -> None:
    ada, bob = await register_person(cluster), await register_person(cluster)

    async with open_identity_server(certificate) as identity_server:
        address = {
            "id_server": identity_server.name,
            "id_access_token": TOKEN,
            "medium": "email",
            "address": "bob@x.test",
        }
        created = await ada.request("POST", f"{CLIENT}/createRoom", {"invite_3pid": [address]})
        room = f"{CLIENT}/rooms/{quote(created.json['room_id'])}"
        invites = [
            {"room_id": created.json["room_id"], "signed": identity_server.signed(bob.user_id)}
        ]
        for port in ada.ports:
            async with HttpClient(port) as client:
                binding = {"mxid": bob.user_id, "invites": invites}
                assert (await client.request("PUT", ON_BIND, json=binding)).status == 200
        await bob.request("POST", f"{room}/join", {})
        members = (await ada.request("GET", f"{room}/joined_members")).json["joined"]

    assert set(members) == {ada.user_id, bob.user_id}
    assert [invite["address"] for invite in identity_server.waiting] == ["bob@x.test"]


async def test_addresses_are_bound_and_unbound_on_identity_server(
    cluster: Cluster, certificate: Path
) -> None:
    ada = await register_person(cluster)

    async with open_identity_server(certificate) as identity_server:
        session = {"id_server": identity_server.name, "id_access_token": TOKEN, "sid": "good"}
        await ada.request("POST", f"{CLIENT}/account/3pid/bind", {**session, "client_secret": "s"})
        address = {"medium": "email", "address": "bob@x.test"}
        unbound = await ada.request("POST", f"{CLIENT}/account/3pid/unbind", address)
        repeated = await ada.request("POST", f"{CLIENT}/account/3pid/unbind", address)

    assert unbound.json == {"id_server_unbind_result": "success"}
    assert repeated.json == {"id_server_unbind_result": "no-support"}
    assert identity_server.unbound[0][0] == {"mxid": ada.user_id, "threepid": address}
