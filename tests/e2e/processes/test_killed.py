"""A server that is repeatedly killed under load loses and duplicates no acknowledged message.

Senders record every acknowledged message in a ledger. A request without a response is repeated with
the same transaction ID, as clients do.
"""

import logging
import random

import attrs
import pytest
import trio

from tests.support.servers.http_client import ConnectionLost, HttpClient
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import Layout, ServerProcess, running_cluster

pytestmark = pytest.mark.process

ROOMS = 3
SENDERS = 12
RETRY_S = 0.05
MAX_LOAD_S = 0.4  # from the first response after a start to the kill
REPEATED = 0.1  # the fraction of acknowledged requests that are sent once more
REPEATED_BACK = 20  # messages at most; the server remembers a device's last thousand
PAGE = 500
CLIENT = "/_matrix/client/v3"


@attrs.define
class Ledger:
    """The acknowledged messages: the event ID that the server returned for each text."""

    acknowledged: dict[str, str] = attrs.Factory(dict)
    answered: trio.Event = attrs.Factory(trio.Event)
    sent: int = 0

    def record(self, text: str, event_id: str) -> None:
        """Record a response; a repeated request must get the same event ID."""
        assert self.acknowledged.setdefault(text, event_id) == event_id, text
        self.answered.set()


@attrs.define
class Sender:
    """A device that sends numbered messages to one room."""

    name: str
    room_id: str
    client: HttpClient
    ledger: Ledger
    rng: random.Random

    async def run(self) -> None:
        """Send messages until cancelled."""
        number = 0
        async with self.client:
            while True:
                number += 1
                await self.send(f"{self.name}.{number}")
                if self.rng.random() < REPEATED:
                    again = self.rng.randint(max(1, number - REPEATED_BACK), number)
                    await self.send(f"{self.name}.{again}")

    async def send(self, text: str) -> None:
        """Send a message and repeat the request until it is acknowledged."""
        path = f"{CLIENT}/rooms/{self.room_id}/send/m.room.message/{text}"
        self.ledger.sent += 1
        while True:
            try:
                answer = await self.client.put(path, {"msgtype": "m.text", "body": text})
            except ConnectionLost:
                await trio.sleep(RETRY_S)
                continue
            if answer.status == 200:
                self.ledger.record(text, answer.json["event_id"])
                return
            # The server is starting or could not commit, and asks to retry.
            assert answer.status == 503, answer.body
            await trio.sleep(RETRY_S)


async def sign_up(port: int) -> HttpClient:
    """Register an account; return a client with its access token."""
    client = HttpClient(port)
    account = {"username": "alice", "password": "a long password"}
    answer = await client.post(f"{CLIENT}/register", {**account, "auth": {"type": "m.login.dummy"}})
    assert answer.status == 200, answer.body
    client.token = answer.json["access_token"]
    return client


async def read_room(client: HttpClient, room_id: str) -> list[tuple[str, str]]:
    """Return (text, event ID) of all messages in a room, oldest first."""
    messages: list[tuple[str, str]] = []
    start = ""
    while True:
        page = await client.get(f"{CLIENT}/rooms/{room_id}/messages?dir=f&limit={PAGE}{start}")
        assert page.status == 200, page.body
        messages.extend(
            (event["content"]["body"], event["event_id"])
            for event in page.json["chunk"]
            if event["type"] == "m.room.message"
        )
        if "end" not in page.json:
            return messages
        start = f"&from={page.json['end']}"


async def kill_repeatedly(server: ServerProcess, kills: int, rng: random.Random) -> Ledger:
    """Kill a server under load at random moments, then compare its rooms with the ledger."""
    ledger = Ledger()
    client = await sign_up(server.port)
    rooms = []
    for _ in range(ROOMS):
        created = await client.post(f"{CLIENT}/createRoom", {"preset": "public_chat"})
        rooms.append(str(created.json["room_id"]))
    async with trio.open_nursery() as nursery:
        for number in range(SENDERS):
            device = HttpClient(server.port, client.token)
            sender = Sender(f"s{number}", rooms[number % ROOMS], device, ledger, rng)
            nursery.start_soon(sender.run)
        for _ in range(kills):
            ledger.answered = trio.Event()
            await ledger.answered.wait()
            await trio.sleep(rng.uniform(0, MAX_LOAD_S))
            await trio.to_thread.run_sync(server.kill)
            await trio.to_thread.run_sync(server.start)
        nursery.cancel_scope.cancel()
    await client.aclose()
    written = [entry for room_id in rooms for entry in await read_room(client, room_id)]
    await client.aclose()
    texts = [text for text, _ in written]
    assert len(texts) == len(set(texts)), "duplicated"
    assert ledger.acknowledged.items() <= dict(written).items(), "lost"
    return ledger


def run_scenario(layout: Layout, postgres: PostgresServer | None, kills: int, seed: int) -> None:
    """Run the scenario on a new server."""
    with running_cluster(layout, postgres, None) as cluster:
        server = cluster.processes["main"]
        ledger = trio.run(kill_repeatedly, server, kills, random.Random(seed))
        summary = (
            f"seed {seed}: {len(ledger.acknowledged)} messages acknowledged over {kills} kills"
        )
        logging.getLogger(__name__).info(summary)
        assert len(ledger.acknowledged) > kills


@pytest.fixture(
    params=[
        pytest.param("T0", marks=pytest.mark.long),  # as test_ledger.py
        pytest.param("T1", marks=pytest.mark.postgres),
    ]
)
def layout(request: pytest.FixtureRequest) -> Layout:
    """A server of one process, with SQLite and with PostgreSQL."""
    chosen: Layout = request.param
    return chosen


@pytest.fixture
def postgres(layout: Layout, request: pytest.FixtureRequest) -> PostgresServer | None:
    """The PostgreSQL server, if the layout needs one."""
    if layout == "T0":
        return None
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server


def test_no_message_is_lost_by_three_kills(layout: Layout, postgres: PostgresServer | None) -> None:
    run_scenario(layout, postgres, kills=3, seed=1)


@pytest.mark.long
def test_no_message_is_lost_by_sixty_kills(layout: Layout, postgres: PostgresServer | None) -> None:
    run_scenario(layout, postgres, kills=60, seed=2)
