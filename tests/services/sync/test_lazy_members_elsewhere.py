"""Lazily loaded members of a device whose requests go to several processes."""

from collections.abc import AsyncIterator, Sequence
from typing import Final

import attrs
import pytest
import trio

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.requester import Requester
from hs.core.streams import EVENTS
from hs.lib.caching.lru_cache import collect_caches
from hs.services.rooms.append.drafts import Draft
from hs.services.sync import lazy_members
from hs.services.sync.lazy_members import (
    ANSWER_S,
    NOTHING_SENT,
    LazyMembers,
    RecordAnswer,
    RecordName,
    SentMember,
    SentMembers,
    split_record,
)
from hs.storage.database import Database
from tests.support.composition import SETTINGS, Neighbourhood, worker_settings
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.syncing import Syncing, keys, open_syncing

NAMES: Final = ("main", "one", "two")
NAMED: Final = Draft(event_types.NAME, ALICE, {"name": "room"}, "")
LAZY: Final = {"room": {"timeline": {"limit": 1}, "state": {"lazy_load_members": True}}}
ROOM: Final = RoomID("!room:test.example")
DEVICE: Final = Requester(ALICE, "DEVICE")


@attrs.frozen(eq=False)
class Scene:
    """Three processes, of which the first writes, and a room of Alice, Bob and Carol."""

    processes: Sequence[Syncing]
    neighbours: Neighbourhood
    room_id: RoomID

    async def send(self, sender: UserID) -> None:
        """Send a message, and wait until all processes have it."""
        world = self.processes[0].world
        await world.send(self.room_id, sender)
        for process in self.processes[1:]:
            await process.world.feed.wait_for_position(EVENTS, world.feed.position(EVENTS), 60)

    async def sync(self, process: int, since: str | None = None) -> tuple[str, set[str]]:
        """Return the token of Alice's response at a process, and the members in its state."""
        response = await self.processes[process].sync(ALICE, since, filter=LAZY)
        room = response.get("rooms", {}).get("join", {}).get(self.room_id)
        state = [] if room is None else room["state"]["events"]
        members = {key for kind, key in keys(state) if kind == event_types.MEMBER}
        return response["next_batch"], members

    def calls(self) -> int:
        """Return how often one process asked another one."""
        clusters = [process.process.base.cluster for process in self.processes]
        return sum(
            tally.count
            for cluster in clusters
            if cluster is not None
            for (method, _), tally in cluster.clients.calls.items()
            if method == "SentMemberRecords.sent_members"
        )


@pytest.fixture
async def scene(database: Database) -> AsyncIterator[Scene]:
    neighbours = Neighbourhood()
    main, second_worker, third_worker = (worker_settings(SETTINGS, name, *NAMES) for name in NAMES)
    async with (
        open_syncing(database, main, neighbours=neighbours) as first,
        open_syncing(database, second_worker, neighbours=neighbours) as second,
        open_syncing(database, third_worker, neighbours=neighbours) as third,
    ):
        room_id = await first.world.create_room(ALICE, join=[BOB, CAROL], state=[NAMED])
        scene = Scene((first, second, third), neighbours, room_id)
        await scene.send(ALICE)
        yield scene


async def test_members_are_not_repeated_by_another_process(scene: Scene) -> None:
    since, _ = await scene.sync(0)
    received: list[set[str]] = []

    for process, sender in ((1, BOB), (2, CAROL), (0, BOB), (2, BOB), (1, CAROL), (0, ALICE)):
        await scene.send(sender)
        since, members = await scene.sync(process, since)
        received.append(members)

    assert received == [{BOB}, {CAROL}, set(), set(), set(), set()]


async def test_members_of_a_lost_response_are_sent_again_by_another_process(scene: Scene) -> None:
    since, _ = await scene.sync(0)
    await scene.send(BOB)

    responses = [await scene.sync(process, since) for process in (1, 2, 1, 0)]

    assert [members for _, members in responses] == [{BOB}] * 4


async def test_record_is_fetched_once_and_not_for_polls(scene: Scene) -> None:
    since, _ = await scene.sync(0)
    for process in (1, 2, 1, 0):
        since, _ = await scene.sync(process, since)
    assert scene.calls() == 0

    for process in (0, 1, 1, 2, 1, 2, 0):
        await scene.send(ALICE)
        since, members = await scene.sync(process, since)
        assert not members

    assert scene.calls() == 2


async def test_members_are_sent_again_if_the_process_that_sent_them_is_gone(
    scene: Scene,
) -> None:
    since, _ = await scene.sync(1)
    await scene.send(BOB)
    since, _ = await scene.sync(1, since)
    scene.neighbours.sender.disconnect("one")
    await scene.send(BOB)

    began = trio.current_time()
    since, members = await scene.sync(2, since)
    assert (members, trio.current_time() - began <= ANSWER_S) == ({BOB}, True)
    await scene.send(BOB)
    _, members = await scene.sync(0, since)

    assert members == set()


async def test_process_that_does_not_answer_is_not_asked_again_at_once(scene: Scene) -> None:
    since, _ = await scene.sync(1)
    scene.neighbours.sender.disconnect("one")
    for _ in range(3):
        await scene.send(BOB)
        await scene.sync(2, since)

    assert scene.calls() == 1


async def test_process_without_an_address_asks_those_that_have_one(database: Database) -> None:
    neighbours = Neighbourhood()
    main, second_worker = (worker_settings(SETTINGS, name, "main", "one") for name in NAMES[:2])
    workers = attrs.evolve(main.workers, name="another")
    async with (
        open_syncing(database, main, neighbours=neighbours) as first,
        open_syncing(database, second_worker, neighbours=neighbours) as second,
        open_syncing(
            database, attrs.evolve(main, workers=workers), neighbours=neighbours
        ) as without_address,
    ):
        room_id = await first.world.create_room(ALICE, join=[BOB, CAROL], state=[NAMED])
        scene = Scene((first, second, without_address), neighbours, room_id)
        await scene.send(ALICE)
        since, _ = await scene.sync(0)
        received: list[set[str]] = []
        for process, sender in ((0, BOB), (2, BOB), (2, CAROL), (1, CAROL)):
            await scene.send(sender)
            since, members = await scene.sync(process, since)
            received.append(members)

    # The last one cannot be asked for: nobody can call the process that sent the others.
    assert received == [{BOB}, set(), {CAROL}, {CAROL}]
    assert scene.calls() == 1


@pytest.mark.parametrize("record", ["7.1", "2.1", "9999.ffff", "1.", "x", "1.1_m2.2"])
async def test_forged_record_has_no_members(scene: Scene, record: str) -> None:
    since, _ = await scene.sync(1)
    await scene.send(BOB)

    _, members = await scene.sync(0, f"{split_record(since)[0]}_m{record}")

    assert members == {BOB}


async def test_record_of_another_device_is_not_told(scene: Scene) -> None:
    since, _ = await scene.sync(1)
    await scene.send(BOB)
    since, _ = await scene.sync(1, since)
    await scene.send(BOB)

    other = await scene.processes[0].sync(ALICE, since, filter=LAZY, device_id="OTHER")

    state = other["rooms"]["join"][scene.room_id]["state"]["events"]
    assert (event_types.MEMBER, BOB) in keys(state)


def member(number: int, event: str = "$e") -> SentMember:
    return ROOM, UserID(f"@u{number}:test.example"), EventID(f"{event}{number}")


@attrs.define(eq=False)
class Records:
    """Two processes that ask each other, and what was answered."""

    first: LazyMembers = attrs.field(init=False)
    second: LazyMembers = attrs.field(init=False)
    answers: list[RecordAnswer | None] = attrs.Factory(list)

    def __attrs_post_init__(self) -> None:
        self.first = LazyMembers(0, lambda number: self)
        self.second = LazyMembers(1, lambda number: self)

    async def sent_members(
        self, user_id: UserID, device_id: str | None, name: str, known: list[str]
    ) -> RecordAnswer | None:
        """Answer with the records of the process that made the record."""
        made_by = (self.first, self.second)[int(name.split(".")[0])]
        answer = await made_by.sent_members(user_id, device_id, name, known)
        self.answers.append(answer)
        return answer

    async def move(self, record: SentMembers, to: LazyMembers) -> SentMembers:
        """Return a record as another process gets it."""
        assert record.name is not None
        return await to.find(DEVICE, record.name)


def sizes(records: Records) -> list[int]:
    return [
        sum(map(len, answer.members.values())) for answer in records.answers if answer is not None
    ]


async def test_only_what_the_asking_process_lacks_is_transferred() -> None:
    records = Records()
    record = records.first.add(DEVICE, NOTHING_SENT, [member(n) for n in range(100)])
    record = await records.move(record, records.second)
    record = records.second.add(DEVICE, record, [member(100), member(5, "$new")])
    record = records.second.add(DEVICE, record, [member(101)])

    record = await records.move(record, records.first)

    assert sizes(records) == [100, 3]
    assert record.count == 102
    assert record.has(*member(5, "$new"))
    assert not record.has(*member(5))


async def test_record_of_a_lost_response_is_not_taken_for_one_that_was_added_to() -> None:
    records = Records()
    record = records.first.add(DEVICE, NOTHING_SENT, [member(0)])
    lost = records.first.add(DEVICE, record, [member(1)])
    at_second = await records.move(record, records.second)
    at_second = records.second.add(DEVICE, at_second, [member(2)])

    moved = await records.move(at_second, records.first)

    assert moved.parent == record.name != lost.name
    assert not moved.has(*member(1))
    assert moved.has(*member(0))
    assert moved.has(*member(2))


async def test_answers_and_records_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy_members, "MAX_MEMBERS_PER_ANSWER", 10)
    monkeypatch.setattr(lazy_members, "MAX_MEMBERS_PER_DEVICE", 20)
    records = Records()
    record = records.first.add(DEVICE, NOTHING_SENT, [member(n) for n in range(15)])

    moved = await records.move(record, records.second)
    full = records.first.add(DEVICE, record, [member(n) for n in range(15, 25)])
    whole = records.first.add(DEVICE, full, [member(n) for n in range(100, 200)])

    assert (moved.count, full.count, whole.count) == (10, 10, 20)
    assert full.parent is None
    assert full.has(*member(24))


def test_records_of_a_device_weigh_what_they_do_not_share() -> None:
    with collect_caches() as caches:
        records = LazyMembers()
    (cache,) = caches
    first = [member(n) for n in range(100)]

    record = records.add(DEVICE, NOTHING_SENT, first)
    for number in range(100, 104):
        record = records.add(DEVICE, record, [member(number)])
    of_a_polling_device = cache.weight
    for _ in range(3):
        records.add(DEVICE, NOTHING_SENT, first)

    assert 100 < of_a_polling_device < 120
    assert cache.weight - of_a_polling_device >= 300


async def test_record_of_the_last_token_outlives_repeated_requests() -> None:
    records = LazyMembers()
    record = records.add(DEVICE, NOTHING_SENT, [member(0)])
    for _ in range(50):
        records.add(DEVICE, record, [member(1)])

    assert record.name is not None
    assert await records.find(DEVICE, record.name) is record


async def test_unknown_record_of_this_process_is_empty() -> None:
    records = LazyMembers()

    found = await records.find(DEVICE, RecordName(0, 17))

    assert found is NOTHING_SENT
