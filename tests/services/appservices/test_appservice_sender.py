"""Application services receive each event of interest once and in order."""

import random
import re
from collections.abc import Callable

import orjson
import pytest

from hs.core.ids import RoomID, UserID
from hs.core.streams import CACHES
from hs.repl.feed import Batch
from hs.services.appservices.transactions import UNSTABLE_TO_DEVICE
from hs.services.appservices.waiting_events import ReadElsewhere
from hs.settings.sections.appservices import AppserviceNamespace, AppserviceNamespaces
from hs.storage.accounts import users
from hs.storage.accounts.users import UserRecord
from hs.storage.appservices import transactions as storage
from hs.storage.database import Database, Tx
from hs.storage.devices import devices, to_device
from hs.storage.directory import room_directory
from tests.support.appservices import (
    GHOST,
    OTHER_GHOST,
    SENDER,
    SentRequest,
    open_sending,
    registration,
)
from tests.support.composition import SERVER, open_process
from tests.support.rooms import ALICE, BOB, World

OPERATIONS = 60


async def test_events_are_sent_while_a_user_of_the_service_is_joined(database: Database) -> None:
    async with open_sending(database) as sending:
        world = sending.world
        room_id = await world.create_room(ALICE)
        await world.send(room_id, ALICE, "before")
        join_event = await world.join(room_id, GHOST)
        event = await world.send(room_id, ALICE, "while")
        leave_event = await world.leave(room_id, GHOST)
        await world.send(room_id, ALICE, "after")
        second_join = await world.join(room_id, GHOST)
        await sending.services.until(lambda: second_join.event_id in sending.services.events())

        expected = [join_event, event, leave_event, second_join]
        assert sending.services.events() == [event.event_id for event in expected]


async def test_unannounced_alias_is_known_after_a_gap(database: Database) -> None:
    async with open_sending(database) as sending:
        world = sending.world
        room_id = await world.create_room(ALICE)
        await world.send(room_id, ALICE, "before")
        alias = f"#_irc_kitchen:{SERVER}"
        await database.write(room_directory.add_alias, alias, room_id, ALICE, 0, 0)
        world.feed.deliver(Batch(CACHES, "another process", 0, 1, [], reset=True))

        event = await world.send(room_id, ALICE, "after")
        await sending.services.until(sending.services.events)

        assert sending.services.events() == [event.event_id]


async def test_replaced_process_adds_no_waiting_events(database: Database) -> None:
    with pytest.RaisesGroup(ReadElsewhere, flatten_subgroups=True):
        async with open_sending(database) as sending:
            world = sending.world
            room_id = await world.create_room(ALICE, join=[GHOST])
            first = await world.send(room_id, ALICE, "first")
            await sending.services.until(lambda: first.event_id in sending.services.events())
            await database.write(
                storage.set_positions, storage.ALL_SERVICES, [(storage.EVENTS, "900")]
            )

            await world.send(room_id, ALICE, "read by another process")
            await sending.over()

    assert await database.read(storage.list_pending, "irc", 10) == []
    assert (await database.read(storage.positions, storage.ALL_SERVICES))[storage.EVENTS] == "900"


async def test_changes_while_catching_up_are_handled_in_order(
    database: Database,
) -> None:
    async with open_sending(database) as sending:
        world, services = sending.world, sending.services
        room_id = await world.create_room(ALICE, join=[GHOST])
        await services.until(lambda: len(services.events()) == 1)
        await sending.end()
        missed_join = await world.join(room_id, OTHER_GHOST)
        leave_events = [await world.leave(room_id, OTHER_GHOST)]

        async def leave_and_talk() -> None:
            leave_events.append(await world.leave(room_id, GHOST))
            await world.send(room_id, ALICE, "nobody of the service is here")

        sending.database.meanwhile = leave_and_talk
        sending.begin()
        await services.until(lambda: len(services.events()) >= 4)
        second_join = await world.join(room_id, GHOST)
        await services.until(lambda: second_join.event_id in services.events())

        expected = [missed_join, *leave_events, second_join]
        assert services.events()[1:] == [event.event_id for event in expected]


async def test_services_receive_only_their_events(database: Database) -> None:
    async with open_sending(database, registration(), registration("sms")) as sending:
        world = sending.world
        room_id = await world.create_room(ALICE, join=[GHOST])
        other_id = await world.create_room(BOB, join=[UserID(f"@_sms_1:{SERVER}")])
        first = await world.send(room_id, ALICE, "to irc")
        second = await world.send(other_id, BOB, "to sms")
        services = sending.services
        await services.until(lambda: second.event_id in services.events("sms"))
        await services.until(lambda: first.event_id in services.events())

        assert first.event_id not in services.events("sms")
        assert second.event_id not in services.events()


async def test_transaction_is_repeated_verbatim_if_its_response_is_lost(
    database: Database,
) -> None:
    async with open_sending(database) as sending:
        world, services = sending.world, sending.services
        room_id = await world.create_room(ALICE, join=[GHOST])
        await services.until(lambda: len(services.events()) == 1)
        services.answer = lambda sent: None
        event = await world.send(room_id, ALICE, "once")
        await services.until(lambda: event.event_id in services.events())
        await sending.end()
        await world.send(room_id, ALICE, "later")

        services.answer = lambda sent: 200
        sending.begin()
        await services.until(lambda: len(services.events()) == 3)

        transactions = [
            (url, body) for url, body in services.taken if event.event_id.encode() in body
        ]
        assert len(transactions) == 2
        assert transactions[0] == transactions[1]


async def test_waiting_events_are_sent_in_large_transactions(database: Database) -> None:
    async with open_sending(database) as sending:
        world, services = sending.world, sending.services
        room_id = await world.create_room(ALICE, join=[GHOST])
        await services.until(lambda: len(services.events()) == 1)
        services.answer = lambda sent: 0
        for n in range(250):
            await world.send(room_id, ALICE, f"event {n}")
        services.answer = lambda sent: 200
        await services.until(lambda: len(services.events()) == 251)

        sizes = [len(body["events"]) for body in services.transactions().values()]
        assert max(sizes) <= 100
        assert len(sizes) <= 6


async def test_data_of_a_removed_service_is_deleted(database: Database) -> None:
    async with open_sending(database) as sending:
        world, services = sending.world, sending.services
        services.answer = lambda sent: 0
        room_id = await world.create_room(ALICE, join=[GHOST])
        await services.until(lambda: services.sent)
        await sending.end()
        await world.send(room_id, ALICE, "missed")
    async with open_process(database) as process:
        await process.run_duty(SENDER)

    assert await database.read(storage.unconfirmed_transaction, "irc") is None
    assert await database.read(storage.list_pending, "irc", 10) == []
    assert await database.read(storage.positions, storage.ALL_SERVICES) == {}


async def test_requests_carry_the_token_in_a_header(database: Database) -> None:
    async with open_sending(database) as sending:
        await sending.world.create_room(ALICE, join=[GHOST])
        await sending.services.until(lambda: sending.services.sent)

        sent = sending.services.sent[0]
        assert sent.method == "PUT"
        assert sent.url.startswith("http://irc.test/_matrix/app/v1/transactions/")
        assert "access_token" not in sent.url
        assert sent.headers["authorization"] == "Bearer hs-irc"
        assert orjson.loads(sent.body or b"")["events"][0]["state_key"] == GHOST


@pytest.mark.parametrize("seed", range(4))
async def test_each_event_is_sent_once_and_in_order(database: Database, seed: int) -> None:
    """Compare with a model, with restarts at any time and failing responses."""
    rng = random.Random(seed)
    expected: list[str] = []
    async with open_sending(database) as sending:
        world, services = sending.world, sending.services
        rooms = [await world.create_room(ALICE) for _ in range(3)]
        joined_users: dict[RoomID, set[UserID]] = {room_id: set() for room_id in rooms}
        running = True
        for n in range(OPERATIONS):
            room_id = rng.choice(rooms)
            action = rng.random()
            if action < 0.15:
                running = not running
                if running:
                    sending.begin()
                else:
                    await sending.end()
            elif action < 0.25:
                services.answer = _then_succeed(rng.choices([200, 500, 0, None], k=3))
            elif action < 0.5:
                expected.append(
                    await _toggle_membership(world, room_id, rng, joined_users[room_id])
                )
            else:
                event = await world.send(room_id, ALICE, f"event {n}")
                if joined_users[room_id]:
                    expected.append(event.event_id)
        services.answer = lambda sent: 200
        if running:
            await sending.end()
        sending.begin()
        await services.until(lambda: len(services.events()) >= len(expected))

        assert services.events() == expected
        assert len({*services.taken}) == len(services.transactions())


def _then_succeed(statuses: list[int | None]) -> Callable[[SentRequest], int | None]:
    return lambda sent: statuses.pop() if statuses else 200


async def _toggle_membership(
    world: World, room_id: RoomID, rng: random.Random, joined_users: set[UserID]
) -> str:
    """Make a user of the service join or leave; both events are of interest."""
    user_id = rng.choice([GHOST, OTHER_GHOST])
    if user_id in joined_users:
        joined_users.remove(user_id)
        return (await world.leave(room_id, user_id)).event_id
    joined_users.add(user_id)
    return (await world.join(room_id, user_id)).event_id


async def test_messages_of_shared_users_are_not_sent_to_the_service(database: Database) -> None:
    all_users = AppserviceNamespaces(users=(AppserviceNamespace(re.compile(".*"), False),))
    service = registration(namespaces=all_users, receives_encryption=True)
    for number, (user_id, appservice_id) in enumerate([(ALICE, None), (GHOST, "irc")], 1):
        record = UserRecord(user_id, None, 0, appservice_id=appservice_id)
        await database.write(users.insert_user, record)
        await database.write(store_message, user_id, number)
    async with open_sending(database, service) as sending:
        await sending.services.until(sending.services.transactions)
        await sending.world.create_room(ALICE)
        await sending.services.until(lambda: len(sending.services.transactions()) > 1)

        recipients = [
            message["to_user_id"]
            for body in sending.services.transactions().values()
            for message in body.get(UNSTABLE_TO_DEVICE, ())
        ]
        assert recipients == [GHOST]
        assert len(await database.read(to_device.pending_messages, ALICE, "PHONE", 0, 100, 10)) == 1
        assert await database.read(to_device.pending_messages, GHOST, "PHONE", 0, 100, 10) == []


async def store_message(tx: Tx, user_id: UserID, number: int) -> None:
    await devices.ensure(tx, user_id, "PHONE", None, 0)
    inbox = (await to_device.inboxes_of_users(tx, [user_id]))[user_id]["PHONE"]
    message = orjson.dumps({"type": "m.room.encrypted", "sender": BOB, "content": {}})
    await to_device.add_messages(tx, number, [inbox], [message])
