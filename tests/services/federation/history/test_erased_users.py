"""Events of erased users, as other servers get them."""

from typing import Any

from hs.core.ids import EventID, UserID
from tests.services.federation.joining.rooms_between import (
    ANN,
    BEN,
    DAN,
    FAR,
    NEAR,
    THIRD,
    join,
    register,
)
from tests.support.federation import FederatedServer, open_servers

CAL = UserID("@cal:far.example")


async def test_servers_that_join_after_the_erasure_get_redacted_events() -> None:
    async with open_servers(NEAR, FAR, THIRD) as (near, far, third):
        await register(far, ANN)
        room_id = await far.world.create_room(ANN)
        await far.world.join(room_id, CAL)
        await join(near, BEN, room_id, FAR)
        event_id = (await far.world.send(room_id, ANN, "hello")).event_id

        await far.process.services.core.accounts.lifecycle.deactivate(ANN, erase=True)
        await join(third, DAN, room_id, FAR)

        assert (await _content(near, event_id))["body"] == "hello"
        assert await _content(third, event_id) == {}


async def _content(server: FederatedServer, event_id: EventID) -> Any:
    response = await server.client.get(FAR, f"/_matrix/federation/v1/event/{event_id}")
    (pdu,) = response["pdus"]
    return pdu["content"]
