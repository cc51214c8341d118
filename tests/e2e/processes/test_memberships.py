"""Memberships change through random processes of a server, each request right after another."""

import random
from typing import Final
from urllib.parse import quote

import pytest

from tests.support.ledger import CLIENT, Person
from tests.support.membership_outcomes import OUTCOMES, request_of
from tests.support.servers.http_client import HttpClient
from tests.support.servers.processes import Cluster

pytestmark = pytest.mark.process

SEED: Final = 20_261_130
PAIRS: Final = 60
MANY_PAIRS: Final = 2_000


async def check_pairs(cluster: Cluster, pairs: int) -> None:
    """Send pairs of requests, and read the membership after each pair."""
    rng = random.Random(SEED)
    ports = cluster.ports
    users = {name: Person(ports, rng) for name in ("alice", "bob")}
    for name, user in users.items():
        await user.register(f"{name}{pairs}")
    bob = users["bob"].user_id
    created = await users["alice"].request(
        "POST", f"{CLIENT}/createRoom", {"preset": "public_chat"}
    )
    room_id = created.json["room_id"]
    membership: str | None = None
    for _ in range(pairs):
        actions = rng.choices(list(OUTCOMES), k=2)
        for action in actions:
            before, (status, membership) = membership, OUTCOMES[action](membership)
            method, path, content, name = request_of(action, room_id, bob)
            async with HttpClient(rng.choice(ports), users[name].token) as client:
                answer = await client.request(method, path, json=content)
            assert answer.status == status, (action, before, answer.body, cluster.logs())
        async with HttpClient(rng.choice(ports), users["alice"].token) as client:
            path = f"{CLIENT}/rooms/{quote(room_id)}/state/m.room.member/{quote(bob)}"
            answer = await client.request("GET", path)
        found = answer.json["membership"] if answer.status == 200 else None
        assert found == membership, (actions, cluster.logs())


async def test_membership_changes_through_random_processes(cluster: Cluster) -> None:
    await check_pairs(cluster, PAIRS)


@pytest.mark.long
async def test_many_membership_changes_through_random_processes(cluster: Cluster) -> None:
    await check_pairs(cluster, MANY_PAIRS)
