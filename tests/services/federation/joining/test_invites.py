"""Invites between servers, their rejection and withdrawal."""

from typing import Any

import attrs
import orjson
import pytest
import trio
import trio.testing

from hs.core.canonical_json import canonical_json, encode_lenient
from hs.core.errors import BadJson, Forbidden, MatrixError, RemoteFault
from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.core.versions import ROOM_VERSIONS
from hs.services.federation_client.peer_transport import PeerRequest, PeerResponse
from hs.settings.sections.retention import AutoAcceptSettings
from hs.storage.rooms import purge
from tests.services.federation.joining.rooms_between import (
    ANN,
    BEN,
    CLEO,
    FAR,
    NEAR,
    THIRD,
    join,
    membership_at,
    membership_of,
    register,
    sync,
)
from tests.support.composition import SETTINGS
from tests.support.federation import (
    FederatedServer,
    PeerNetwork,
    ScriptedPeer,
    open_server,
    open_servers,
)
from tests.support.sql.databases import fresh_inline

INVITE = "PUT /_matrix/federation/v2/invite"


async def invite_ben(far: FederatedServer, version: str = "11") -> RoomID:
    room_id = await far.world.create_room(ANN, version=version, join_rule="invite")
    await far.world.set_state(room_id, ANN, "m.room.name", {"name": "Tea"})
    await membership_of(far).invite(Requester(ANN), room_id, BEN)
    return room_id


@pytest.mark.parametrize("version", ROOM_VERSIONS)
async def test_invited_user_sees_the_invite_and_joins(version: str) -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        token = await register(near, BEN)
        since = (await sync(near, token))["next_batch"]

        room_id = await invite_ben(far, version)

        assert await membership_at(far, room_id, BEN) == "invite"
        room = (await sync(near, token, since))["rooms"]["invite"][room_id]
        state = {event["type"]: event for event in room["invite_state"]["events"]}
        assert state["m.room.name"]["content"] == {"name": "Tea"}
        assert state["m.room.create"]["sender"] == ANN
        assert state["m.room.member"]["state_key"] == BEN
        await join(near, BEN, room_id)
        assert await membership_at(near, room_id, BEN) == "join"
        assert room_id in (await sync(near, token))["rooms"]["join"]


async def test_invite_wakes_a_waiting_sync() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        token = await register(near, BEN)
        since = (await sync(near, token))["next_batch"]
        answers: list[dict[str, Any]] = []

        async def wait() -> None:
            query = {"since": since, "timeout": 30_000}
            response = await near.web().get("/_matrix/client/v3/sync", token=token, query=query)
            answers.append(response.json)

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                room_id = await invite_ben(far)

        assert room_id in answers[0]["rooms"]["invite"]


async def test_rejected_invite_is_gone_on_both_servers() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        token = await register(near, BEN)
        room_id = await invite_ben(far)
        since = (await sync(near, token))["next_batch"]

        await membership_of(near).leave(Requester(BEN), room_id)

        assert await membership_at(near, room_id, BEN) == "leave"
        assert await membership_at(far, room_id, BEN) == "leave"
        rooms = (await sync(near, token, since))["rooms"]
        assert room_id in rooms["leave"]
        assert "invite" not in rooms
        assert "rooms" not in await sync(near, token)


@pytest.mark.parametrize("version", ["1", "11", "12"])
async def test_invite_is_rejected_while_the_other_server_is_away(version: str) -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        await register(near, BEN)
        room_id = await invite_ben(far, version)
        (invite,) = [request for _, request in far.network.sent if "v2/invite" in request.uri]
        far.network.down.add(FAR)

        await membership_of(near).leave(Requester(BEN), room_id)
        assert await membership_at(near, room_id, BEN) == "leave"

        # The invite is sent again, for example because the response was lost.
        far.network.down.remove(FAR)
        await far.client.request(NEAR, "PUT", invite.uri, invite.body)
        assert await membership_at(near, room_id, BEN) == "leave"


async def test_user_is_invited_again_after_a_rejection() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        await register(near, BEN)
        room_id = await invite_ben(far)
        await membership_of(near).leave(Requester(BEN), room_id)

        await membership_of(far).invite(Requester(ANN), room_id, BEN)

        assert await membership_at(near, room_id, BEN) == "invite"


async def test_unknown_and_deactivated_users_are_not_invited() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        await register(near, BEN)
        await near.process.services.core.accounts.lifecycle.deactivate(BEN, erase=False)
        room_id = await far.world.create_room(ANN)

        for user_id, errcode in ((CLEO, "M_NOT_FOUND"), (BEN, "M_FORBIDDEN")):
            with pytest.raises(MatrixError) as caught:
                await membership_of(far).invite(Requester(ANN), room_id, user_id)
            assert caught.value.errcode == errcode
            assert await membership_at(far, room_id, user_id) is None


async def test_deactivated_user_is_not_invited_any_more() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        await register(near, BEN)
        room_id = await invite_ben(far)
        accounts = near.process.services.core.accounts
        await accounts.lifecycle.deactivate(BEN, erase=False)

        await near.process.services.core.rooms.departures.leave_all(BEN)

        assert await membership_at(near, room_id, BEN) == "leave"


async def test_forgotten_invite_is_purged() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        await register(near, BEN)
        room_id = await invite_ben(far)
        await membership_of(near).leave(Requester(BEN), room_id)
        await membership_of(near).forget(Requester(BEN), room_id)

        now_ms = near.world.clock.now_ms()
        await near.world.database.write(purge.record_forgotten_rooms, now_ms)
        members = await near.world.database.write(purge.purge_forgotten_room, room_id)

        assert members == [BEN]
        await membership_of(far).invite(Requester(ANN), room_id, BEN)
        assert (await near.world.memberships.look_again(room_id, BEN)) is not None


async def test_invite_from_another_server_is_accepted_automatically() -> None:
    network = PeerNetwork()
    settings = attrs.evolve(SETTINGS, auto_accept=AutoAcceptSettings(enabled=True))
    async with fresh_inline() as database, open_servers(FAR, network=network) as (far,):
        async with open_server(NEAR, network, database, settings=settings) as near:
            await register(near, BEN)
            room_id = await invite_ben(far)
            duty = near.process.services.members.duties.auto_accept
            assert duty is not None

            await duty.accept_waiting()

            assert await membership_at(near, room_id, BEN) == "join"


async def test_room_is_created_with_those_who_can_be_invited() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        token = await register(far, ANN)
        await register(near, BEN)
        body = {"invite": ["@dan:third.example", BEN]}
        response = await far.web().post("/_matrix/client/v3/createRoom", body, token=token)

        room_id = response.json["room_id"]
        assert await membership_at(far, room_id, BEN) == "invite"
        assert await membership_at(far, room_id, UserID("@dan:third.example")) is None


async def test_invite_without_answer_is_not_appended() -> None:
    network = PeerNetwork()
    network.down.add(NEAR)
    async with open_servers(FAR, network=network) as (far,):
        room_id = await far.world.create_room(ANN)
        with pytest.raises(RemoteFault):
            await membership_of(far).invite(Requester(ANN), room_id, BEN)
        network.down.remove(NEAR)
        peer = ScriptedPeer(NEAR, network)
        unsigned = {"signatures": {NEAR: {"ed25519:key": "AA"}}}
        answers: list[dict[str, Any]] = [{}, {"event": {}}, {"event": unsigned}]
        for answer in answers:
            peer.responses[INVITE] = (200, answer)
            with pytest.raises(RemoteFault):
                await membership_of(far).invite(Requester(ANN), room_id, BEN)

        assert await membership_at(far, room_id, BEN) is None


@pytest.mark.parametrize(("version", "is_allowed"), [("5", True), ("6", False)])
async def test_response_to_an_invite_must_be_json_of_the_room_version(
    version: str, is_allowed: bool
) -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        await register(near, BEN)
        answer = near.network.answers[NEAR]

        async def with_float(request: PeerRequest) -> PeerResponse:
            response = await answer(request)
            if "/invite/" not in request.uri:
                return response
            content = orjson.loads(response.body)
            content["event"]["x"] = 1.5
            return attrs.evolve(response, body=orjson.dumps(content))

        near.network.answers[NEAR] = with_float
        if is_allowed:
            await invite_ben(far, version)
        else:
            with pytest.raises(BadJson, match="answered with an invalid event"):
                await invite_ben(far, version)


async def test_user_without_permission_sends_no_invite() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN, power_levels={"invite": 50})
        await join(near, CLEO, room_id, FAR)
        with pytest.raises(Forbidden):
            await membership_of(near).invite(Requester(CLEO), room_id, ANN)
        assert not any("invite" in uri for uri in near.network.uris(FAR))


async def test_invite_in_room_of_both_servers_is_not_stored_from_outside() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        await register(near, BEN)
        room_id = await far.world.create_room(ANN)
        await join(near, CLEO, room_id, FAR)

        await membership_of(far).invite(Requester(ANN), room_id, BEN)

        # It arrives in the room, by a transaction.
        assert await membership_at(near, room_id, BEN) is None


@pytest.mark.parametrize(
    ("change", "errcode"),
    [
        ({"room_version": "99"}, "M_INCOMPATIBLE_ROOM_VERSION"),
        ({"type": "m.room.message"}, "M_INVALID_PARAM"),
        ({"content": {"membership": "join"}}, "M_INVALID_PARAM"),
        ({"state_key": "@ben:other.example"}, "M_INVALID_PARAM"),
        ({"sender": "@ann:other.example"}, "M_INVALID_PARAM"),
        ({"origin_server_ts": 1.5}, "M_BAD_JSON"),
        ({"signatures": {}}, "M_FORBIDDEN"),
        ({"content": {"membership": "invite", "more": 1}}, "M_INVALID_PARAM"),
        ({"room_id": "!other:far.example"}, "M_INVALID_PARAM"),
    ],
)
async def test_wrong_invites_are_not_signed(change: dict[str, Any], errcode: str) -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        await register(near, BEN)
        room_id = await far.world.create_room(ANN)
        original = near.network.answers[NEAR]
        seen: list[Any] = []

        async def keep(request: Any) -> Any:
            seen.append(request)
            raise RemoteFault(NEAR, "not delivered")

        near.network.answers[NEAR] = keep
        with pytest.raises(RemoteFault):
            await membership_of(far).invite(Requester(ANN), room_id, BEN)
        near.network.answers[NEAR] = original
        body = _json(seen[-1].body)
        version = change.pop("room_version", None)
        body["event"].update(change)
        body["room_version"] = version or body["room_version"]

        with pytest.raises(RemoteFault) as caught:
            await far.client.request(NEAR, "PUT", seen[-1].uri, encode_lenient(body))

        assert caught.value.error is not None
        assert caught.value.error.errcode == errcode
        assert await membership_at(near, room_id, BEN) is None


@pytest.mark.parametrize(("version", "is_accepted"), [("11", True), ("12", False)])
async def test_create_event_is_required_in_invites_of_version_12(
    version: str, is_accepted: bool
) -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        await register(near, BEN)
        room_id = await far.world.create_room(ANN, version=version)
        original = near.network.answers[NEAR]

        async def without_state(request: Any) -> Any:
            raise RemoteFault(NEAR, "not delivered")

        near.network.answers[NEAR] = without_state
        with pytest.raises(RemoteFault):
            await membership_of(far).invite(Requester(ANN), room_id, BEN)
        near.network.answers[NEAR] = original
        request = [r for _, r in near.network.sent if "invite" in r.uri][-1]
        body = _json(request.body)
        body["invite_room_state"] = [
            {"type": "m.room.name", "state_key": "", "sender": ANN, "content": {"name": "Tea"}}
        ]
        response = await far.client.exchange(NEAR, "PUT", request.uri, canonical_json(body))

        assert response.status == (200 if is_accepted else 400)
        membership = await membership_at(near, room_id, BEN)
        assert membership == ("invite" if is_accepted else None)


async def test_invite_in_the_old_form_is_accepted() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        await register(near, BEN)
        answer, unknown = near.network.answers[NEAR], ScriptedPeer(THIRD, PeerNetwork())

        async def without_v2(request: Any) -> Any:
            return await (unknown.answer if "federation/v2" in request.uri else answer)(request)

        near.network.answers[NEAR] = without_v2
        room_id = await invite_ben(far, "2")
        near.network.answers[NEAR] = answer

        assert await membership_at(near, room_id, BEN) == "invite"
        assert await membership_at(far, room_id, BEN) == "invite"


def _json(raw: bytes | None) -> Any:
    return orjson.loads(raw or b"{}")
