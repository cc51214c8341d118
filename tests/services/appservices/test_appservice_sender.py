"""Application services get each event of interest once, in order, whatever happens."""

import random
import re
from collections.abc import Callable

import orjson
import pytest

from hs.core.ids import RoomID, UserID
from hs.repl.feed import Batch
from hs.repl.streams import CACHES
from hs.services.appservices.appservice_sender import ReadElsewhere
from hs.services.appservices.transactions import OLD_TO_DEVICE
from hs.settings.sections.appservices import Namespace, Namespaces
from hs.storage.accounts import users
from hs.storage.accounts.users import UserRecord
from hs.storage.appservices import transactions as storage
from hs.storage.database import Database, Tx
from hs.storage.devices import devices, to_device
from hs.storage.directory import room_directory
from tests.support.appservices import GHOST, OTHER_GHOST, Sent, open_sending, registration
from tests.support.rooms import ALICE, BOB, SERVER, World

OPERATIONS = 60


async def test_events_come_while_a_user_of_the_service_is_there(database: Database) -> None:
    async with open_sending(database) as sending:
        world = sending.world
        room_id = await world.create_room(ALICE)
        await world.send(room_id, ALICE, "before")
        joined = await world.join(room_id, GHOST)
        heard = await world.send(room_id, ALICE, "while")
        left = await world.leave(room_id, GHOST)
        await world.send(room_id, ALICE, "after")
        again = await world.join(room_id, GHOST)
        await sending.services.until(lambda: again.event_id in sending.services.events())

        wanted = [joined, heard, left, again]
        assert sending.services.events() == [one.event_id for one in wanted]


async def test_an_alias_that_was_not_told_of_is_known_after_the_gap(database: Database) -> None:
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


async def test_who_finds_that_another_process_reads_has_nothing_wait(database: Database) -> None:
    with pytest.RaisesGroup(ReadElsewhere, flatten_subgroups=True):
        async with open_sending(database) as sending:
            world = sending.world
            room_id = await world.create_room(ALICE, join=[GHOST])
            first = await world.send(room_id, ALICE, "first")
            await sending.services.until(lambda: first.event_id in sending.services.events())
            await database.write(storage.set_positions, storage.ALL, [(storage.EVENTS, "900")])

            await world.send(room_id, ALICE, "read by another process")
            await sending.over()

    assert await database.read(storage.first_waiting, "irc", 10) == []
    assert (await database.read(storage.positions, storage.ALL))[storage.EVENTS] == "900"


async def test_what_happens_while_the_past_is_read_is_read_as_it_happens(
    database: Database,
) -> None:
    async with open_sending(database) as sending:
        world, services = sending.world, sending.services
        room_id = await world.create_room(ALICE, join=[GHOST])
        await services.until(lambda: len(services.events()) == 1)
        await sending.end()
        missed = await world.join(room_id, OTHER_GHOST)
        gone = [await world.leave(room_id, OTHER_GHOST)]

        async def leave_and_talk() -> None:
            gone.append(await world.leave(room_id, GHOST))
            await world.send(room_id, ALICE, "nobody of the service is here")

        sending.meanwhile = leave_and_talk
        sending.begin()
        await services.until(lambda: len(services.events()) >= 4)
        back = await world.join(room_id, GHOST)
        await services.until(lambda: back.event_id in services.events())

        wanted = [missed, *gone, back]
        assert services.events()[1:] == [one.event_id for one in wanted]


async def test_services_get_what_is_theirs(database: Database) -> None:
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


async def test_a_transaction_whose_answer_is_lost_comes_again_word_for_word(
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

        holding = [(url, body) for url, body in services.taken if event.event_id.encode() in body]
        assert len(holding) == 2
        assert holding[0] == holding[1]


async def test_what_waits_comes_in_large_transactions(database: Database) -> None:
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


async def test_a_service_that_is_no_more_is_forgotten(database: Database) -> None:
    async with open_sending(database) as sending:
        world, services = sending.world, sending.services
        services.answer = lambda sent: 0
        room_id = await world.create_room(ALICE, join=[GHOST])
        await services.until(lambda: services.sent)
        await sending.end()
        await world.send(room_id, ALICE, "missed")

        sending.registrations = []
        sending.begin()
        await sending.over()

        assert await database.read(storage.transaction, "irc") is None
        assert await database.read(storage.first_waiting, "irc", 10) == []
        assert await database.read(storage.positions, storage.ALL) == {}


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
async def test_each_event_comes_once_in_order(database: Database, seed: int) -> None:
    """Compare with who was where: over ends and starts at any time, and failing answers."""
    rng = random.Random(seed)
    wanted: list[str] = []
    async with open_sending(database) as sending:
        world, services = sending.world, sending.services
        rooms = [await world.create_room(ALICE) for _ in range(3)]
        there: dict[RoomID, set[UserID]] = {room_id: set() for room_id in rooms}
        running = True
        for n in range(OPERATIONS):
            room_id = rng.choice(rooms)
            chance = rng.random()
            if chance < 0.15:
                running = not running
                if running:
                    sending.begin()
                else:
                    await sending.end()
            elif chance < 0.25:
                services.answer = _then_well(rng.choices([200, 500, 0, None], k=3))
            elif chance < 0.5:
                wanted.append(await _move(world, room_id, rng, there[room_id]))
            else:
                event = await world.send(room_id, ALICE, f"event {n}")
                if there[room_id]:
                    wanted.append(event.event_id)
        services.answer = lambda sent: 200
        if running:
            await sending.end()
        sending.begin()
        await services.until(lambda: len(services.events()) >= len(wanted))

        assert services.events() == wanted
        assert len({*services.taken}) == len(services.transactions())


def _then_well(statuses: list[int | None]) -> Callable[[Sent], int | None]:
    return lambda sent: statuses.pop() if statuses else 200


async def _move(world: World, room_id: RoomID, rng: random.Random, there: set[UserID]) -> str:
    """Have a user of the service join or leave; both are of interest, whoever else is there."""
    user_id = rng.choice([GHOST, OTHER_GHOST])
    if user_id in there:
        there.remove(user_id)
        return (await world.leave(room_id, user_id)).event_id
    there.add(user_id)
    return (await world.join(room_id, user_id)).event_id


async def test_who_is_only_shared_with_a_service_keeps_their_messages(database: Database) -> None:
    everybody = Namespaces(users=(Namespace(re.compile(".*"), False),))
    service = registration(namespaces=everybody, receives_encryption=True)
    for number, (user_id, made_by) in enumerate([(ALICE, None), (GHOST, "irc")], 1):
        record = UserRecord(user_id, None, 0, appservice_id=made_by)
        await database.write(users.insert_user, record)
        await database.write(leave_message, user_id, number)
    async with open_sending(database, service) as sending:
        await sending.services.until(sending.services.transactions)
        await sending.world.create_room(ALICE)
        await sending.services.until(lambda: len(sending.services.transactions()) > 1)

        sent = [
            one["to_user_id"]
            for body in sending.services.transactions().values()
            for one in body.get(OLD_TO_DEVICE, ())
        ]
        assert sent == [GHOST]
        assert len(await database.read(to_device.pending, ALICE, "PHONE", 0, 100, 10)) == 1
        assert await database.read(to_device.pending, GHOST, "PHONE", 0, 100, 10) == []


async def leave_message(tx: Tx, user_id: UserID, number: int) -> None:
    await devices.ensure(tx, user_id, "PHONE", None, 0)
    inbox = (await to_device.devices(tx, [user_id]))[user_id]["PHONE"]
    message = orjson.dumps({"type": "m.room.encrypted", "sender": BOB, "content": {}})
    await to_device.add(tx, number, [inbox], [message])
