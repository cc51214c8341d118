"""A limit is one limit, whichever processes somebody asks."""

import math
import random
from collections.abc import Iterator
from urllib.parse import quote

import pytest
import trio

from tests.support.http_client import HttpClient
from tests.support.ledger import CLIENT, Person
from tests.support.postgres import PostgresServer
from tests.support.processes import Cluster, running_cluster
from tests.support.redis import RedisServer

pytestmark = [pytest.mark.process, pytest.mark.postgres, pytest.mark.redis]

PER_S = 4.0
BURST = 8
SECONDS = 8.0
# What all processes grant before they have heard of each other, at the most.
AT_ONCE = 3


@pytest.fixture
def cluster(postgres_server: PostgresServer, redis_server: RedisServer) -> Iterator[Cluster]:
    """A server of three processes that limits messages."""
    rate = {"per_second": PER_S, "burst_count": BURST}
    with running_cluster("T2", postgres_server, redis_server, rc_message=rate) as running:
        yield running


async def test_messages_are_limited_over_all_processes(cluster: Cluster) -> None:
    ports = [one.port for one in cluster.processes.values()]
    alice = Person(ports, random.Random(1))
    await alice.register("alice")
    made = await alice.ask("POST", f"{CLIENT}/createRoom", {"preset": "public_chat"})
    room = f"{CLIENT}/rooms/{quote(made.json['room_id'])}"
    granted = 0
    began = trio.current_time()

    async def flood(port: int) -> None:
        nonlocal granted
        number = 0
        async with HttpClient(port, alice.token) as client:
            while trio.current_time() - began < SECONDS:
                number += 1
                target = f"{room}/send/m.room.message/{port}-{number}"
                answer = await client.put(target, {"msgtype": "m.text", "body": "x"})
                assert answer.status in (200, 429), answer.body
                granted += answer.status == 200

    async with trio.open_nursery() as nursery:
        for port in ports:
            nursery.start_soon(flood, port)
    took = trio.current_time() - began

    # Each on its own would have granted three times as much.
    assert granted <= math.ceil(PER_S * took) + BURST * AT_ONCE
    assert granted >= BURST
