"""What must happen exactly once, asked of several processes at once, some of which end meanwhile.

HS_RACES sets how many messages the long version sends.
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
from tests.support.postgres import PostgresServer
from tests.support.processes import Cluster, ServerProcess, running_large_cluster
from tests.support.redis import RedisServer

pytestmark = [pytest.mark.process, pytest.mark.postgres, pytest.mark.redis]

KEYS = 100
SENDERS = 4
SHORT = 60
LONG = int(os.environ.get("HS_RACES", "1000"))
LIMIT_S = 1200.0


@pytest.fixture
def cluster(postgres_server: PostgresServer, redis_server: RedisServer) -> Iterator[Cluster]:
    """A server of four processes."""
    with running_large_cluster(["sync2"], postgres_server, redis_server) as running:
        yield running


def people(cluster: Cluster, count: int) -> list[Person]:
    """Make people, each of whom may be at any process."""
    ports = [one.port for one in cluster.processes.values()]
    return [Person(ports, random.Random(number)) for number in range(count)]


async def device_of(person: Person) -> str:
    """Give the device that a person uses."""
    who = await person.ask("GET", f"{CLIENT}/account/whoami")
    return str(who.json["device_id"])


async def test_each_one_time_key_is_given_once(cluster: Cluster) -> None:
    owner, *claimers = people(cluster, 1 + SENDERS)
    await owner.register("owner")
    for number, one in enumerate(claimers):
        await one.register(f"claimer{number}")
        # Each at a process of its own.
        one.ports = [one.ports[number]]
    device_id = await device_of(owner)
    keys = {f"signed_curve25519:{n}": {"key": str(n), "signatures": {}} for n in range(KEYS)}
    await owner.ask("POST", f"{CLIENT}/keys/upload", {"one_time_keys": keys})
    wish = {"one_time_keys": {owner.user_id: {device_id: "signed_curve25519"}}}
    given: list[str] = []

    async def claim(person: Person) -> None:
        answer = await person.ask("POST", f"{CLIENT}/keys/claim", wish)
        given.extend(answer.json["one_time_keys"][owner.user_id][device_id])

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            for number in range(KEYS):
                nursery.start_soon(claim, claimers[number % SENDERS])

    assert sorted(given) == sorted(keys)


@pytest.mark.parametrize("version", ["11", "12"])
async def test_a_room_upgraded_through_all_processes_at_once_is_replaced_by_one(
    cluster: Cluster, version: str
) -> None:
    (admin,) = people(cluster, 1)
    await admin.register(f"admin{version}")
    answer = await admin.ask("POST", f"{CLIENT}/createRoom", {})
    room_id = answer.json["room_id"]
    given: set[str] = set()

    async def upgrade(port: int) -> None:
        person = attrs.evolve(admin, ports=[port])
        wish = {"new_version": version}
        answer = await person.ask("POST", f"{CLIENT}/rooms/{quote(room_id)}/upgrade", wish)
        given.add(answer.json["replacement_room"])

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            for port in admin.ports:
                nursery.start_soon(upgrade, port)
        rooms = (await admin.ask("GET", f"{CLIENT}/joined_rooms")).json["joined_rooms"]

    assert len(given) == 1
    assert set(rooms) == {room_id, *given}


@attrs.define
class Mailbox:
    """What arrived at a device."""

    owner: Person
    since: str = ""
    arrived: list[tuple[str, int]] = attrs.Factory(list)

    async def receive(self, total: int) -> None:
        """Sync until everything is here."""
        while len(self.arrived) < total:
            await self.sync()
        # And nothing after it.
        await self.sync()

    async def sync(self) -> None:
        """Sync once."""
        since = f"&since={self.since}" if self.since else ""
        answer = await self.owner.ask("GET", f"{CLIENT}/sync?timeout=1000{since}")
        self.since = answer.json["next_batch"]
        for event in answer.json.get("to_device", {}).get("events", []):
            self.arrived.append((event["content"]["from"], event["content"]["number"]))


@attrs.define
class Letters:
    """Messages to all devices of a user; senders go on when they may."""

    user_id: str
    total: int
    allowed: int = 0
    more: trio.Event = attrs.Factory(trio.Event)

    def allow(self, part: float) -> None:
        """Let each sender go on until this part of its messages is sent."""
        self.allowed = int(part * self.total // SENDERS)
        self.more.set()
        self.more = trio.Event()

    async def send(self, sender: Person) -> None:
        """Send numbered messages, one after the other."""
        for number in range(self.total // SENDERS):
            while number >= self.allowed:
                await self.more.wait()
            content = {"from": sender.user_id, "number": number}
            body = {"messages": {self.user_id: {"*": content}}}
            await sender.ask("PUT", f"{CLIENT}/sendToDevice/m.test/t{number}", body)


async def mailboxes_of(owner: Person) -> list[Mailbox]:
    """Log in so many devices that what is sent to all of them lies together at first."""
    found = [Mailbox(owner)]
    identifier = {"type": "m.id.user", "user": owner.user_id}
    login = {"type": "m.login.password", "identifier": identifier, "password": "p"}
    while len(found) < MIN_BUNDLED:
        answer = await owner.ask("POST", f"{CLIENT}/login", login)
        found.append(Mailbox(attrs.evolve(owner, token=answer.json["access_token"])))
    return found


Ends = list[tuple[ServerProcess, Callable[[], object]]]


def ends_of(cluster: Cluster, rng: random.Random) -> Ends:
    """List every process twice, to be ended in order and as a power cut would."""
    ends: Ends = [(one, how) for one in cluster.processes.values() for how in (one.stop, one.kill)]
    rng.shuffle(ends)
    return ends


async def restart(letters: Letters, ends: Ends) -> None:
    """End processes in turn and start them again, while messages are sent."""
    for number, (process, end) in enumerate(ends, 1):
        letters.allow(number / len(ends))
        await trio.to_thread.run_sync(end)
        await trio.to_thread.run_sync(process.start)


async def letters_over_restarts(cluster: Cluster, total: int, ends: Ends) -> None:
    """Send messages to devices while processes end; each must arrive once, and in order.

    One of the devices syncs meanwhile, the others when all is over.
    """
    receiver, *senders = people(cluster, 1 + SENDERS)
    await receiver.register("receiver")
    for number, one in enumerate(senders):
        await one.register(f"sender{number}")
    letters = Letters(receiver.user_id, total)
    first, *others = mailboxes = await mailboxes_of(receiver)

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as everything:
            everything.start_soon(restart, letters, ends)
            everything.start_soon(first.receive, total)
            for one in senders:
                everything.start_soon(letters.send, one)
        for mailbox in others:
            await mailbox.receive(total)

    told = f"{len(first.arrived)} messages arrived, {len(ends)} times a process was ended"
    logging.getLogger(__name__).info(told)
    for mailbox in mailboxes:
        for one in senders:
            numbers = [number for sender, number in mailbox.arrived if sender == one.user_id]
            assert numbers == list(range(total // SENDERS)), cluster.logs()


async def test_messages_to_devices_arrive_once_over_restarts(cluster: Cluster) -> None:
    await letters_over_restarts(cluster, SHORT, ends_of(cluster, random.Random(SHORT))[:2])


@pytest.mark.long
async def test_many_messages_to_devices_arrive_once_over_restarts(cluster: Cluster) -> None:
    await letters_over_restarts(cluster, LONG, ends_of(cluster, random.Random(LONG)))
