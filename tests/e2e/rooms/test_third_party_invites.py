"""Invites by address on running servers, with an identity server that listens on this machine."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.http_client import HttpClient
from tests.support.identity_server import TOKEN, open_identity_server
from tests.support.ledger import CLIENT, Person
from tests.support.postgres import PostgresServer
from tests.support.processes import Cluster, Layout, running_cluster
from tests.support.redis import RedisServer
from tests.support.sites import make_certificate

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
    """A server that trusts the test's certificate and may contact this machine."""
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


async def person_of(cluster: Cluster) -> Person:
    person = Person([one.port for one in cluster.processes.values()], random.Random(7))
    await person.register(f"u{random.SystemRandom().randrange(10**9)}")
    return person


async def test_an_address_becomes_a_member(cluster: Cluster, certificate: Path) -> None:
    ada, bob = await person_of(cluster), await person_of(cluster)

    async with open_identity_server(certificate) as there:
        address = {
            "id_server": there.name,
            "id_access_token": TOKEN,
            "medium": "email",
            "address": "bob@x.test",
        }
        made = await ada.ask("POST", f"{CLIENT}/createRoom", {"invite_3pid": [address]})
        room = f"{CLIENT}/rooms/{quote(made.json['room_id'])}"
        invites = [{"room_id": made.json["room_id"], "signed": there.signed(bob.user_id)}]
        for port in ada.ports:
            async with HttpClient(port) as anybody:
                told = {"mxid": bob.user_id, "invites": invites}
                assert (await anybody.ask("PUT", ON_BIND, json=told)).status == 200
        await bob.ask("POST", f"{room}/join", {})
        members = (await ada.ask("GET", f"{room}/joined_members")).json["joined"]

    assert set(members) == {ada.user_id, bob.user_id}
    assert [one["address"] for one in there.waiting] == ["bob@x.test"]


async def test_addresses_are_published_and_withdrawn(cluster: Cluster, certificate: Path) -> None:
    ada = await person_of(cluster)

    async with open_identity_server(certificate) as there:
        session = {"id_server": there.name, "id_access_token": TOKEN, "sid": "good"}
        await ada.ask("POST", f"{CLIENT}/account/3pid/bind", {**session, "client_secret": "s"})
        address = {"medium": "email", "address": "bob@x.test"}
        done = await ada.ask("POST", f"{CLIENT}/account/3pid/unbind", address)
        again = await ada.ask("POST", f"{CLIENT}/account/3pid/unbind", address)

    assert done.json == {"id_server_unbind_result": "success"}
    assert again.json == {"id_server_unbind_result": "no-support"}
    assert there.unbound[0][0] == {"mxid": ada.user_id, "threepid": address}
