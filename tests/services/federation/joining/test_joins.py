"""Joins through other servers."""

from typing import Any

import pytest
import trio

from hs.core.errors import Forbidden, IncompatibleRoomVersion, MatrixError, RemoteFault
from hs.core.ids import RoomID, ServerName, UserID
from hs.core.versions import ROOM_VERSIONS
from hs.services.rooms.append.drafts import Draft
from tests.services.federation.joining.rooms_between import (
    ANN,
    BEN,
    CLEO,
    DAN,
    FAR,
    NEAR,
    THIRD,
    join,
    membership_at,
    register,
    sync,
)
from tests.support.federation import PeerNetwork, ScriptedPeer, open_servers
from tests.support.rooms import member

DEAD = ServerName("dead.example")
MAKE_JOIN = "GET /_matrix/federation/v1/make_join"
SEND_JOIN = "PUT /_matrix/federation/v2/send_join"


@pytest.mark.parametrize("version", ROOM_VERSIONS)
async def test_user_joins_room_of_another_server(version: str) -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN, version=version)
        await far.world.set_state(room_id, ANN, "m.room.name", {"name": "Tea"})

        await join(near, BEN, room_id, FAR)

        assert await membership_at(near, room_id, BEN) == "join"
        assert await membership_at(near, room_id, ANN) == "join"
        assert await membership_at(far, room_id, BEN) == "join"
        near_state = await near.world.states.current(room_id)
        assert near_state == await far.world.states.current(room_id)
        assert near_state["m.room.name", ""]
        await near.world.send(room_id, BEN)


async def test_joined_room_appears_in_sync() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        token = await register(near, BEN)
        since = (await sync(near, token))["next_batch"]
        room_id = await far.world.create_room(ANN)
        await join(near, BEN, room_id, FAR)

        room = (await sync(near, token, since))["rooms"]["join"][room_id]

        senders = {event["sender"] for event in room["state"]["events"]}
        assert senders == {ANN}
        assert [event["sender"] for event in room["timeline"]["events"]] == [BEN]


async def test_resident_server_passes_the_join_on() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        world = far.world
        room_id = await world.create_room(ANN)
        await join(near, BEN, room_id, FAR)

    (row,) = [row for _, row in world.seen if row.sender == BEN]
    assert row.relay


async def test_join_skips_servers_that_are_down_or_know_nothing() -> None:
    network = PeerNetwork()
    ScriptedPeer(THIRD, network, {MAKE_JOIN: (404, {"errcode": "M_NOT_FOUND", "error": ""})})
    async with open_servers(NEAR, FAR, network=network) as (near, far):
        room_id = await far.world.create_room(ANN)

        await join(near, BEN, room_id, DEAD, THIRD, FAR)

        assert await membership_at(near, room_id, BEN) == "join"


async def test_refusal_is_passed_to_the_client_though_another_server_fails() -> None:
    network = PeerNetwork()
    third = ScriptedPeer(THIRD, network)
    async with open_servers(NEAR, FAR, network=network) as (near, far):
        room_id = await far.world.create_room(ANN, join_rule="invite")

        with pytest.raises(Forbidden):
            await join(near, BEN, room_id, FAR, THIRD)

        assert len(third.received) == 1
        assert await membership_at(near, room_id, BEN) is None


async def test_client_learns_the_version_that_is_not_supported() -> None:
    network = PeerNetwork()
    async with open_servers(NEAR, network=network) as (near,):
        peer, error = ScriptedPeer(FAR, network), {"errcode": "M_INCOMPATIBLE_ROOM_VERSION"}
        peer.responses[MAKE_JOIN] = (400, {**error, "error": "", "room_version": "new"})

        with pytest.raises(IncompatibleRoomVersion) as caught:
            await join(near, BEN, RoomID("!room:far.example"), FAR)

        assert caught.value.body()["room_version"] == "new"


async def test_join_without_reachable_servers_fails() -> None:
    async with open_servers(NEAR) as (near,):
        room_id = RoomID("!room:dead.example")
        with pytest.raises(RemoteFault):
            await join(near, BEN, room_id, DEAD)
        with pytest.raises(MatrixError) as caught:
            await join(near, BEN, RoomID("!room:near.example"), NEAR)
        assert caught.value.status == 404


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("type", "m.room.message"),
        ("room_id", "!other:far.example"),
        ("sender", ANN),
        ("state_key", ANN),
        ("content", {"membership": "leave"}),
        ("content", []),
        ("prev_events", "none"),
        ("depth", "deep"),
    ],
)
async def test_wrong_templates_are_not_signed(field: str, value: Any) -> None:
    network = PeerNetwork()
    async with open_servers(NEAR, network=network) as (near,):
        peer, room_id = ScriptedPeer(FAR, network), RoomID("!room:far.example")
        event = {
            "type": "m.room.member",
            "room_id": room_id,
            "sender": BEN,
            "state_key": BEN,
            "content": {"membership": "join"},
            "depth": 5,
            "prev_events": [],
            "auth_events": [],
            field: value,
        }
        peer.responses[MAKE_JOIN] = (200, {"room_version": "11", "event": event})

        with pytest.raises(RemoteFault):
            await join(near, BEN, room_id, FAR)

        assert [request.method for request in peer.received] == ["GET"]


async def test_room_that_a_server_made_up_is_not_stored() -> None:
    network = PeerNetwork()
    async with open_servers(NEAR, FAR, network=network) as (near, far):
        room_id = await far.world.create_room(ANN)
        other_id = await far.world.create_room(ANN)
        lies = ScriptedPeer(THIRD, network)

        lies.responses[MAKE_JOIN] = (
            200,
            {
                "room_version": "11",
                "event": {
                    "type": "m.room.member",
                    "room_id": room_id,
                    "sender": BEN,
                    "state_key": BEN,
                    "content": {"membership": "join"},
                    "depth": 5,
                    "prev_events": ["$" + "a" * 43],
                    "auth_events": [],
                },
            },
        )
        state = (await far.world.states.current(other_id)).values()
        pdus = [stored.event.pdu for stored in (await far.world.events.get(state)).values()]
        network.down.add(FAR)  # its name is in the room ID
        answers: tuple[Any, ...] = (
            {"state": pdus, "auth_chain": pdus},
            {"state": [], "auth_chain": []},
            {"state": pdus, "auth_chain": pdus, "members_omitted": True},
            {"state": {}, "auth_chain": pdus},
            b"[" * 100_000,
        )
        for answer in answers:
            lies.responses[SEND_JOIN] = (200, answer)
            with pytest.raises(RemoteFault):
                await join(near, BEN, room_id, THIRD)
            assert not await near.world.states.current(room_id)
        network.down.remove(FAR)
        await join(near, BEN, room_id, THIRD, FAR)

        assert await membership_at(near, room_id, BEN) == "join"


async def test_old_form_of_send_join_is_tried() -> None:
    network = PeerNetwork()
    async with open_servers(NEAR, FAR, network=network) as (near, far):
        room_id = await far.world.create_room(ANN)
        answer, unknown = network.answers[FAR], ScriptedPeer(THIRD, PeerNetwork())

        async def without_v2(request: Any) -> Any:
            return await (unknown.answer if "federation/v2" in request.uri else answer)(request)

        network.answers[FAR] = without_v2
        await join(near, BEN, room_id, FAR)
        network.answers[FAR] = answer

        assert await membership_at(near, room_id, BEN) == "join"


async def test_large_room_is_stored_in_parts_that_other_rooms_do_not_wait_for() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        members = [UserID(f"@user{number}:far.example") for number in range(600)]
        room_id = await far.world.create_room(ANN)
        await far.world.append(room_id, *(member(user_id, "join") for user_id in members))
        world = near.world
        busy_id = await world.create_room(CLEO)
        world.seen.clear()
        joined = trio.Event()

        async def send_meanwhile() -> None:
            while not joined.is_set():
                await world.send(busy_id, CLEO)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_meanwhile)
            await join(near, BEN, room_id, FAR)
            joined.set()

        assert await world.states.current(room_id) == await far.world.states.current(room_id)
        assert len(await world.memberships.joined(room_id)) == 602
        of_busy_room = [row.room_id == busy_id for _, row in world.seen]
        first, last = of_busy_room.index(False), of_busy_room[::-1].index(False)
        assert any(of_busy_room[first : len(of_busy_room) - last])


async def test_several_users_join_at_once() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN)
        async with trio.open_nursery() as nursery:
            for user_id in (BEN, BEN, CLEO):
                nursery.start_soon(join, near, user_id, room_id, FAR)

        for user_id in (BEN, CLEO):
            assert await membership_at(near, room_id, user_id) == "join"
        sent = [uri for uri in far.network.uris(FAR) if "send_join" in uri]
        assert len(sent) == 1


async def test_user_joins_again_after_all_have_left() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN)
        await join(near, BEN, room_id, FAR)
        await near.world.leave(room_id, BEN)
        await far.world.set_state(room_id, ANN, "m.room.name", {"name": "Tea"})

        await join(near, CLEO, room_id, FAR)

        assert await near.world.states.current(room_id) == await far.world.states.current(room_id)
        await near.world.send(room_id, CLEO)


def _restricted(room_id: RoomID) -> dict[str, Any]:
    allow = [{"type": "m.room_membership", "room_id": room_id}]
    return {"join_rule": "restricted", "allow": allow}


@pytest.mark.parametrize("version", ["8", "9", "10", "11", "12"])
async def test_resident_server_authorises_restricted_join(version: str) -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        space_id = await far.world.create_room(ANN)
        await join(near, BEN, space_id, FAR)
        rule = Draft("m.room.join_rules", ANN, _restricted(space_id), "")
        room_id = await far.world.create_room(ANN, version=version, state=[rule])

        await join(near, BEN, room_id, FAR)
        with pytest.raises(Forbidden):
            await join(near, CLEO, RoomID(room_id), FAR)

        assert await membership_at(near, room_id, BEN) == "join"
        stored = await near.world.states.current_event(room_id, "m.room.member", BEN)
        assert stored is not None
        assert stored.event.content["join_authorised_via_users_server"] == ANN
        assert set(stored.event.pdu["signatures"]) == {NEAR, FAR}


async def test_another_server_authorises_join_of_local_room() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        space_id = await far.world.create_room(ANN)
        await join(near, BEN, space_id, FAR)
        await near.world.join(space_id, CLEO)
        # Ben may not invite, so near.example cannot authorise anybody.
        rule = Draft("m.room.join_rules", ANN, _restricted(space_id), "")
        levels = {"invite": 50}
        room_id = await far.world.create_room(ANN, state=[rule], power_levels=levels)
        await join(near, BEN, room_id, FAR)
        cleo = await near.world.states.current_event(space_id, "m.room.member", CLEO)
        assert cleo is not None
        await far.process.services.core.rooms.receiver.receive(
            space_id, [cleo.event.canonical], [], {}
        )

        await join(near, CLEO, room_id, FAR)

        assert await membership_at(near, room_id, CLEO) == "join"
        assert await membership_at(far, room_id, CLEO) == "join"


async def test_server_that_is_in_no_allowed_room_cannot_authorise() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        rule = Draft("m.room.join_rules", ANN, _restricted(RoomID("!space:third.example")), "")
        room_id = await far.world.create_room(ANN, state=[rule])

        with pytest.raises(MatrixError) as caught:
            await join(near, BEN, room_id, FAR)

        assert caught.value.errcode == "M_UNABLE_TO_AUTHORISE_JOIN"


async def test_third_server_joins_through_either_server() -> None:
    async with open_servers(NEAR, FAR, THIRD) as (near, far, third):
        room_id = await far.world.create_room(ANN)
        await join(near, BEN, room_id, FAR)

        await join(third, DAN, room_id, NEAR)

        assert await membership_at(third, room_id, ANN) == "join"
        assert await membership_at(near, room_id, DAN) == "join"
