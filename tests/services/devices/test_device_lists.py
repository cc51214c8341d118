"""Whose devices changed, who came into sight, who went out of it."""

import random
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hs.core.ids import RoomID, UserID
from hs.core.tokens import SyncToken
from hs.repl.inproc import InProcHub
from hs.repl.ownership import Topology
from hs.repl.streams import DEVICE_LISTS, EVENTS
from hs.services.devices.device_list_writer import NewSignature
from hs.services.rooms.append.event_builder import random_opaque
from hs.services.sync.sliding.request import ExtensionAsked, ExtensionsAsked
from hs.storage.database import Database
from tests.support.devices import V3, Process, make_process, open_devices, plain_keys
from tests.support.rooms import ALICE, BOB, CAROL, make_world

Told = tuple[list[str], list[str]]


@pytest.fixture
async def token(server: Process) -> str:
    """Alice's phone."""
    return await server.device(ALICE, "PHONE")


async def position(server: Process) -> str:
    answer = await server.sync(ALICE, "PHONE")
    since: str = answer["next_batch"]
    return since


async def changes(server: Process, token: str, since: str) -> Told:
    """Ask both ways; they must agree."""
    synced = await server.sync(ALICE, "PHONE", since)
    now = synced["next_batch"]
    answer = await server.client.get(
        f"{V3}/keys/changes", query={"from": since, "to": now}, token=token
    )
    lists = synced.get("device_lists", {"changed": [], "left": []})
    assert answer.json == lists
    return lists["changed"], lists["left"]


async def test_a_first_sync_tells_no_device_lists(server: Process, token: str) -> None:
    assert "device_lists" not in await server.sync(ALICE, "PHONE")


async def test_new_devices_keys_names_and_log_outs_are_told_to_those_who_share_a_room(
    server: Process, token: str
) -> None:
    await server.world.create_room(ALICE, join=[BOB])
    told = []

    since = await position(server)
    tablet = await server.device(BOB, "TABLET")
    await server.device(CAROL, "STRANGER")
    told.append(await changes(server, token, since))
    since = await position(server)
    await server.upload(tablet, device_keys=plain_keys(BOB, "TABLET"))
    told.append(await changes(server, token, since))
    since = await position(server)
    await server.upload(tablet, device_keys=plain_keys(BOB, "TABLET"))
    told.append(await changes(server, token, since))
    since = await position(server)
    await server.log_out(BOB, "TABLET")
    told.append(await changes(server, token, since))

    assert told == [([BOB], []), ([BOB], []), ([], []), ([BOB], [])]


async def test_ones_own_devices_are_told(server: Process, token: str) -> None:
    since = await position(server)

    await server.device(ALICE, "TABLET")

    assert await changes(server, token, since) == ([ALICE], [])


async def test_who_joins_is_new_and_who_leaves_is_left(server: Process, token: str) -> None:
    room_id = await server.world.create_room(ALICE)

    since = await position(server)
    await server.world.join(room_id, BOB)
    joined = await changes(server, token, since)
    since = await position(server)
    await server.world.leave(room_id, BOB)
    left = await changes(server, token, since)

    assert (joined, left) == (([BOB], []), ([], [BOB]))


async def test_joining_a_room_brings_its_members_and_leaving_it_loses_them(
    server: Process, token: str
) -> None:
    room_id = await server.world.create_room(BOB, join=[CAROL])

    since = await position(server)
    await server.world.join(room_id, ALICE)
    joined = await changes(server, token, since)
    since = await position(server)
    await server.world.leave(room_id, ALICE)
    left = await changes(server, token, since)

    assert (joined, left) == (([BOB, CAROL], []), ([], [BOB, CAROL]))


async def test_a_second_room_with_the_same_people_is_no_news(server: Process, token: str) -> None:
    await server.world.create_room(ALICE, join=[BOB])
    since = await position(server)

    other = await server.world.create_room(ALICE, join=[BOB])
    both = await changes(server, token, since)
    since = await position(server)
    await server.world.leave(other, BOB)

    assert both == ([], [])
    assert await changes(server, token, since) == ([], [])


async def test_who_returns_in_the_gap_is_told_if_their_devices_changed(
    server: Process, token: str
) -> None:
    room_id = await server.world.create_room(ALICE, join=[BOB, CAROL])
    since = await position(server)

    for user_id in (BOB, CAROL):
        await server.world.leave(room_id, user_id)
    await server.device(BOB, "NEW")
    for user_id in (BOB, CAROL):
        await server.world.join(room_id, user_id)

    assert await changes(server, token, since) == ([BOB], [])


async def test_a_new_name_in_a_room_is_no_news(server: Process, token: str) -> None:
    room_id = await server.world.create_room(ALICE, join=[BOB])
    since = await position(server)

    await server.world.set_state(
        room_id, BOB, "m.room.member", {"membership": "join", "displayname": "Bob"}, BOB
    )

    assert await changes(server, token, since) == ([], [])


async def test_changes_of_devices_wake_those_who_share_a_room(server: Process, token: str) -> None:
    await server.world.create_room(ALICE, join=[BOB])
    since = await position(server)
    answers: list[Any] = []

    async def poll() -> None:
        answers.append(await server.sync(ALICE, "PHONE", since, timeout_ms=60_000))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            await wait_all_tasks_blocked(0.05)
            await server.device(BOB, "TABLET")

    assert answers[0]["device_lists"] == {"changed": [BOB], "left": []}


async def test_sliding_sync_tells_device_lists(server: Process, token: str) -> None:
    room_id = await server.world.create_room(ALICE, join=[BOB, CAROL])
    asked = ExtensionsAsked(e2ee=ExtensionAsked(enabled=True))
    first = await server.slide(ALICE, "PHONE", asked)

    await server.device(BOB, "TABLET")
    await server.world.leave(room_id, CAROL)
    second = await server.slide(ALICE, "PHONE", asked, first["pos"])

    assert "device_lists" not in first["extensions"]["e2ee"]
    assert second["extensions"]["e2ee"]["device_lists"] == {"changed": [BOB], "left": [CAROL]}


@pytest.mark.parametrize("since", ["x", "s1_y", ""])
async def test_tokens_that_are_none_are_refused(server: Process, token: str, since: str) -> None:
    answer = await server.client.get(
        f"{V3}/keys/changes", query={"from": since, "to": since}, token=token
    )

    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


USERS = [UserID(f"@u{n}:test.example") for n in range(5)]


class History:
    """Random joins, leaves and changes of devices, with what there was at each token."""

    def __init__(self, server: Process, seed: int) -> None:
        self.server = server
        self.random = random.Random(seed)
        self.joined: dict[RoomID, set[UserID]] = {}
        self.changed: list[UserID] = []
        self.signed: list[UserID] = []
        self.taken: list[tuple[str, set[UserID], int, int]] = []

    def sharing(self) -> set[UserID]:
        with_alice = [users for users in self.joined.values() if ALICE in users]
        return set().union(*with_alice) - {ALICE}

    async def take(self) -> None:
        since = (await self.server.sync(ALICE, "PHONE"))["next_batch"]
        self.taken.append((since, self.sharing(), len(self.changed), len(self.signed)))

    async def step(self) -> None:
        user_id = self.random.choice([*USERS, ALICE, ALICE])
        room_id = self.random.choice(list(self.joined))
        world = self.server.world
        world.clock.advance(1)
        chance = self.random.random()
        if chance < 0.3:
            await self.server.lists.announce(user_id, ["D"])
            self.changed.append(user_id)
        elif chance < 0.4:
            # What another signs is not Alice's business.
            for signer, target in ((ALICE, self.random.choice(USERS)), (CAROL, user_id)):
                signature = NewSignature(target, "key", "ed25519:by", f"{len(self.signed)}")
                await self.server.lists.put_signatures(signer, [signature])
                if signer == ALICE:
                    self.signed.append(target)
        elif user_id in self.joined[room_id]:
            await world.leave(room_id, user_id)
            self.joined[room_id].discard(user_id)
        else:
            await world.join(room_id, user_id)
            self.joined[room_id].add(user_id)

    def expected(self, before: set[UserID], number: int, signed: int) -> Told:
        now = self.sharing()
        changed = (now - before) | ({*self.changed[number:]} & (now | {ALICE}))
        changed |= {*self.signed[signed:]} - (before - now)
        return sorted(changed), sorted(before - now)


@pytest.mark.parametrize("seed", range(4))
async def test_changes_are_exact_from_every_token_in_memory_and_from_disk(
    database: Database, seed: int
) -> None:
    async with open_devices(database) as server:
        history = History(server, seed)
        owner = UserID("@owner:test.example")
        for _ in range(3):
            history.joined[await server.world.create_room(owner)] = {owner}
        for _ in range(12):
            await history.take()
            for _ in range(history.random.randint(1, 4)):
                await history.step()
        now = (await server.sync(ALICE, "PHONE"))["next_batch"]
        # One that knows nothing of what happened, as after a restart.
        hub = InProcHub()
        fresh_world = make_world(
            database, server.world.clock, hub, Topology("r", "main"), 2**20, random_opaque
        )
        restarted = make_process(fresh_world, server.lists, server.inboxes)
        token = SyncToken.parse(now)
        fresh_world.feed.start_at(EVENTS, "main", token.events.most())
        fresh_world.feed.start_at(DEVICE_LISTS, "main", token.device_lists.most())

        for since, before, number, signed in history.taken:
            expected = history.expected(before, number, signed)
            for process in (server, restarted):
                told = await process.device_lists.changes(
                    ALICE, SyncToken.parse(since), SyncToken.parse(now)
                )
                assert (told.changed, told.left) == expected, f"seed {seed}"
