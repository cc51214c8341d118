"""Profiles of users of other servers, and of our users for other servers."""

from typing import Any

import attrs
import pytest

from hs.core.errors import Forbidden, NotFound, RemoteFault
from hs.core.ids import ServerName, UserID
from hs.lib.clock import FixedClock
from hs.services.federation.users.federated_profiles import MAX_AGE_MS
from hs.storage.database import Database
from tests.support.composition import SETTINGS
from tests.support.devices import Process
from tests.support.federation import (
    FederatedServer,
    PeerNetwork,
    ScriptedPeer,
    open_server,
    open_servers,
)

NEAR, FAR = ServerName("near.example"), ServerName("far.example")
ANN, BEN = UserID("@ann:near.example"), UserID("@ben:far.example")
PROFILE = f"/_matrix/client/v3/profile/{BEN}"
QUERY = "GET /_matrix/federation/v1/query/profile"


async def set_profile(server: FederatedServer, user_id: UserID, **fields: Any) -> None:
    token = await Process(server.world, server.web()).device(user_id, "PHONE")
    for name, value in fields.items():
        path = f"/_matrix/client/v3/profile/{user_id}/{name}"
        response = await server.web().put(path, {name: value}, token=token)
        assert response.status == 200, response.body


async def test_profile_of_a_user_of_another_server_is_shown() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        await set_profile(far, BEN, displayname="Ben", **{"com.example.pet": "cat"})

        whole = await near.web().get(PROFILE)
        name = await near.web().get(f"{PROFILE}/displayname")
        avatar = await near.web().get(f"{PROFILE}/avatar_url")
        absent = await near.web().get(f"{PROFILE}/com.example.none")

    assert whole.json == {"displayname": "Ben", "com.example.pet": "cat"}
    assert name.json == {"displayname": "Ben"}
    assert avatar.json == {}
    assert (absent.status, absent.errcode) == (404, "M_NOT_FOUND")


async def test_answers_are_kept_for_a_minute_and_failures_are_not() -> None:
    clock = FixedClock()
    async with open_servers(NEAR, clock=clock) as (near,):
        peer = ScriptedPeer(FAR, near.network)
        peer.responses[QUERY] = (502, {})
        failed = await near.web().get(PROFILE)
        peer.responses[QUERY] = (404, {"errcode": "M_NOT_FOUND", "error": "none"})
        unknown = [await near.web().get(PROFILE) for _ in range(2)]
        clock.advance(MAX_AGE_MS)
        peer.responses[QUERY] = (200, {"displayname": 7, "avatar_url": None, "a.b": [1]})
        known = [await near.web().get(PROFILE) for _ in range(2)]

    assert failed.status == 502
    assert [response.status for response in unknown] == [404, 404]
    assert [response.json for response in known] == [{"a.b": [1]}, {"a.b": [1]}]
    assert len(peer.received) == 3


async def test_too_large_profile_is_an_error_of_that_server() -> None:
    async with open_servers(NEAR) as (near,):
        peer = ScriptedPeer(FAR, near.network)
        peer.responses[QUERY] = (200, {"displayname": "x" * 200_000})
        response = await near.web().get(PROFILE)

    assert response.status == 502


async def test_refusal_of_the_other_server_reaches_the_client() -> None:
    async with open_servers(NEAR) as (near,):
        peer = ScriptedPeer(FAR, near.network)
        peer.responses[QUERY] = (403, {"errcode": "M_FORBIDDEN", "error": "no"})
        profiles = near.process.services.core.accounts.profiles
        with pytest.raises(Forbidden):
            await profiles.get(BEN)


@pytest.mark.parametrize("user_id", ["@ben:near.example", "@nobody:far.example"])
async def test_profiles_of_unknown_users_are_not_found(user_id: str) -> None:
    async with open_servers(NEAR, FAR) as (near, _):
        with pytest.raises(RemoteFault) as caught:
            await near.client.get(FAR, QUERY.partition(" ")[2], {"user_id": user_id})

    assert isinstance(caught.value.error, NotFound)


async def test_profiles_are_hidden_by_the_setting(database: Database) -> None:
    network = PeerNetwork()
    federation = attrs.evolve(SETTINGS.federation, allow_profile_lookup_over_federation=False)
    settings = attrs.evolve(SETTINGS, federation=federation)
    async with open_server(FAR, network, database, settings=settings) as far:
        await set_profile(far, BEN, displayname="Ben")
        peer = ScriptedPeer(NEAR, network)
        with pytest.raises(RemoteFault) as caught:
            await peer.client.get(FAR, QUERY.partition(" ")[2], {"user_id": BEN})

    assert isinstance(caught.value.error, Forbidden)
