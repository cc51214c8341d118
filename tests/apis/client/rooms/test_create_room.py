"""POST /createRoom: all options, and rejected requests."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.core.streams import EVENTS
from hs.services.rooms.creation.initial_events import NewRoomRequest
from hs.settings.sections.rooms import RoomRule
from hs.storage.database import Database
from tests.support.composition import SERVER
from tests.support.room_actions import DAVE, Actions, open_actions, room_settings
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.web import WebResponse

V3 = "/_matrix/client/v3"


@pytest.fixture
async def actions(database: Database) -> AsyncIterator[Actions]:
    async with open_actions(database) as actions:
        yield actions


async def create(actions: Actions, token: str = "alice", **body: Any) -> WebResponse:
    return await actions.client().post(f"{V3}/createRoom", body, token=token)


async def create_room(actions: Actions, **body: Any) -> Any:
    response = await create(actions, **body)
    assert response.status == 200, response.json
    return response.json["room_id"]


async def test_initial_events_are_complete_and_in_the_specified_order(
    actions: Actions,
) -> None:
    profile = {"displayname": "Alice", "avatar_url": "mxc://x/y", "m.tz": "UTC"}
    await actions.set_profile(ALICE, **profile)
    await actions.set_profile(BOB, displayname="Bob")

    room_id = await create_room(
        actions,
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

    events = await actions.events_of(room_id)
    assert [event.type for event in events] == [
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
    lookup = await actions.client().get(f"{V3}/directory/room/%23pub:{SERVER}")
    assert lookup.json == {"room_id": room_id, "servers": [SERVER]}


@pytest.mark.parametrize(
    ("preset", "join_rule", "guest_access"),
    [
        # Without the event, guests are not allowed.
        ("public_chat", "public", None),
        ("private_chat", "invite", "can_join"),
        ("trusted_private_chat", "invite", "can_join"),
    ],
)
async def test_preset_determines_the_initial_state(
    actions: Actions, preset: str, join_rule: str, guest_access: str | None
) -> None:
    room_id = await create_room(actions, preset=preset)

    assert (await actions.state(room_id, "m.room.join_rules"))["join_rule"] == join_rule
    guests = await actions.state(room_id, "m.room.guest_access")
    assert guests.get("guest_access") == guest_access
    visibility = await actions.state(room_id, "m.room.history_visibility")
    assert visibility["history_visibility"] == "shared"


async def test_visibility_determines_preset_and_directory_listing(
    actions: Actions,
) -> None:
    listed = await create_room(actions, visibility="public")
    unlisted = await create_room(actions)

    assert (await actions.state(listed, "m.room.join_rules"))["join_rule"] == "public"
    assert (await actions.state(unlisted, "m.room.join_rules"))["join_rule"] == "invite"
    client = actions.client()
    responses = [
        await client.get(f"{V3}/directory/list/room/{room_id}") for room_id in (listed, unlisted)
    ]
    assert [response.json for response in responses] == [
        {"visibility": "public"},
        {"visibility": "private"},
    ]


async def test_invited_users_of_a_trusted_room_have_the_power_of_the_creator(
    actions: Actions,
) -> None:
    room_v11 = await create_room(
        actions, preset="trusted_private_chat", invite=[BOB], room_version="11"
    )
    room_v12 = await create_room(
        actions,
        preset="trusted_private_chat",
        invite=[BOB],
        room_version="12",
        creation_content={"additional_creators": [CAROL, BOB]},
    )

    assert (await actions.state(room_v11, "m.room.power_levels"))["users"] == {ALICE: 100, BOB: 100}
    assert "additional_creators" not in await actions.state(room_v11, "m.room.create")
    assert (await actions.state(room_v12, "m.room.create"))["additional_creators"] == [CAROL, BOB]
    levels = await actions.state(room_v12, "m.room.power_levels")
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
async def test_tombstone_level_is_added_to_overridden_power_levels(
    actions: Actions, override: dict[str, Any], level: int
) -> None:
    room_id = await create_room(actions, room_version="12", power_level_content_override=override)

    levels = (await actions.events_of(room_id))[2].content

    assert levels["events"]["m.room.tombstone"] == level


async def test_name_overrides_the_initial_state(actions: Actions) -> None:
    room_id = await create_room(
        actions,
        name="By name",
        initial_state=[{"type": "m.room.name", "content": {"name": "By state"}}],
    )

    assert (await actions.state(room_id, "m.room.name"))["name"] == "By name"


async def test_initial_power_levels_replace_the_default(actions: Actions) -> None:
    levels = {"users": {ALICE: 100}, "events_default": 7}

    room_id = await create_room(
        actions,
        room_version="11",
        initial_state=[{"type": "m.room.power_levels", "content": levels}],
    )

    assert await actions.state(room_id, "m.room.power_levels") == levels


async def test_new_rooms_are_encrypted_if_configured(
    database: Database,
) -> None:
    settings = room_settings(
        encryption_enabled_by_default_for_room_type="invite",
        default_power_level_content_override={"private_chat": {"invite": 33}},
        default_room_version="11",
    )
    async with open_actions(database, settings) as actions:
        private = await create_room(actions)
        public = await create_room(actions, preset="public_chat")

        assert "algorithm" in await actions.state(private, "m.room.encryption")
        assert await actions.state(public, "m.room.encryption") == {}
        assert (await actions.state(private, "m.room.create"))["room_version"] == "11"
        assert (await actions.state(private, "m.room.power_levels"))["invite"] == 33


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
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
        ({"invite": ["@zoe:no server"]}, 400, "M_INVALID_PARAM"),
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
async def test_invalid_room_is_rejected(
    actions: Actions, body: dict[str, Any], status: int, errcode: str
) -> None:
    response = await create(actions, **body)

    assert (response.status, response.errcode) == (status, errcode), response.json
    assert actions.world.seen == []


async def test_alias_in_use_is_rejected_and_alias_of_a_failed_creation_is_released(
    actions: Actions,
) -> None:
    await create_room(actions, room_alias_name="one")

    in_use = await create(actions, room_alias_name="one")
    failed = await create(actions, room_alias_name="two", topic="x" * 70_000)
    after = await create(actions, room_alias_name="two")

    assert (in_use.status, in_use.errcode) == (400, "M_ROOM_IN_USE")
    assert failed.errcode == "M_TOO_LARGE"
    assert after.status == 200


async def test_alias_reserved_by_a_crashed_process_is_released_later(actions: Actions) -> None:
    alias = actions.aliases.local_alias("held")
    await actions.aliases.reserve(ALICE, alias)

    immediately = await create(actions, room_alias_name="held")
    lookup = await actions.client().get(f"{V3}/directory/room/%23held:{SERVER}")
    actions.world.clock.advance(10 * 60_000)
    later = await create(actions, room_alias_name="held")

    assert immediately.errcode == "M_ROOM_IN_USE"
    assert lookup.errcode == "M_NOT_FOUND"
    assert later.status == 200


async def test_alias_and_publication_rules_of_the_settings_apply(database: Database) -> None:
    settings = room_settings(
        alias_creation_rules=(
            RoomRule(user_id="@alice:*", alias="#good*", action="allow"),
            RoomRule(action="deny"),
        ),
        room_list_publication_rules=(RoomRule(user_id="@alice:*", action="allow"),),
    )
    async with open_actions(database, settings) as actions:
        responses = [
            await create(actions, room_alias_name="good-one"),
            await create(actions, room_alias_name="bad"),
            await create(actions, "bob", room_alias_name="good-two"),
            await create(actions, visibility="public"),
            await create(actions, "bob", visibility="public"),
        ]

        assert [response.status for response in responses] == [200, 403, 403, 200, 403]


async def test_guests_and_suspended_users_cannot_create_rooms(actions: Actions) -> None:
    actions.user(BOB, is_guest=True)
    actions.user(DAVE, suspended=True)

    guest = await create(actions, "bob")
    suspended = await create(actions, "dave")

    assert (guest.status, guest.errcode) == (403, "M_GUEST_ACCESS_FORBIDDEN")
    assert (suspended.status, suspended.errcode) == (403, "M_USER_SUSPENDED")


async def test_unlimited_application_service_can_invite_many_users(actions: Actions) -> None:
    users = [UserID(f"@u{n}:{SERVER}") for n in range(350)]
    sizes: list[int] = []
    actions.world.feed.subscribe(EVENTS, lambda batch: sizes.append(len(batch.rows)))

    room_id = await actions.creation.create(
        Requester(ALICE, is_rate_limit_exempt=True), NewRoomRequest(invite=users)
    )

    assert (await actions.memberships.present(room_id)).invited_count == 350
    # The room is created with the first ones; each commit blocks others for a short time only.
    assert len(sizes) == 4
    assert max(sizes) < 120
