"""Clients scroll back in rooms with servers that do not respond, and in others."""

import trio
import trio.testing

from hs.core.ids import ServerName, UserID
from hs.services.federation.history import backfill
from hs.services.federation_client.peer_transport import PeerRequest, PeerResponse
from tests.services.federation.history.test_scrolling_back import BEA, FAR, NEAR, scroll, texts
from tests.services.federation.shared_rooms import join_through
from tests.support.federation import open_servers

SLOW = ServerName("slow.example")
ANN, SID = UserID("@ann:far.example"), UserID("@sid:slow.example")
ROOMS = 3 * backfill.MAX_FILLS


async def test_rooms_of_a_slow_server_delay_others_by_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    autojump_clock.autojump_threshold = 0.5  # threads work meanwhile
    async with open_servers(NEAR, FAR, SLOW) as (near, far, slow):
        rooms = []
        for server, user_id in (*[(slow, SID)] * ROOMS, (far, ANN)):
            room_id = await server.world.create_room(user_id)
            await server.world.send(room_id, user_id, "a")
            await join_through(server, near, room_id, BEA)
            rooms.append(room_id)
        answer = near.network.answers[SLOW]

        async def hang(request: PeerRequest) -> PeerResponse:
            if "/backfill/" in request.uri:
                await trio.sleep_forever()
            return await answer(request)

        near.network.answers[SLOW] = hang
        async with trio.open_nursery() as nursery:
            for room_id in rooms[:-1]:
                nursery.start_soon(scroll, near.process, room_id)
            await trio.sleep(0.1)
            began_s = trio.current_time()
            found = texts(await scroll(near.process, rooms[-1]))
            took_s = trio.current_time() - began_s
            nursery.cancel_scope.cancel()

    assert found == ["a"]
    assert took_s < backfill.WAIT_S
