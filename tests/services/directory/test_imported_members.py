"""The user directory: members of rooms that were joined through other servers."""

import pytest

from hs.core.ids import ServerName, UserID
from hs.core.requester import Requester
from hs.services.directory import user_directory
from hs.services.rooms.membership.room_joins import JoinRequest
from hs.storage.database import Database
from tests.services.federation.inbound.inbound_scene import JOIN, open_inbound
from tests.support.federation import FederatedServer, open_servers
from tests.support.peers import CORA, DORA
from tests.support.rooms import ALICE

NEAR, FAR = ServerName("near.example"), ServerName("far.example")
ANN, DAN = UserID("@ann:far.example"), UserID("@dan:far.example")
BEN, CLEO = UserID("@ben:near.example"), UserID("@cleo:near.example")


async def found_ids(server: FederatedServer, requester: UserID, term: str) -> list[str]:
    directory = server.process.services.directory
    assert directory.updater is not None
    await directory.updater.catch_up()
    results = (await directory.users.search(Requester(requester), term, 10))["results"]
    return [user["user_id"] for user in results]


async def test_members_are_found_until_the_room_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_directory, "BATCH", 1)
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN, join=[DAN], join_rule="public")
        for user_id, name in ((ANN, "Anna Stein"), (DAN, "Daniel Stein")):
            content = {"membership": "join", "displayname": name}
            await far.world.set_state(room_id, user_id, "m.room.member", content, user_id)
        members = near.process.services.members
        assert await found_ids(near, BEN, "stein") == []

        await members.joins.join(Requester(BEN), room_id, JoinRequest(via=[FAR]))
        assert await found_ids(near, CLEO, "stein") == [ANN, DAN]
        await members.membership.leave(Requester(BEN), room_id)

        assert await found_ids(near, BEN, "stein") == []


async def test_members_after_a_gap_are_found(database: Database) -> None:
    async with open_inbound(database) as inbound:
        history = inbound.history
        assert await found_ids(inbound.server, ALICE, "lake") == []
        history.add(DORA, "m.room.member", {**JOIN, "displayname": "Dora Lake"}, DORA)
        messages = [
            history.add(CORA, "m.room.message", {"body": str(number)}) for number in range(250)
        ]
        inbound.serve_history()

        await inbound.send(messages[-1])
        await inbound.work()

        assert await found_ids(inbound.server, ALICE, "lake") == [DORA]
