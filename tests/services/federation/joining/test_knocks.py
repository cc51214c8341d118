"""Knocks on rooms of other servers, and how they end."""

import pytest

from hs.core.errors import Forbidden, MatrixError
from hs.core.requester import Requester
from hs.services.rooms.append.drafts import Draft
from tests.services.federation.joining.rooms_between import (
    ANN,
    BEN,
    FAR,
    NEAR,
    join,
    knock,
    membership_at,
    membership_of,
    register,
    sync,
)
from tests.support.federation import open_servers

KNOCKING = [Draft("m.room.join_rules", ANN, {"join_rule": "knock"}, "")]


@pytest.mark.parametrize("version", ["7", "8", "9", "10", "11", "12"])
async def test_knocking_user_sees_the_room_and_is_let_in(version: str) -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        token = await register(near, BEN)
        since = (await sync(near, token))["next_batch"]
        room_id = await far.world.create_room(ANN, version=version, state=KNOCKING)

        await knock(near, BEN, room_id, FAR)

        assert await membership_at(far, room_id, BEN) == "knock"
        room = (await sync(near, token, since))["rooms"]["knock"][room_id]
        types = {event["type"] for event in room["knock_state"]["events"]}
        assert {"m.room.create", "m.room.member"} <= types
        await membership_of(far).invite(Requester(ANN), room_id, BEN)
        assert await membership_at(near, room_id, BEN) == "invite"
        await join(near, BEN, room_id)
        assert await membership_at(near, room_id, BEN) == "join"


@pytest.mark.parametrize("version", ["10", "12"])
@pytest.mark.parametrize("is_away", [False, True])
async def test_knock_is_retracted(version: str, is_away: bool) -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN, version=version, state=KNOCKING)
        await knock(near, BEN, room_id, FAR)
        if is_away:
            far.network.down.add(FAR)

        await membership_of(near).leave(Requester(BEN), room_id)

        assert await membership_at(near, room_id, BEN) == "leave"
        assert await membership_at(far, room_id, BEN) == ("knock" if is_away else "leave")


async def test_knock_is_refused_where_nobody_may_knock() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        public = await far.world.create_room(ANN)
        old = await far.world.create_room(ANN, version="6")

        with pytest.raises(Forbidden):
            await knock(near, BEN, public, FAR)
        with pytest.raises(MatrixError):
            await knock(near, BEN, old, FAR)

        assert await membership_at(near, public, BEN) is None


async def test_server_that_the_room_denies_is_refused() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        acl = Draft("m.room.server_acl", ANN, {"allow": ["*"], "deny": [NEAR]}, "")
        room_id = await far.world.create_room(ANN, state=[acl])

        with pytest.raises(Forbidden, match="access control list"):
            await join(near, BEN, room_id, FAR)
