"""Device list changes: `changed` and `left` in /sync and /keys/changes."""

import random
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hs.core.ids import RoomID, UserID
from hs.core.tokens import SyncToken
from hs.services.devices.device_list_writer import NewSignature
from hs.services.sync.sliding.request import ScopedExtensionRequest, SlidingExtensionsRequest
from hs.storage.database import Database
from tests.support.devices import V3, Process, open_devices, plain_keys
from tests.support.rooms import ALICE, BOB, CAROL

Lists = tuple[list[str], list[str]]  # changed, left


@pytest.fixture
async def token(server: Process) -> str:
    """The access token of Alice's phone."""
    return await server.device(ALICE, "PHONE")


async def position(server: Process) -> str:
    answer = await server.sync(ALICE, "PHONE")
    since: str = answer["next_batch"]
    return since


async def changes(server: Process, token: str, since: str) -> Lists:
    """Return the changes that both /sync and /keys/changes report; they must agree."""
    synced = await server.sync(ALICE, "PHONE", since)
    next_batch = synced["next_batch"]
    answer = await server.client.get(
        f"{V3}/keys/changes", query={"from": since, "to": next_batch}, token=token
    )
    lists = synced.get("device_lists", {})
    # Sync responses leave out what is empty.
    assert answer.json == {"changed": [], "left": [], **lists}
    assert all(lists.values())
    return answer.json["changed"], answer.json["left"]


async def test_initial_sync_contains_no_device_lists(server: Process, token: str) -> None:
    assert "device_lists" not in await server.sync(ALICE, "PHONE")


async def test_changes_of_devices_are_reported_to_users_in_shared_rooms(
    server: Process, token: str
) -> None:
    await server.world.create_room(ALICE, join=[BOB])
    # In memory, so that each change wakes Alice at once, who otherwise may get an older answer.
    await server.world.memberships.rooms_of(BOB)
    reported = []

    since = await position(server)
    tablet = await server.device(BOB, "TABLET")
    await server.device(CAROL, "STRANGER")
    reported.append(await changes(server, token, since))
    since = await position(server)
    await server.upload(tablet, device_keys=plain_keys(BOB, "TABLET"))
    reported.append(await changes(server, token, since))
    since = await position(server)
    await server.upload(tablet, device_keys=plain_keys(BOB, "TABLET"))
    reported.append(await changes(server, token, since))
    since = await position(server)
    await server.log_out(BOB, "TABLET")
    reported.append(await changes(server, token, since))

    assert reported == [([BOB], []), ([BOB], []), ([], []), ([BOB], [])]


async def test_changes_of_own_devices_are_reported(server: Process, token: str) -> None:
    since = await position(server)

    await server.device(ALICE, "TABLET")

    assert await changes(server, token, since) == ([ALICE], [])


async def test_joining_user_is_changed_and_leaving_user_is_left(
    server: Process, token: str
) -> None:
    room_id = await server.world.create_room(ALICE)

    since = await position(server)
    await server.world.join(room_id, BOB)
    after_join = await changes(server, token, since)
    since = await position(server)
    await server.world.leave(room_id, BOB)
    after_leave = await changes(server, token, since)

    assert (after_join, after_leave) == (([BOB], []), ([], [BOB]))


async def test_members_are_changed_after_a_join_and_left_after_a_leave(
    server: Process, token: str
) -> None:
    room_id = await server.world.create_room(BOB, join=[CAROL])

    since = await position(server)
    await server.world.join(room_id, ALICE)
    after_join = await changes(server, token, since)
    since = await position(server)
    await server.world.leave(room_id, ALICE)
    after_leave = await changes(server, token, since)

    assert (after_join, after_leave) == (([BOB, CAROL], []), ([], [BOB, CAROL]))


async def test_user_who_joined_and_left_since_the_last_sync_is_left(
    server: Process, token: str
) -> None:
    room_id = await server.world.create_room(ALICE)
    other_room = await server.world.create_room(CAROL)
    since = await position(server)

    await server.world.join(room_id, BOB)
    await server.world.leave(room_id, BOB)
    others = await changes(server, token, since)
    since = await position(server)
    await server.world.join(other_room, ALICE)
    await server.world.leave(other_room, ALICE)

    assert others == ([], [BOB])
    assert await changes(server, token, since) == ([], [CAROL])


async def test_invited_user_is_reported(server: Process, token: str) -> None:
    room_id = await server.world.create_room(ALICE, join=[CAROL])
    since = await position(server)

    await server.world.set_membership(room_id, ALICE, BOB, "invite")
    after_invite = await changes(server, token, since)
    since = await position(server)
    await server.world.set_membership(room_id, ALICE, CAROL, "leave")
    await server.world.set_membership(room_id, ALICE, CAROL, "invite")

    assert after_invite == ([BOB], [])
    assert await changes(server, token, since) == ([CAROL], [])


async def test_declined_invite_is_not_reported(server: Process, token: str) -> None:
    room_id = await server.world.create_room(ALICE)
    since = await position(server)

    await server.world.set_membership(room_id, ALICE, BOB, "invite")
    await server.world.leave(room_id, BOB)

    assert await changes(server, token, since) == ([], [])


async def test_second_shared_room_changes_nothing(server: Process, token: str) -> None:
    await server.world.create_room(ALICE, join=[BOB])
    since = await position(server)

    second_room = await server.world.create_room(ALICE, join=[BOB])
    after_creation = await changes(server, token, since)
    since = await position(server)
    await server.world.leave(second_room, BOB)

    assert after_creation == ([], [])
    assert await changes(server, token, since) == ([], [])


async def test_user_who_rejoined_is_reported_if_their_devices_changed(
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


async def test_new_display_name_changes_nothing(server: Process, token: str) -> None:
    room_id = await server.world.create_room(ALICE, join=[BOB])
    since = await position(server)

    await server.world.set_state(
        room_id, BOB, "m.room.member", {"membership": "join", "displayname": "Bob"}, BOB
    )

    assert await changes(server, token, since) == ([], [])


async def test_device_change_wakes_long_polls_of_users_in_shared_rooms(
    server: Process, token: str
) -> None:
    await server.world.create_room(ALICE, join=[BOB])
    since = await position(server)
    answers: list[Any] = []

    async def poll() -> None:
        answers.append(await server.sync(ALICE, "PHONE", since, timeout_ms=60_000))

    with trio.fail_after(60):
        async with (
            server.world.process.duties("remote device lists"),
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(poll)
            await wait_all_tasks_blocked(0.05)
            await server.device(BOB, "TABLET")

    assert answers[0]["device_lists"] == {"changed": [BOB]}


async def test_sliding_sync_contains_device_lists(server: Process, token: str) -> None:
    room_id = await server.world.create_room(ALICE, join=[BOB, CAROL])
    extensions = SlidingExtensionsRequest(e2ee=ScopedExtensionRequest(enabled=True))
    first = await server.slide(ALICE, "PHONE", extensions)

    await server.device(BOB, "TABLET")
    await server.world.leave(room_id, CAROL)
    second = await server.slide(ALICE, "PHONE", extensions, first["pos"])

    assert "device_lists" not in first["extensions"]["e2ee"]
    assert second["extensions"]["e2ee"]["device_lists"] == {"changed": [BOB], "left": [CAROL]}


@pytest.mark.parametrize("since", ["x", "s1_y", ""])
async def test_invalid_tokens_are_rejected(server: Process, token: str, since: str) -> None:
    answer = await server.client.get(
        f"{V3}/keys/changes", query={"from": since, "to": since}, token=token
    )

    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


USERS = [UserID(f"@u{n}:test.example") for n in range(5)]


class History:
    """Random joins, leaves and device changes, with the expected state at each token."""

    def __init__(self, server: Process, seed: int) -> None:
        self.server = server
        self.seed, self.random = seed, random.Random(seed)
        self.joined: dict[RoomID, set[UserID]] = {}
        self.changed: list[UserID] = []
        self.signed: list[UserID] = []
        self.snapshots: list[tuple[str, set[UserID], int, int]] = []

    def sharing(self) -> set[UserID]:
        with_alice = [users for users in self.joined.values() if ALICE in users]
        return set().union(*with_alice) - {ALICE}

    async def take_snapshot(self) -> None:
        since = (await self.server.sync(ALICE, "PHONE"))["next_batch"]
        self.snapshots.append((since, self.sharing(), len(self.changed), len(self.signed)))

    async def step(self) -> None:
        user_id = self.random.choice([*USERS, ALICE, ALICE])
        room_id = self.random.choice(list(self.joined))
        world = self.server.world
        world.clock.advance(1)
        action = self.random.random()
        if action < 0.3:
            await self.server.lists.announce(user_id, ["D"])
            self.changed.append(user_id)
        elif action < 0.4:
            # Signatures by other users are not reported to Alice.
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

    def expected(
        self, sharing_before: set[UserID], changes_before: int, signatures_before: int
    ) -> Lists:
        sharing = self.sharing()
        changed = (sharing - sharing_before) | (
            {*self.changed[changes_before:]} & (sharing | {ALICE})
        )
        changed |= {*self.signed[signatures_before:]} - (sharing_before - sharing)
        return sorted(changed), sorted(sharing_before - sharing)

    async def check(self, process: Process, next_batch: str) -> None:
        upto = SyncToken.parse(next_batch)
        for since, sharing, changes_before, signatures_before in self.snapshots:
            expected = self.expected(sharing, changes_before, signatures_before)
            changes = await process.services.device_lists.changes(
                ALICE, SyncToken.parse(since), upto
            )
            # Users who came and went in between have left as well.
            changed = [user_id for user_id in expected[0] if user_id not in changes.left]
            assert changes.changed == changed, f"seed {self.seed}"
            assert {*expected[1]} <= {*changes.left}, f"seed {self.seed}"
            assert not self.sharing().intersection(changes.left), f"seed {self.seed}"


@pytest.mark.parametrize("seed", range(4))
async def test_changes_since_every_token_are_exact_from_memory_and_database(
    database: Database, seed: int
) -> None:
    async with open_devices(database) as server:
        history = History(server, seed)
        owner = UserID("@owner:test.example")
        for _ in range(3):
            history.joined[await server.world.create_room(owner)] = {owner}
        for _ in range(12):
            await history.take_snapshot()
            for _ in range(history.random.randint(1, 4)):
                await history.step()
        next_batch = (await server.sync(ALICE, "PHONE"))["next_batch"]
        await history.check(server, next_batch)

    # A process without any records in memory.
    async with open_devices(database) as restarted:
        await history.check(restarted, next_batch)
