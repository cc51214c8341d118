"""Invites, joins, knocks, leaves, kicks and bans in /sync."""

import attrs
import orjson

from hs.services.rooms.append.drafts import Draft
from hs.settings.sections.rooms import RoomSettings
from hs.storage.database import Database, Tx
from tests.support.composition import SETTINGS
from tests.support.rooms import ALICE, BOB, CAROL, member
from tests.support.syncing import Syncing, bodies, forget, keys, open_syncing

HISTORY = "m.room.history_visibility"


async def since_of(s: Syncing) -> str:
    token: str = (await s.sync(BOB))["next_batch"]
    return token


async def test_invite_has_stripped_state_with_the_create_event(database: Database) -> None:
    async with open_syncing(database) as s:
        since = await since_of(s)
        name = Draft("m.room.name", ALICE, {"name": "n"}, "")
        room_id = await s.world.create_room(ALICE, invite=[BOB], join_rule="invite", state=[name])

        for answer in (await s.sync(BOB, since), await s.sync(BOB)):
            invite = answer["rooms"]["invite"][room_id]["invite_state"]["events"]
            assert keys(invite) == {
                ("m.room.create", ""),
                ("m.room.name", ""),
                ("m.room.join_rules", ""),
                ("m.room.member", ALICE),
                ("m.room.member", BOB),
            }
            assert all(set(event) == {"type", "state_key", "sender", "content"} for event in invite)
            assert list(answer["rooms"]) == ["invite"]
        later = (await s.sync(BOB, since))["next_batch"]
        await s.world.send(room_id, ALICE)
        assert "rooms" not in await s.sync(BOB, later)


async def test_invites_of_ignored_users_are_not_sent(database: Database) -> None:
    async with open_syncing(database) as s:
        since = await since_of(s)
        await s.reading.ignore(BOB, ALICE)
        await s.world.create_room(ALICE, invite=[BOB])

        assert "rooms" not in await s.sync(BOB, since)
        assert "rooms" not in await s.sync(BOB)


async def test_knock_has_stripped_state(database: Database) -> None:
    async with open_syncing(database) as s:
        since = await since_of(s)
        room_id = await s.world.create_room(ALICE, join_rule="knock")
        await s.world.append(room_id, member(BOB, "knock"))

        answer = await s.sync(BOB, since)

        events = answer["rooms"]["knock"][room_id]["knock_state"]["events"]
        assert ("m.room.create", "") in keys(events)
        assert ("m.room.member", BOB) in keys(events)


async def test_only_the_last_of_several_knocks_is_sent(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join_rule="knock")
        since = await since_of(s)
        for reason in ("please", "please!"):
            content = {"membership": "knock", "reason": reason}
            await s.world.append(room_id, Draft("m.room.member", BOB, content, BOB))

        answer = await s.sync(BOB, since)

        events = answer["rooms"]["knock"][room_id]["knock_state"]["events"]
        own = [event["content"] for event in events if event["type"] == "m.room.member"]
        assert [event["reason"] for event in own] == ["please!"]


async def test_newly_joined_room_has_its_whole_state(database: Database) -> None:
    async with open_syncing(database) as s:
        since = await since_of(s)
        room_id = await s.world.create_room(ALICE, join=[CAROL])
        for n in range(20):
            await s.world.send(room_id, ALICE, f"m{n}")
        await s.world.join(room_id, BOB)

        answer = await s.sync(BOB, since)

        room = answer["rooms"]["join"][room_id]
        assert bodies(room) == [f"m{n}" for n in range(11, 20)]
        assert room["timeline"]["limited"] is True
        assert keys(room["state"]["events"]) == {
            ("m.room.create", ""),
            ("m.room.power_levels", ""),
            ("m.room.join_rules", ""),
            ("m.room.member", ALICE),
            ("m.room.member", CAROL),
        }
        assert room["summary"]["m.joined_member_count"] == 3


async def test_history_before_the_join_is_hidden_if_it_is_for_members_only(
    database: Database,
) -> None:
    async with open_syncing(database) as s:
        since = await since_of(s)
        closed = Draft(HISTORY, ALICE, {"history_visibility": "joined"}, "")
        room_id = await s.world.create_room(ALICE, state=[closed])
        await s.world.send(room_id, ALICE, "before")
        await s.world.join(room_id, BOB)
        await s.world.send(room_id, ALICE, "after")

        room = (await s.sync(BOB, since))["rooms"]["join"][room_id]

        assert bodies(room) == ["after"]


async def test_left_room_is_sent_up_to_the_leave(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        since = await since_of(s)
        await s.world.send(room_id, ALICE, "last")
        await s.world.set_state(room_id, ALICE, "m.room.topic", {"topic": "t"})
        await s.world.leave(room_id, BOB)
        await s.world.send(room_id, ALICE, "behind his back")

        answer = await s.sync(BOB, since)

        room = answer["rooms"]["leave"][room_id]
        assert list(answer["rooms"]) == ["leave"]
        types = [event["type"] for event in room["timeline"]["events"]]
        assert types == ["m.room.message", "m.room.topic", "m.room.member"]
        assert room["state"]["events"] == []
        assert "rooms" not in await s.sync(BOB, answer["next_batch"])
        assert "rooms" not in await s.sync(BOB)


async def test_rooms_left_long_ago_are_sent_with_include_leave(database: Database) -> None:
    async with open_syncing(database) as s:
        left = await s.world.create_room(ALICE, join=[BOB])
        await s.world.leave(left, BOB)
        await s.world.set_state(left, ALICE, "m.room.topic", {"topic": "later"})
        banned = await s.world.create_room(ALICE, join=[BOB])
        await s.world.set_membership(banned, ALICE, BOB, "ban")
        forgotten = await s.world.create_room(ALICE, join=[BOB])
        await s.world.leave(forgotten, BOB)
        await forget(s.world, forgotten, BOB)

        answer = await s.sync(
            BOB, filter={"room": {"include_leave": True, "timeline": {"limit": 1}}}
        )

        rooms = answer["rooms"]["leave"]
        assert set(rooms) == {left, banned}
        assert [event["content"]["membership"] for event in rooms[left]["timeline"]["events"]] == [
            "leave"
        ]
        assert ("m.room.topic", "") not in keys(rooms[left]["state"]["events"])
        assert ("m.room.create", "") in keys(rooms[left]["state"]["events"])


async def test_forgotten_room_is_not_in_a_repeated_first_sync(
    database: Database,
) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        await s.world.leave(room_id, BOB)
        with_left = {"room": {"include_leave": True}}
        before = await s.sync(BOB, filter=with_left)

        await forget(s.world, room_id, BOB)
        after = await s.sync(BOB, filter=with_left)

        assert list(before["rooms"]["leave"]) == [room_id]
        assert "rooms" not in after


async def test_room_left_and_forgotten_at_once_is_sent_to_other_devices(database: Database) -> None:
    async with open_syncing(database) as s:
        left = await s.world.create_room(ALICE, join=[BOB])
        declined = await s.world.create_room(ALICE, invite=[BOB])
        since = await since_of(s)
        for room_id in (left, declined):
            await s.world.leave(room_id, BOB)
            await forget(s.world, room_id, BOB)

        answer = await s.sync(BOB, since)

        assert set(answer["rooms"]["leave"]) == {left, declined}
        assert "rooms" not in await s.sync(BOB, answer["next_batch"])


async def test_kicks_and_bans_are_in_the_leave_section(database: Database) -> None:
    async with open_syncing(database) as s:
        kicked = await s.world.create_room(ALICE, join=[BOB])
        banned = await s.world.create_room(ALICE, join=[BOB])
        since = await since_of(s)
        await s.world.set_membership(kicked, ALICE, BOB, "leave")
        await s.world.set_membership(banned, ALICE, BOB, "ban")

        rooms = (await s.sync(BOB, since))["rooms"]["leave"]

        for room_id, membership in ((kicked, "leave"), (banned, "ban")):
            (event,) = rooms[room_id]["timeline"]["events"]
            assert event["content"]["membership"] == membership
            assert event["unsigned"]["membership"] == membership


async def test_rejected_invite_shows_only_the_leave_event(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, invite=[BOB])
        since = await since_of(s)
        await s.world.send(room_id, ALICE, "secret")
        await s.world.leave(room_id, BOB)

        room = (await s.sync(BOB, since))["rooms"]["leave"][room_id]

        assert [event["type"] for event in room["timeline"]["events"]] == ["m.room.member"]
        assert room["state"]["events"] == []


async def test_join_and_leave_since_the_last_sync_show_the_time_between(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE)
        since = await since_of(s)
        await s.world.join(room_id, BOB)
        await s.world.send(room_id, ALICE, "hello")
        await s.world.leave(room_id, BOB)
        await s.world.send(room_id, ALICE, "bye")

        room = (await s.sync(BOB, since))["rooms"]["leave"][room_id]

        assert bodies(room) == ["hello"]


async def test_return_to_a_room_has_the_state_again_but_not_the_old_timeline(
    database: Database,
) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        await s.world.send(room_id, ALICE, "known")
        first = await since_of(s)
        await s.world.leave(room_id, BOB)
        left = (await s.sync(BOB, first))["next_batch"]
        await s.world.send(room_id, ALICE, "while away")
        await s.world.set_state(room_id, ALICE, "m.room.topic", {"topic": "t"})
        await s.world.join(room_id, BOB)

        for since in (left, first):
            room = (await s.sync(BOB, since))["rooms"]["join"][room_id]
            assert bodies(room) == ["while away"]
            assert ("m.room.create", "") in keys(room["state"]["events"])


async def test_return_after_a_ban_has_the_state_again_but_not_the_old_timeline(
    database: Database,
) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        await s.world.send(room_id, ALICE, "known")
        await s.world.set_membership(room_id, ALICE, BOB, "ban")
        await s.world.set_membership(room_id, ALICE, BOB, "leave")
        since = await since_of(s)
        await s.world.send(room_id, ALICE, "while away")
        await s.world.join(room_id, BOB)

        room = (await s.sync(BOB, since))["rooms"]["join"][room_id]

        assert bodies(room) == ["while away"]
        assert room["timeline"]["limited"] is True
        assert ("m.room.create", "") in keys(room["state"]["events"])


async def test_return_to_a_room_and_leave_has_the_state_again_but_not_the_old_timeline(
    database: Database,
) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        await s.world.send(room_id, ALICE, "known")
        await s.world.leave(room_id, BOB)
        since = await since_of(s)
        await s.world.send(room_id, ALICE, "while away")
        await s.world.join(room_id, BOB)
        await s.world.send(room_id, ALICE, "while back")
        await s.world.leave(room_id, BOB)

        room = (await s.sync(BOB, since))["rooms"]["leave"][room_id]

        assert bodies(room) == ["while away", "while back"]
        assert ("m.room.create", "") in keys(room["state"]["events"])


async def test_own_profile_change_is_not_a_new_join(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        since = await since_of(s)
        await s.world.append(room_id, member(BOB, "join", displayname="Bob"))

        room = (await s.sync(BOB, since))["rooms"]["join"][room_id]

        assert len(room["timeline"]["events"]) == 1
        assert room["state"]["events"] == []


async def test_rooms_excluded_from_sync_are_never_sent(database: Database) -> None:
    async with open_syncing(database) as s:
        hidden = await s.world.create_room(ALICE)
    settings = attrs.evolve(SETTINGS, rooms=RoomSettings(exclude_rooms_from_sync=(hidden,)))
    async with open_syncing(database, settings) as s:
        first = await s.sync(ALICE)
        await s.world.send(hidden, ALICE)

        assert "rooms" not in first
        assert "rooms" not in await s.sync(ALICE, first["next_batch"])


async def test_state_from_another_server_with_an_invite_is_stripped(
    database: Database,
) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, invite=[BOB])
        whole = {
            "type": "m.room.create",
            "state_key": "",
            "sender": ALICE,
            "content": {},
            "hashes": {},
        }

        async def store(tx: Tx) -> None:
            await tx.execute(
                "UPDATE local_memberships SET stripped_state = $1 "
                "WHERE user_id = $2 AND room_id = $3",
                orjson.dumps([whole]),
                BOB,
                room_id,
            )

        await s.world.database.write(store)

        answer = await s.sync(BOB)

        create, invite = answer["rooms"]["invite"][room_id]["invite_state"]["events"]
        assert "hashes" not in create
        assert invite["content"] == {"membership": "invite"}


async def test_state_set_between_a_leave_and_a_ban_is_hidden(database: Database) -> None:
    async with open_syncing(database) as s:
        topic = Draft("m.room.topic", ALICE, {"topic": "while bob was here"}, "")
        room_id = await s.world.create_room(ALICE, join=[BOB], state=[topic])
        here = await since_of(s)
        await s.world.leave(room_id, BOB)
        gone = await since_of(s)
        await s.world.set_state(room_id, ALICE, "m.room.topic", {"topic": "secret"})
        await s.world.set_state(room_id, ALICE, "m.room.name", {"name": "secret"})
        await s.world.set_membership(room_id, ALICE, BOB, "ban")

        with_left = {"room": {"include_leave": True}}
        answers = [
            await s.sync(BOB, here),
            await s.sync(BOB, gone),
            await s.sync(BOB, filter=with_left),
            await s.sync(BOB, here, full_state=True),
        ]

        for answer in answers:
            assert b"secret" not in orjson.dumps(answer)
            events = answer["rooms"]["leave"][room_id]["timeline"]["events"]
            assert events[-1]["content"]["membership"] == "ban"
        assert b"while bob was here" in orjson.dumps(answers[2])
