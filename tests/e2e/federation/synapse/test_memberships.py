"""Invites, knocks, restricted joins, kicks and bans between our server and Synapse."""

from typing import Any

import pytest

from tests.e2e.federation.synapse.conftest import Sides
from tests.support.servers.matrix_user import V3, MatrixUser, path_of, sign_up
from tests.support.servers.sync_view import Json

pytestmark = [
    pytest.mark.process,
    pytest.mark.synapse,
    pytest.mark.parametrize("version", ["10", "12"]),
]


async def join_status(user: MatrixUser, room_id: str, via: str) -> int:
    """Try to join a room; return the status of the response."""
    target = f"{path_of('join', room_id)}?via={via}&server_name={via}"
    response = await user.request("POST", target, {})
    return response.status


async def both_hear(near: MatrixUser, far: MatrixUser, room_id: str) -> None:
    """Send a message each way."""
    for sender, reader in ((near, far), (far, near)):
        sent = await sender.say(room_id, f"from {sender.user_id}")
        await reader.wait_for_event(room_id, sent)


def join_rule(rule: str, *allowed_room_ids: str) -> Json:
    """Return an initial state event with a join rule."""
    content: Json = {"join_rule": rule}
    if allowed_room_ids:
        content["allow"] = [
            {"type": "m.room_membership", "room_id": room_id} for room_id in allowed_room_ids
        ]
    return {"type": "m.room.join_rules", "state_key": "", "content": content}


async def test_invite_is_accepted(sides: Sides, version: str) -> None:
    near, far = await sides.sign_up()
    async with near, far:
        room_id = await near.create_room(room_version=version, name="private", invite=[far.user_id])

        await far.wait_for_section(room_id, "invite")
        stripped = {event["type"] for event in far.view.stripped[room_id]}
        await far.join(room_id)
        await near.wait_for_member(room_id, far.user_id, "join")
        await both_hear(near, far, room_id)

        assert {"m.room.create", "m.room.join_rules", "m.room.name", "m.room.member"} <= stripped
        assert await near.state(room_id) == await far.state(room_id)


async def test_invite_to_a_room_of_both_servers(sides: Sides, version: str) -> None:
    near, far = await sides.sign_up()
    second_near, second_far = await sides.sign_up()
    async with near, far, second_near, second_far:
        room_id = await near.create_room(room_version=version, invite=[far.user_id])
        await far.wait_for_section(room_id, "invite")
        await far.join(room_id)
        levels = await near.call("GET", path_of("rooms", room_id, "state", "m.room.power_levels"))
        levels["users"] = {**levels.get("users", {}), far.user_id: 100}
        changed = await near.set_state(room_id, "m.room.power_levels", levels)
        await far.wait_for_event(room_id, changed)

        for inviter, invited in ((far, second_near), (near, second_far)):
            await inviter.act_on(room_id, "invite", invited.user_id)
            await invited.wait_for_section(room_id, "invite")
            await invited.join(room_id)
            for user in (near, far):
                await user.wait_for_member(room_id, invited.user_id, "join")

        assert await near.state(room_id) == await far.state(room_id)


async def test_invite_is_rejected_and_repeated(sides: Sides, version: str) -> None:
    near, far = await sides.sign_up()
    async with near, far:
        room_id = await near.create_room(room_version=version, invite=[far.user_id])
        await far.wait_for_section(room_id, "invite")

        await far.leave(room_id)
        await near.wait_for_member(room_id, far.user_id, "leave")
        await far.wait_for_section(room_id, "leave")
        refused = await join_status(far, room_id, near.server)
        await near.act_on(room_id, "invite", far.user_id)
        await far.wait_for_section(room_id, "invite")
        await far.join(room_id)
        await both_hear(near, far, room_id)

        assert refused == 403


async def test_invite_is_taken_back(sides: Sides, version: str) -> None:
    near, far = await sides.sign_up()
    async with near, far:
        room_id = await near.create_room(room_version=version, invite=[far.user_id])
        await far.wait_for_section(room_id, "invite")

        await near.act_on(room_id, "kick", far.user_id)
        await far.wait_for_section(room_id, "leave")

        assert await join_status(far, room_id, near.server) == 403


async def test_knock_is_accepted(sides: Sides, version: str) -> None:
    near, far = await sides.sign_up()
    async with near, far:
        room_id = await near.create_room(
            room_version=version, initial_state=[join_rule("knock")], name="closed"
        )

        await far.knock(room_id, near.server)
        await far.wait_for_section(room_id, "knock")
        stripped = {event["type"] for event in far.view.stripped[room_id]}
        await near.wait_for_member(room_id, far.user_id, "knock")
        await near.act_on(room_id, "invite", far.user_id)
        await far.wait_for_section(room_id, "invite")
        await far.join(room_id, near.server)
        await both_hear(near, far, room_id)

        assert {"m.room.create", "m.room.join_rules", "m.room.name"} <= stripped


async def test_knock_is_rejected(sides: Sides, version: str) -> None:
    near, far = await sides.sign_up()
    async with near, far:
        room_id = await near.create_room(room_version=version, initial_state=[join_rule("knock")])

        await far.knock(room_id, near.server)
        await near.wait_for_member(room_id, far.user_id, "knock")
        await near.act_on(room_id, "kick", far.user_id)

        # Synapse neither sends the rejection to the server of the user, nor takes it from ours.
        assert await join_status(far, room_id, near.server) == 403


async def test_knock_is_taken_back(sides: Sides, version: str) -> None:
    if not sides.far_is_hs:
        pytest.skip("Synapse does not send that its users take knocks back")
    near, far = await sides.sign_up()
    async with near, far:
        room_id = await near.create_room(room_version=version, initial_state=[join_rule("knock")])

        await far.knock(room_id, near.server)
        await near.wait_for_member(room_id, far.user_id, "knock")
        await far.wait_for_section(room_id, "knock")
        await far.leave(room_id)
        await near.wait_for_member(room_id, far.user_id, "leave")
        await far.wait_for_section(room_id, "leave")


@pytest.mark.parametrize("rule", ["restricted", "knock_restricted"])
async def test_restricted_room_is_joined_by_members_of_a_space(
    sides: Sides, version: str, rule: str
) -> None:
    near, far = await sides.sign_up()
    async with near, far:
        space_id = await near.create_room(preset="public_chat", room_version=version)
        room_id = await near.create_room(
            room_version=version, initial_state=[join_rule(rule, space_id)]
        )
        refused = await join_status(far, room_id, near.server)

        await far.join(space_id, near.server)
        await near.wait_for_member(space_id, far.user_id, "join")
        await far.join(room_id, near.server)
        await both_hear(near, far, room_id)
        member = await near.call(
            "GET", path_of("rooms", room_id, "state", "m.room.member", far.user_id)
        )

        assert refused == 403
        assert member["join_authorised_via_users_server"] == near.user_id


async def test_restricted_room_is_joined_by_a_second_user_of_the_other_server(
    sides: Sides, version: str
) -> None:
    """The server of the second user is in the room, but has no user who may invite."""
    near, far = await sides.sign_up()
    second = await sign_up(sides.far.ports, "second")
    async with near, far, second:
        space_id = await near.create_room(preset="public_chat", room_version=version)
        room_id = await near.create_room(
            room_version=version,
            initial_state=[join_rule("restricted", space_id)],
            power_level_content_override={"invite": 50},
        )
        for user in (far, second):
            await user.join(space_id, near.server)
            await near.wait_for_member(space_id, user.user_id, "join")
        await far.join(room_id, near.server)

        await second.join(room_id, near.server)
        await near.wait_for_member(room_id, second.user_id, "join")
        await far.wait_for_member(room_id, second.user_id, "join")
        await both_hear(near, second, room_id)

        assert await near.state(room_id) == await far.state(room_id)


async def test_kicked_user_returns(sides: Sides, version: str) -> None:
    near, far = await sides.sign_up()
    async with near, far:
        room_id = await near.create_room(preset="public_chat", room_version=version)
        await far.join(room_id, near.server)
        await both_hear(near, far, room_id)

        await near.act_on(room_id, "kick", far.user_id)
        await far.wait_for_section(room_id, "leave")
        unheard = await near.say(room_id, "while far is away")
        await far.join(room_id, near.server)
        await both_hear(near, far, room_id)

        assert unheard in [event["event_id"] for event in await far.history(room_id)]
        assert await near.state(room_id) == await far.state(room_id)


async def test_banned_user_returns_only_after_the_ban(sides: Sides, version: str) -> None:
    near, far = await sides.sign_up()
    async with near, far:
        room_id = await near.create_room(preset="public_chat", room_version=version)
        await far.join(room_id, near.server)
        await both_hear(near, far, room_id)

        await near.act_on(room_id, "ban", far.user_id)
        await far.wait_for_section(room_id, "leave")
        refused = await join_status(far, room_id, near.server)
        await near.act_on(room_id, "unban", far.user_id)
        await far.join(room_id, near.server)
        await both_hear(near, far, room_id)

        assert refused == 403


async def test_moderator_of_the_other_server_kicks_and_bans(sides: Sides, version: str) -> None:
    near, far = await sides.sign_up()
    second = await sign_up(sides.far.ports, "second")
    async with near, far, second:
        room_id = await near.create_room(preset="public_chat", room_version=version)
        for user in (far, second):
            await user.join(room_id, near.server)
        levels = await near.call("GET", path_of("rooms", room_id, "state", "m.room.power_levels"))
        levels["users"] = {**levels.get("users", {}), far.user_id: 50}
        changed = await near.set_state(room_id, "m.room.power_levels", levels)
        await far.wait_for_event(room_id, changed)

        await far.act_on(room_id, "ban", second.user_id)
        await near.wait_for_member(room_id, second.user_id, "ban")
        await far.act_on(room_id, "unban", second.user_id)
        await near.wait_for_member(room_id, second.user_id, "leave")

        assert await near.state(room_id) == await far.state(room_id)


async def test_last_user_of_the_other_server_leaves_and_rejoins(sides: Sides, version: str) -> None:
    near, far = await sides.sign_up()
    async with near, far:
        room_id = await near.create_room(preset="public_chat", room_version=version)
        for number in range(2):
            await far.join(room_id, near.server)
            await both_hear(near, far, room_id)
            await far.leave(room_id)
            await near.wait_for_member(room_id, far.user_id, "leave")
            await near.say(room_id, f"alone {number}")
        await far.join(room_id, near.server)
        await both_hear(near, far, room_id)

        assert await near.state(room_id) == await far.state(room_id)


async def test_server_acl_shuts_out_the_other_server(sides: Sides, version: str) -> None:
    near, far = await sides.sign_up()
    async with near, far:
        room_id = await near.create_room(preset="public_chat", room_version=version)
        await far.join(room_id, near.server)
        await both_hear(near, far, room_id)
        host = far.server.partition(":")[0]
        content: dict[str, Any] = {"allow": ["*"], "deny": [host, far.server]}
        content["allow_ip_literals"] = True
        acl = await near.set_state(room_id, "m.room.server_acl", content)
        await far.wait_for_event(room_id, acl)

        await far.leave(room_id)
        refused = await join_status(far, room_id, near.server)
        room = await near.call("GET", path_of("rooms", room_id, "joined_members", base=V3))

        assert refused in (403, 404)
        assert far.user_id in room["joined"]
