"""POST /createRoom: every option, and what is refused."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.services.rooms.creation.initial_events import NewRoomRequest
from hs.settings.sections.rooms import RoomRule, RoomSettings
from hs.storage.database import Database
from tests.support.room_actions import DAVE, Actions, open_actions
from tests.support.rooms import ALICE, BOB, CAROL, SERVER, ZOE
from tests.support.web import Answer

V3 = "/_matrix/client/v3"


@pytest.fixture
async def acts(database: Database) -> AsyncIterator[Actions]:
    async with open_actions(database) as opened:
        yield opened


async def create(acts: Actions, token: str = "alice", **asked: Any) -> Answer:
    return await acts.client().post(f"{V3}/createRoom", asked, token=token)


async def made(acts: Actions, **asked: Any) -> Any:
    answer = await create(acts, **asked)
    assert answer.status == 200, answer.json
    return answer.json["room_id"]


async def test_everything_asked_for_is_in_the_room_in_the_order_of_the_specification(
    acts: Actions,
) -> None:
    acts.profiles.known[ALICE] = {"displayname": "Alice", "avatar_url": "mxc://x/y", "m.tz": "UTC"}
    acts.profiles.known[BOB] = {"displayname": "Bob"}

    room_id = await made(
        acts,
        preset="private_chat",
        room_alias_name="pub",
        name="The Pub",
        topic="Ale",
        initial_state=[
            {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}},
            {"type": "org.example", "state_key": "k", "content": {"a": 1}},
        ],
        creation_content={"m.federate": False, "creator": "@x:y", "room_version": "99"},
        power_level_content_override={"events_default": 10},
        invite=[BOB, BOB],
        is_direct=True,
        room_version="10",
    )

    events = await acts.events_of(room_id)
    assert [one.type for one in events] == [
        "m.room.create",
        "m.room.member",
        "m.room.power_levels",
        "m.room.canonical_alias",
        "m.room.join_rules",
        "m.room.guest_access",
        "m.room.history_visibility",
        "org.example",
        "m.room.name",
        "m.room.topic",
        "m.room.member",
    ]
    assert events[0].content == {"m.federate": False, "creator": ALICE, "room_version": "10"}
    assert events[1].content == {
        "membership": "join",
        "displayname": "Alice",
        "avatar_url": "mxc://x/y",
    }
    assert events[2].content["events_default"] == 10
    assert events[2].content["users"] == {ALICE: 100}
    assert events[3].content == {"alias": f"#pub:{SERVER}"}
    assert events[9].content == {"topic": "Ale", "m.topic": {"m.text": [{"body": "Ale"}]}}
    assert events[10].content == {
        "membership": "invite",
        "displayname": "Bob",
        "is_direct": True,
    }
    found = await acts.client().get(f"{V3}/directory/room/%23pub:{SERVER}")
    assert found.json == {"room_id": room_id, "servers": [SERVER]}


@pytest.mark.parametrize(
    ("preset", "join_rule", "guest_access"),
    [
        # Without the event guests are forbidden.
        ("public_chat", "public", None),
        ("private_chat", "invite", "can_join"),
        ("trusted_private_chat", "invite", "can_join"),
    ],
)
async def test_presets_give_the_state_they_promise(
    acts: Actions, preset: str, join_rule: str, guest_access: str | None
) -> None:
    room_id = await made(acts, preset=preset)

    assert (await acts.state(room_id, "m.room.join_rules"))["join_rule"] == join_rule
    guests = await acts.state(room_id, "m.room.guest_access")
    assert guests.get("guest_access") == guest_access
    visibility = await acts.state(room_id, "m.room.history_visibility")
    assert visibility["history_visibility"] == "shared"


async def test_the_visibility_chooses_a_preset_and_the_place_in_the_directory(
    acts: Actions,
) -> None:
    listed = await made(acts, visibility="public")
    unlisted = await made(acts)

    assert (await acts.state(listed, "m.room.join_rules"))["join_rule"] == "public"
    assert (await acts.state(unlisted, "m.room.join_rules"))["join_rule"] == "invite"
    client = acts.client()
    answers = [await client.get(f"{V3}/directory/list/room/{one}") for one in (listed, unlisted)]
    assert [one.json for one in answers] == [{"visibility": "public"}, {"visibility": "private"}]


async def test_trusted_invitees_have_the_creators_power(acts: Actions) -> None:
    older = await made(acts, preset="trusted_private_chat", invite=[BOB], room_version="11")
    newer = await made(
        acts,
        preset="trusted_private_chat",
        invite=[BOB],
        room_version="12",
        creation_content={"additional_creators": [CAROL, BOB]},
    )

    assert (await acts.state(older, "m.room.power_levels"))["users"] == {ALICE: 100, BOB: 100}
    assert "additional_creators" not in await acts.state(older, "m.room.create")
    assert (await acts.state(newer, "m.room.create"))["additional_creators"] == [CAROL, BOB]
    levels = await acts.state(newer, "m.room.power_levels")
    assert levels["users"] == {}
    assert levels["events"]["m.room.tombstone"] == 150


@pytest.mark.parametrize(
    ("override", "level"),
    [
        ({"events": {"org.example": 5}}, 150),
        ({"events": {}, "state_default": 200}, 201),
        ({"events": {"m.room.tombstone": 60}}, 60),
    ],
)
async def test_a_tombstone_has_a_level_of_its_own_whatever_is_overridden(
    acts: Actions, override: dict[str, Any], level: int
) -> None:
    room_id = await made(acts, room_version="12", power_level_content_override=override)

    levels = (await acts.events_of(room_id))[2].content

    assert levels["events"]["m.room.tombstone"] == level


async def test_names_asked_for_win_over_the_initial_state(acts: Actions) -> None:
    room_id = await made(
        acts,
        name="By name",
        initial_state=[{"type": "m.room.name", "content": {"name": "By state"}}],
    )

    assert (await acts.state(room_id, "m.room.name"))["name"] == "By name"


async def test_initial_power_levels_replace_the_default(acts: Actions) -> None:
    levels = {"users": {ALICE: 100}, "events_default": 7}

    room_id = await made(
        acts,
        room_version="11",
        initial_state=[{"type": "m.room.power_levels", "content": levels}],
    )

    assert await acts.state(room_id, "m.room.power_levels") == levels


async def test_rooms_are_encrypted_from_the_start_where_the_settings_say_so(
    database: Database,
) -> None:
    settings = RoomSettings(
        encryption_enabled_by_default_for_room_type="invite",
        default_power_level_content_override={"private_chat": {"invite": 33}},
        default_room_version="11",
    )
    async with open_actions(database, settings=settings) as acts:
        private = await made(acts)
        public = await made(acts, preset="public_chat")

        assert "algorithm" in await acts.state(private, "m.room.encryption")
        assert await acts.state(public, "m.room.encryption") == {}
        assert (await acts.state(private, "m.room.create"))["room_version"] == "11"
        assert (await acts.state(private, "m.room.power_levels"))["invite"] == 33


@pytest.mark.parametrize(
    ("asked", "status", "errcode"),
    [
        ({"room_version": "nope"}, 400, "M_UNSUPPORTED_ROOM_VERSION"),
        ({"room_version": ""}, 400, "M_UNSUPPORTED_ROOM_VERSION"),
        ({"room_version": 1}, 400, "M_BAD_JSON"),
        ({"preset": "party"}, 400, "M_BAD_JSON"),
        ({"visibility": "secret"}, 400, "M_BAD_JSON"),
        ({"name": 5}, 400, "M_BAD_JSON"),
        ({"invite": "bob"}, 400, "M_BAD_JSON"),
        ({"invite": ["bob"]}, 400, "M_INVALID_PARAM"),
        ({"invite": [ALICE]}, 400, "M_INVALID_PARAM"),
        ({"invite": [ZOE]}, 404, "M_UNKNOWN"),
        ({"invite": [f"@u{n}:{SERVER}" for n in range(101)]}, 400, "M_INVALID_PARAM"),
        ({"invite_3pid": [{"medium": "email"}]}, 400, "M_BAD_JSON"),
        ({"creation_content": {"m.federate": "no"}}, 400, "M_BAD_JSON"),
        ({"creation_content": {"additional_creators": ["x"]}}, 400, "M_INVALID_PARAM"),
        ({"creation_content": {"x": 1.5}}, 400, "M_BAD_JSON"),
        ({"initial_state": [{"type": "m.room.name"}]}, 400, "M_BAD_JSON"),
        (
            {"initial_state": [{"type": "m.room.create", "content": {}}]},
            400,
            "M_INVALID_ROOM_STATE",
        ),
        (
            {"initial_state": [{"type": "m.room.redaction", "content": {"redacts": "$x"}}]},
            400,
            "M_INVALID_ROOM_STATE",
        ),
        (
            {
                "initial_state": [
                    {"type": "m.room.member", "state_key": BOB, "content": {"membership": "join"}}
                ]
            },
            400,
            "M_INVALID_ROOM_STATE",
        ),
        (
            {"room_version": "11", "power_level_content_override": {"users": {ALICE: 0}}},
            400,
            "M_INVALID_ROOM_STATE",
        ),
        ({"power_level_content_override": {"users": {ALICE: 100}}}, 400, "M_INVALID_ROOM_STATE"),
        ({"room_alias_name": "a:b"}, 400, "M_INVALID_PARAM"),
        ({"room_alias_name": "x" * 300}, 400, "M_INVALID_PARAM"),
        ({"topic": "x" * 70_000}, 413, "M_TOO_LARGE"),
    ],
)
async def test_what_cannot_be_made_is_refused(
    acts: Actions, asked: dict[str, Any], status: int, errcode: str
) -> None:
    answer = await create(acts, **asked)

    assert (answer.status, answer.errcode) == (status, errcode), answer.json
    assert acts.world.seen == []


async def test_a_taken_alias_is_refused_and_one_of_a_failed_room_is_free(acts: Actions) -> None:
    await made(acts, room_alias_name="one")

    taken = await create(acts, room_alias_name="one")
    failed = await create(acts, room_alias_name="two", topic="x" * 70_000)
    after = await create(acts, room_alias_name="two")

    assert (taken.status, taken.errcode) == (400, "M_ROOM_IN_USE")
    assert failed.errcode == "M_TOO_LARGE"
    assert after.status == 200


async def test_an_alias_held_by_a_process_that_died_is_free_after_a_while(acts: Actions) -> None:
    alias = acts.aliases.named("held")
    await acts.aliases.reserve(ALICE, alias)

    at_once = await create(acts, room_alias_name="held")
    unseen = await acts.client().get(f"{V3}/directory/room/%23held:{SERVER}")
    acts.world.clock.advance(10 * 60_000)
    later = await create(acts, room_alias_name="held")

    assert at_once.errcode == "M_ROOM_IN_USE"
    assert unseen.errcode == "M_NOT_FOUND"
    assert later.status == 200


async def test_the_settings_rules_say_who_may_name_and_list_rooms(database: Database) -> None:
    settings = RoomSettings(
        alias_creation_rules=(
            RoomRule(user_id="@alice:*", alias="#good*", action="allow"),
            RoomRule(action="deny"),
        ),
        room_list_publication_rules=(RoomRule(user_id="@alice:*", action="allow"),),
    )
    async with open_actions(database, settings=settings) as acts:
        answers = [
            await create(acts, room_alias_name="good-one"),
            await create(acts, room_alias_name="bad"),
            await create(acts, "bob", room_alias_name="good-two"),
            await create(acts, visibility="public"),
            await create(acts, "bob", visibility="public"),
        ]

        assert [one.status for one in answers] == [200, 403, 403, 200, 403]


async def test_guests_and_suspended_users_make_no_rooms(acts: Actions) -> None:
    acts.user(BOB, is_guest=True)
    acts.user(DAVE, suspended=True)

    guest = await create(acts, "bob")
    suspended = await create(acts, "dave")

    assert (guest.status, guest.errcode) == (403, "M_GUEST_ACCESS_FORBIDDEN")
    assert (suspended.status, suspended.errcode) == (403, "M_USER_SUSPENDED")


async def test_services_without_limits_bring_large_groups(acts: Actions) -> None:
    group = [UserID(f"@u{n}:{SERVER}") for n in range(150)]

    room_id = await acts.creation.create(
        Requester(ALICE, unlimited=True), NewRoomRequest(invite=group)
    )

    assert (await acts.memberships.present(room_id)).invited_count == 150
