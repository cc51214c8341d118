"""Runs people who send and read messages while their server fails, and compares what they saw."""

import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence

import trio

from hs.storage.rooms.stored_pdus import expand_pdu
from tests.support.ledger import (
    CLIENT,
    Ledger,
    Person,
    Reader,
    faults_of,
    send_to_devices_until,
    send_until,
)
from tests.support.servers.postgres import PostgresServer

PEOPLE = 4
ROOMS = 2
CATCH_UP_S = 240.0
ENOUGH = 60
"""Messages without which a run proves nothing; a slow machine runs longer to reach them."""


async def send_and_read(
    ports: Sequence[int], rng: random.Random, cause_failures: Callable[[Ledger], Awaitable[None]]
) -> tuple[Ledger, list[Reader]]:
    """Send and read messages while failures are caused, until all that was sent is read."""
    people = [Person(list(ports), random.Random(rng.random())) for _ in range(PEOPLE)]
    for number, person in enumerate(people):
        await person.register(f"person{number}")
    rooms = []
    for _ in range(ROOMS):
        created = await people[0].request("POST", f"{CLIENT}/createRoom", {"preset": "public_chat"})
        rooms.append(str(created.json["room_id"]))
        for person in people[1:]:
            await person.request("POST", f"{CLIENT}/join/{rooms[-1]}", {})
    ledger, readers = Ledger(), [Reader(person) for person in people]
    enough = trio.Event()
    async with trio.open_nursery() as nursery:
        for number, (person, reader) in enumerate(zip(people, readers, strict=True)):
            nursery.start_soon(reader.read_until, enough)
            receiver = people[(number + 1) % PEOPLE].user_id
            nursery.start_soon(send_to_devices_until, enough, person, receiver, ledger)
            for room_id in rooms:
                nursery.start_soon(send_until, enough, person, room_id, ledger)
        await cause_failures(ledger)
        with trio.fail_after(CATCH_UP_S):
            while not _is_enough(ledger, readers):  # noqa: ASYNC110 - many counters
                await trio.sleep(0.1)
        enough.set()
    with trio.fail_after(CATCH_UP_S):
        async with trio.open_nursery() as nursery:
            for reader in readers:
                inbox = ledger.to_devices.get(reader.person.user_id, set())
                nursery.start_soon(reader.catch_up, set(ledger.acknowledged.values()), inbox)
    return ledger, readers


def _is_enough(ledger: Ledger, readers: list[Reader]) -> bool:
    return len(ledger.acknowledged) >= ENOUGH and any(reader.gaps for reader in readers)


def stored_in_postgres(postgres: PostgresServer, database: str) -> Counter[str]:
    """Count the messages in the database by text."""
    statement = "SELECT encode(pdu, 'hex') FROM events WHERE type = 'm.room.message'"
    lines = postgres.psql(statement, database=database).splitlines()
    return texts_in(map(bytes.fromhex, lines))


def texts_in(pdus: Iterable[bytes]) -> Counter[str]:
    """Count the messages by text."""
    return Counter(json.loads(expand_pdu(pdu))["content"]["body"] for pdu in pdus)


def differences(ledger: Ledger, readers: list[Reader], stored: Counter[str]) -> list[str]:
    """Return what is lost, doubled or out of order, in the database or at a reader."""
    faults = [f"{text} is stored {count} times" for text, count in stored.items() if count != 1]
    faults += [f"{text} is lost" for text in ledger.acknowledged if text not in stored]
    for reader in readers:
        faults += faults_of(reader, ledger)
    return faults
