"""Work that must be done exactly once, although several processes are asked and some are killed.

HS_RACES is the number of messages that the long test sends.
"""

import logging
import os
import random
from collections.abc import Callable, Iterator
from urllib.parse import quote

import attrs
import pytest
import trio

from hs.services.devices.inbox_writer import MIN_BUNDLED
from tests.support.ledger import CLIENT, Person
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.processes import Cluster, ServerProcess, running_large_cluster
from tests.support.servers.redis import RedisServer

pytestmark = [pytest.mark.process, pytest.mark.postgres, pytest.mark.redis]

KEYS = 100
SENDERS = 4
FEW_MESSAGES = 60
MANY_MESSAGES = int(os.environ.get("HS_RACES", "1000"))
LIMIT_S = 1200.0


@pytest.fixture
def cluster(postgres_server: PostgresServer, redis_server: RedisServer) -> Iterator[Cluster]:
    """A server of four processes."""
    with running_large_cluster(["sync2"], postgres_server, redis_server) as running:
        yield running


def persons_of(cluster: Cluster, count: int) -> list[Person]:
    """Return unregistered persons who use all processes."""
    ports = cluster.ports
    return [Person(ports, random.Random(number)) for number in range(count)]


async def device_id_of(person: Person) -> str:
    """Return the device ID of a person."""
    who = await person.request("GET", f"{CLIENT}/account/whoami")
    return str(who.json["device_id"])


async def test_each_one_time_key_is_claimed_once(cluster: Cluster) -> None:
    owner, *claimers = persons_of(cluster, 1 + SENDERS)
    await owner.register("owner")
    for number, claimer in enumerate(claimers):
        await claimer.register(f"claimer{number}")
        # Each claims through another process.
        claimer.ports = [claimer.ports[number]]
    device_id = await device_id_of(owner)
    keys = {f"signed_curve25519:{n}": {"key": str(n), "signatures": {}} for n in range(KEYS)}
    await owner.request("POST", f"{CLIENT}/keys/upload", {"one_time_keys": keys})
    query = {"one_time_keys": {owner.user_id: {device_id: "signed_curve25519"}}}
    claimed: list[str] = []

    async def claim(person: Person) -> None:
        answer = await person.request("POST", f"{CLIENT}/keys/claim", query)
        claimed.extend(answer.json["one_time_keys"][owner.user_id][device_id])

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            for number in range(KEYS):
                nursery.start_soon(claim, claimers[number % SENDERS])

    assert sorted(claimed) == sorted(keys)


@pytest.mark.parametrize("version", ["11", "12"])
async def test_concurrent_upgrades_create_one_replacement_room(
    cluster: Cluster, version: str
) -> None:
    (admin,) = persons_of(cluster, 1)
    await admin.register(f"admin{version}")
    answer = await admin.request("POST", f"{CLIENT}/createRoom", {})
    room_id = answer.json["room_id"]
    replacements: set[str] = set()

    async def upgrade(port: int) -> None:
        person = attrs.evolve(admin, ports=[port])
        upgrade_request = {"new_version": version}
        answer = await person.request(
            "POST", f"{CLIENT}/rooms/{quote(room_id)}/upgrade", upgrade_request
        )
        replacements.add(answer.json["replacement_room"])

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            for port in admin.ports:
                nursery.start_soon(upgrade, port)
        rooms = (await admin.request("GET", f"{CLIENT}/joined_rooms")).json["joined_rooms"]

    assert len(replacements) == 1
    assert set(rooms) == {room_id, *replacements}


@attrs.define
class Inbox:
    """The to-device messages that one device received."""

    owner: Person
    since: str = ""
    arrived: list[tuple[str, int]] = attrs.Factory(list)

    async def receive(self, total: int) -> None:
        """Sync until all messages have arrived."""
        while len(self.arrived) < total:
            await self.sync()
        # A duplicate would arrive in the next sync.
        await self.sync()

    async def sync(self) -> None:
        """Sync once and store the messages."""
        since = f"&since={self.since}" if self.since else ""
        answer = await self.owner.request("GET", f"{CLIENT}/sync?timeout=1000{since}")
        self.since = answer.json["next_batch"]
        for event in answer.json.get("to_device", {}).get("events", []):
            self.arrived.append((event["content"]["from"], event["content"]["number"]))


@attrs.define
class ToDeviceMessages:
    """Messages to all devices of a user, sent in portions."""

    user_id: str
    total: int
    allowed: int = 0
    more: trio.Event = attrs.Factory(trio.Event)

    def allow(self, fraction: float) -> None:
        """Allow each sender to send this fraction of its messages."""
        self.allowed = int(fraction * self.total // SENDERS)
        self.more.set()
        self.more = trio.Event()

    async def send(self, sender: Person) -> None:
        """Send numbered messages one after another, as far as allowed."""
        for number in range(self.total // SENDERS):
            while number >= self.allowed:
                await self.more.wait()
            content = {"from": sender.user_id, "number": number}
            body = {"messages": {self.user_id: {"*": content}}}
            await sender.request("PUT", f"{CLIENT}/sendToDevice/m.test/t{number}", body)


async def inboxes_of(owner: Person) -> list[Inbox]:
    """Log in enough devices that the server stores a message to all of them as one bundle."""
    inboxes = [Inbox(owner)]
    identifier = {"type": "m.id.user", "user": owner.user_id}
    login = {"type": "m.login.password", "identifier": identifier, "password": "p"}
    while len(inboxes) < MIN_BUNDLED:
        answer = await owner.request("POST", f"{CLIENT}/login", login)
        inboxes.append(Inbox(attrs.evolve(owner, token=answer.json["access_token"])))
    return inboxes


Failures = list[tuple[ServerProcess, Callable[[], object]]]


def failures_of(cluster: Cluster, rng: random.Random) -> Failures:
    """Return every process twice, once to stop and once to kill, in random order."""
    failures: Failures = [
        (process, end)
        for process in cluster.processes.values()
        for end in (process.stop, process.kill)
    ]
    rng.shuffle(failures)
    return failures


async def restart_processes(messages: ToDeviceMessages, failures: Failures) -> None:
    """Stop or kill processes in turn and restart them, while messages are sent."""
    for number, (process, end) in enumerate(failures, 1):
        messages.allow(number / len(failures))
        await trio.to_thread.run_sync(end)
        await trio.to_thread.run_sync(process.start)


async def check_to_device_over_restarts(cluster: Cluster, total: int, failures: Failures) -> None:
    """Send to-device messages during failures; each must arrive once and in order.

    The first device syncs meanwhile, the other devices at the end.
    """
    receiver, *senders = persons_of(cluster, 1 + SENDERS)
    await receiver.register("receiver")
    for number, sender in enumerate(senders):
        await sender.register(f"sender{number}")
    messages = ToDeviceMessages(receiver.user_id, total)
    first, *other_inboxes = inboxes = await inboxes_of(receiver)

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(restart_processes, messages, failures)
            nursery.start_soon(first.receive, total)
            for sender in senders:
                nursery.start_soon(messages.send, sender)
        for inbox in other_inboxes:
            await inbox.receive(total)

    summary = f"{len(first.arrived)} messages arrived during {len(failures)} failures"
    logging.getLogger(__name__).info(summary)
    for inbox in inboxes:
        for sender in senders:
            numbers = [number for user_id, number in inbox.arrived if user_id == sender.user_id]
            assert numbers == list(range(total // SENDERS)), cluster.logs()


async def test_to_device_messages_arrive_once_despite_restarts(cluster: Cluster) -> None:
    await check_to_device_over_restarts(
        cluster, FEW_MESSAGES, failures_of(cluster, random.Random(FEW_MESSAGES))[:2]
    )


@pytest.mark.long
async def test_many_to_device_messages_arrive_once_despite_restarts(cluster: Cluster) -> None:
    await check_to_device_over_restarts(
        cluster, MANY_MESSAGES, failures_of(cluster, random.Random(MANY_MESSAGES))
    )
