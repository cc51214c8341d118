"""To-device messages and one-time keys with two writers, through three processes."""

from collections.abc import AsyncIterator

import attrs
import pytest

from hs.core.ids import UserID
from hs.core.streams import TO_DEVICE
from hs.storage.database import Database
from tests.support.composition import SETTINGS, Neighbourhood, worker_settings
from tests.support.devices import Process, one_time_keys, open_devices
from tests.support.rooms import ALICE

WRITERS = ("one", "two")
NAMES = ("main", *WRITERS)


@attrs.frozen(eq=False)
class Inboxes:
    """The processes, and a user whose inbox each of the two writers has."""

    processes: tuple[Process, ...]
    users: dict[str, UserID]

    @property
    def main(self) -> Process:
        """The process that writes no inboxes."""
        return self.processes[0]


def owned_users(process: Process) -> dict[str, UserID]:
    """Return a user of each writer."""
    owner_of = process.world.process.base.ownership.owner
    users = [UserID(f"@user{n}:test.example") for n in range(100)]
    return {owner_of(TO_DEVICE, user_id): user_id for user_id in users}


@pytest.fixture
async def inboxes(database: Database) -> AsyncIterator[Inboxes]:
    """Three processes, of which two share out the inboxes."""
    neighbours = Neighbourhood()
    main, first_writer, second_writer = (
        worker_settings(SETTINGS, name, *NAMES, to_device=WRITERS) for name in NAMES
    )
    async with (
        open_devices(database, main, neighbours) as first,
        open_devices(database, first_writer, neighbours) as second,
        open_devices(database, second_writer, neighbours) as third,
    ):
        yield Inboxes((first, second, third), owned_users(first))


def bodies_in(response: dict[str, dict[str, list[dict[str, dict[str, str]]]]]) -> list[str]:
    """Return the bodies of the messages of a response."""
    events = response.get("to_device", {}).get("events", [])
    return [event["content"]["body"] for event in events]


async def test_each_device_gets_each_message_once_and_in_order(inboxes: Inboxes) -> None:
    sender = await inboxes.main.device(ALICE, "SENDER")
    tokens = {}
    for user_id in inboxes.users.values():
        await inboxes.main.device(user_id, "PHONE")
        tokens[user_id] = (await inboxes.main.sync(user_id, "PHONE"))["next_batch"]
    received: dict[UserID, list[str]] = {user_id: [] for user_id in tokens}

    for number in range(9):
        process = inboxes.processes[number % 3]
        message = {"PHONE": {"body": str(number)}}
        await process.send(sender, f"t{number}", dict.fromkeys(tokens, message))
        # The request is repeated, through another process.
        reader = inboxes.processes[(number + 1) % 3]
        await reader.send(sender, f"t{number}", dict.fromkeys(tokens, message))
        for user_id in tokens:
            response = await reader.sync(user_id, "PHONE", tokens[user_id], timeout_ms=5_000)
            received[user_id] += bodies_in(response)
            tokens[user_id] = response["next_batch"]

    for user_id, since in tokens.items():
        for _ in range(2):
            response = await inboxes.main.sync(user_id, "PHONE", since)
            received[user_id] += bodies_in(response)
            since = response["next_batch"]
    assert received == {user_id: [str(number) for number in range(9)] for user_id in tokens}


async def test_messages_to_all_devices_are_stored_by_two_writers(inboxes: Inboxes) -> None:
    sender = await inboxes.main.device(ALICE, "SENDER")
    devices = [f"PHONE{n}" for n in range(12)]
    for user_id in inboxes.users.values():
        for device_id in devices:
            await inboxes.main.device(user_id, device_id)

    await inboxes.main.send(
        sender, "t", {user_id: {"*": {"body": "hi"}} for user_id in inboxes.users.values()}
    )

    for process in inboxes.processes:
        for user_id in inboxes.users.values():
            responses = [await process.sync(user_id, each) for each in devices]
            assert [bodies_in(response) for response in responses] == [["hi"]] * len(devices)


async def test_keys_of_users_of_both_writers_are_claimed_once(inboxes: Inboxes) -> None:
    claimer = await inboxes.main.device(ALICE, "SENDER")
    for user_id in inboxes.users.values():
        token = await inboxes.processes[1].device(user_id, "PHONE")
        await inboxes.processes[2].upload(token, one_time_keys=one_time_keys(1, 2))
    request = {user_id: {"PHONE": "signed_curve25519"} for user_id in inboxes.users.values()}

    claimed: list[set[str]] = []
    for process in inboxes.processes:
        response = await process.client.post(
            "/_matrix/client/v3/keys/claim", {"one_time_keys": request}, token=claimer
        )
        keys = response.json["one_time_keys"]
        claimed += [set(keys.get(user_id, {}).get("PHONE", {})) for user_id in request]

    first, second = {"signed_curve25519:0001"}, {"signed_curve25519:0002"}
    assert claimed == [first, first, second, second, set(), set()]


async def test_messages_from_before_a_writer_was_added_are_delivered_once(
    database: Database,
) -> None:
    single = worker_settings(SETTINGS, "main", *NAMES)
    async with open_devices(database, single, Neighbourhood()) as before:
        sender = await before.device(ALICE, "SENDER")
        users = [UserID(f"@user{n}:test.example") for n in range(12)]
        tokens = {}
        for user_id in users:
            await before.device(user_id, "PHONE")
            tokens[user_id] = (await before.sync(user_id, "PHONE"))["next_batch"]
        # Enough for a bundle.
        await before.send(sender, "t1", {each: {"PHONE": {"body": "1"}} for each in users})

    neighbours = Neighbourhood()
    main, own, two = (worker_settings(SETTINGS, name, *NAMES, to_device=WRITERS) for name in NAMES)
    async with (
        open_devices(database, main, neighbours) as first,
        open_devices(database, own, neighbours) as second,
        open_devices(database, two, neighbours) as third,
    ):
        await first.send(sender, "t2", {each: {"PHONE": {"body": "2"}} for each in users})
        await second.filer.unpack(2**62)
        received: dict[UserID, list[str]] = {}
        for user_id in users:
            since, bodies = tokens[user_id], []
            for process in (third, first, second):
                response = await process.sync(user_id, "PHONE", since)
                bodies += bodies_in(response)
                since = response["next_batch"]
            received[user_id] = bodies

    assert received == {user_id: ["1", "2"] for user_id in users}


async def test_request_that_two_writers_stored_in_part_is_completed_by_an_only_writer(
    database: Database,
) -> None:
    users = [UserID(f"@user{n}:test.example") for n in range(12)]
    messages = {each: {"PHONE": {"body": "1"}} for each in users}
    neighbours = Neighbourhood()
    main, own, two = (worker_settings(SETTINGS, name, *NAMES, to_device=WRITERS) for name in NAMES)
    async with (
        open_devices(database, main, neighbours) as first,
        open_devices(database, own, neighbours),
        open_devices(database, two, neighbours),
    ):
        sender = await first.device(ALICE, "SENDER")
        for user_id in users:
            await first.device(user_id, "PHONE")
        # As if what is stored for the other users had failed.
        await first.send(sender, "t1", {each: messages[each] for each in users[:6]})

    single = worker_settings(SETTINGS, "main", *NAMES)
    async with open_devices(database, single, Neighbourhood()) as after:
        for _ in range(2):
            await after.send(sender, "t1", messages)
        received = [bodies_in(await after.sync(user_id, "PHONE")) for user_id in users]

    assert received == [["1"]] * len(users)
