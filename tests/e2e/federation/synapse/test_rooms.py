"""Rooms shared with Synapse: joins, messages, state, history and upgrades, by room version."""

from typing import Any

import pytest
import trio

from tests.e2e.federation.synapse.conftest import Sides
from tests.support.servers.matrix_user import V3, WAIT_S, MatrixUser, path_of

pytestmark = [pytest.mark.process, pytest.mark.synapse]

VERSIONS = [str(number) for number in range(1, 13)]
BACKFILLED = 500
RETRY_S = 0.2


async def offered_versions(user: MatrixUser) -> set[str]:
    """Return the room versions that a user's server creates."""
    capabilities = (await user.call("GET", f"{V3}/capabilities"))["capabilities"]
    return set(capabilities["m.room_versions"]["available"])


async def shared_room(near: MatrixUser, far: MatrixUser, **options: Any) -> str:
    """Create a public room and let the user of the other server join it."""
    room_id = await near.create_room(**{"preset": "public_chat", **options})
    await far.join(room_id, near.server)
    await near.wait_for_member(room_id, far.user_id, "join")
    await far.wait_for_section(room_id, "join")
    return room_id


def texts(events: list[dict[str, Any]]) -> list[str]:
    """Return the bodies of the messages among events."""
    return [event["content"].get("body", "") for event in events if is_message(event)]


def is_message(event: dict[str, Any]) -> bool:
    """Return whether an event is a message."""
    return bool(event["type"] == "m.room.message")


@pytest.mark.parametrize("version", VERSIONS)
async def test_users_talk_and_agree_on_the_state(sides: Sides, version: str) -> None:
    near, far = await sides.sign_up()
    async with near, far:
        assert version in await offered_versions(near) & await offered_versions(far)

        room_id = await near.create_room(preset="public_chat", room_version=version, name="a room")
        before = await near.say(room_id, "before the join")
        await far.join(room_id, near.server)
        answer = await far.say(room_id, "hello from far")
        await near.wait_for_event(room_id, answer)
        reply = await near.say(room_id, "hello from near")
        await far.wait_for_event(room_id, reply)

        # A user of the other server gets power, and uses it.
        levels = await near.call("GET", path_of("rooms", room_id, "state", "m.room.power_levels"))
        levels["users"] = {**levels.get("users", {}), far.user_id: 60}
        changed = await near.set_state(room_id, "m.room.power_levels", levels)
        await far.wait_for_event(room_id, changed)
        topic = await far.set_state(room_id, "m.room.topic", {"topic": "far decides"})
        await near.wait_for_event(room_id, topic)
        named = await near.set_state(room_id, "m.room.name", {"name": "renamed"})
        await far.wait_for_event(room_id, named)

        redaction_path = path_of("rooms", room_id, "redact", reply, "redact-near")
        redaction = (await far.call("PUT", redaction_path, {}))["event_id"]
        await near.wait_for_event(room_id, redaction)
        redacted = await near.call("GET", path_of("rooms", room_id, "event", reply))

        assert redacted["content"] == {}
        assert await near.state(room_id) == await far.state(room_id)
        near_events = {event["event_id"] for event in await near.history(room_id)}
        far_events = {event["event_id"] for event in await far.history(room_id)}
        assert near_events == far_events >= {before, answer, reply, topic, named, redaction}


@pytest.mark.parametrize("version", ["2", "10", "12"])
async def test_concurrent_state_is_resolved_alike(sides: Sides, version: str) -> None:
    near, far = await sides.sign_up()
    async with near, far:
        room_id = await shared_room(near, far, room_version=version)
        levels = await near.call("GET", path_of("rooms", room_id, "state", "m.room.power_levels"))
        levels["users"] = {**levels.get("users", {}), far.user_id: 100}
        changed = await near.set_state(room_id, "m.room.power_levels", levels)
        await far.wait_for_event(room_id, changed)

        for number in range(5):
            topics = [
                await user.set_state(room_id, "m.room.topic", {"topic": f"{user.server} {number}"})
                for user in (near, far)
            ]
            for user in (near, far):
                for event_id in topics:
                    await user.wait_for_event(room_id, event_id)
            last = await near.say(room_id, f"after {number}")
            await far.wait_for_event(room_id, last)

            assert await near.state(room_id) == await far.state(room_id)


@pytest.mark.parametrize("version", ["10", "12"])
async def test_history_is_backfilled(sides: Sides, version: str) -> None:
    near, far = await sides.sign_up()
    async with near, far:
        room_id = await near.create_room(preset="public_chat", room_version=version)
        sent = [f"message {number}" for number in range(BACKFILLED)]
        for body in sent:
            await near.say(room_id, body)

        await far.join(room_id, near.server)
        events = await far.history(room_id)

        assert texts(events)[::-1] == sent
        assert events[-1]["type"] == "m.room.create"
        assert len({event["event_id"] for event in events}) == len(events)


@pytest.mark.parametrize("version", ["10", "12"])
async def test_history_before_the_join_is_hidden_where_the_room_says_so(
    sides: Sides, version: str
) -> None:
    near, far = await sides.sign_up()
    hidden: dict[str, Any] = {"type": "m.room.history_visibility", "state_key": ""}
    hidden["content"] = {"history_visibility": "joined"}
    async with near, far:
        room_id = await near.create_room(
            preset="public_chat", room_version=version, initial_state=[hidden]
        )
        await near.say(room_id, "secret")
        await far.join(room_id, near.server)
        last = await near.say(room_id, "for all")
        await far.wait_for_event(room_id, last)

        assert texts(await far.history(room_id)) == ["for all"]


@pytest.mark.parametrize(("old", "new"), [("5", "10"), ("10", "11"), ("11", "12")])
async def test_upgraded_room_is_followed(sides: Sides, old: str, new: str) -> None:
    near, far = await sides.sign_up()
    alias_name = f"upgraded{old}{near.user_id.split(':')[0][1:]}"
    alias = f"#{alias_name}:{near.server}"
    async with near, far:
        room_id = await shared_room(near, far, room_version=old, room_alias_name=alias_name)

        upgraded = await near.call(
            "POST", path_of("rooms", room_id, "upgrade"), {"new_version": new}
        )
        replacement = upgraded["replacement_room"]
        tombstone = await far.wait_for_state(room_id, "m.room.tombstone")
        await far.join(replacement, near.server)
        said = await far.say(replacement, "we moved")
        await near.wait_for_event(replacement, said)
        create = await far.call("GET", path_of("rooms", replacement, "state", "m.room.create"))

        assert tombstone["replacement_room"] == replacement
        assert create["predecessor"]["room_id"] == room_id
        assert create["room_version"] == new
        found = await far.call("GET", path_of("directory", "room", alias))
        assert found["room_id"] == replacement


async def listed_rooms(
    user: MatrixUser, method: str, target: str, body: Any, room_id: str
) -> list[str]:
    """Request a list of public rooms until it has a room: Synapse lists rooms a moment later."""
    with trio.fail_after(WAIT_S):
        while True:
            chunk = (await user.call(method, target, body))["chunk"]
            room_ids = [room["room_id"] for room in chunk]
            if room_id in room_ids:
                return room_ids
            await trio.sleep(RETRY_S)


async def test_rooms_are_found_by_alias_and_in_the_directory(sides: Sides) -> None:
    near, far = await sides.sign_up()
    alias_name = f"listed{near.user_id.split(':')[0][1:]}"
    alias = f"#{alias_name}:{near.server}"
    async with near, far:
        room_id = await near.create_room(
            preset="public_chat", visibility="public", room_alias_name=alias_name, name="listed"
        )

        target = f"{V3}/publicRooms?server={near.server}"
        await listed_rooms(far, "GET", f"{target}&limit=500", None, room_id)
        search = {"filter": {"generic_search_term": alias_name}, "limit": 10}
        found = await listed_rooms(far, "POST", target, search, room_id)

        assert found == [room_id]
        assert await far.join(alias) == room_id


async def test_spaces_and_timestamps_are_read_across_servers(sides: Sides) -> None:
    near, far = await sides.sign_up()
    async with near, far:
        room_id = await near.create_room(preset="public_chat", name="inside")
        space_id = await near.create_room(
            preset="public_chat", name="space", creation_content={"type": "m.space"}
        )
        await near.set_state(space_id, "m.space.child", {"via": [near.server]}, room_id)
        first = await near.say(room_id, "first")
        sent_ms = (await near.call("GET", path_of("rooms", room_id, "event", first)))[
            "origin_server_ts"
        ]
        await far.join(space_id, near.server)

        hierarchy = await far.call(
            "GET", path_of("rooms", space_id, "hierarchy", base="/_matrix/client/v1")
        )
        await far.join(room_id, near.server)
        target = path_of("rooms", room_id, "timestamp_to_event", base="/_matrix/client/v1")
        nearest = await far.call("GET", f"{target}?ts={sent_ms}&dir=b")

        assert {room["room_id"] for room in hierarchy["rooms"]} == {space_id, room_id}
        assert nearest["event_id"] == first
