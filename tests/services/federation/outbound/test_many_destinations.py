"""Rooms with many servers, of which some are slow or away."""

import trio
import trio.testing

from hs.core.ids import ServerName, UserID
from hs.services.federation.outbound.delivery import KEEP_S
from hs.services.federation_client.peer_transport import PeerRequest, PeerResponse
from tests.services.federation.outbound.test_catching_up import wait_until_behind
from tests.services.federation.sending import (
    ReceivingPeer,
    have_pdus,
    sending,
    shared_room,
    wait_until,
)
from tests.support.federation import open_servers

NEAR = ServerName("near.example")
ANN = UserID("@ann:near.example")


async def test_slow_and_absent_servers_delay_no_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with open_servers(NEAR) as (near,):
        peers = [ReceivingPeer(ServerName(f"far{n}.example"), near.network) for n in range(300)]
        room_id, _ = await shared_room(near, *peers)
        slow, away, others = peers[:10], peers[10:110], peers[110:]

        async def never(request: PeerRequest) -> PeerResponse:
            await trio.sleep_forever()
            raise AssertionError

        near.network.down.update(peer.name for peer in away)
        near.network.answers.update((peer.name, never) for peer in slow)
        async with sending(near):
            for number in range(5):
                began_s = trio.current_time()
                await near.world.send(room_id, ANN, str(number))
                await wait_until(have_pdus(number + 1, *others))
                assert trio.current_time() - began_s < 1
            await trio.sleep(KEEP_S)
            await near.world.send(room_id, ANN, "last")
            await wait_until_behind(near, count=len(slow) + len(away))
            requests = len(near.network.sent)
            await near.world.send(room_id, ANN, "one more")
            await wait_until(lambda: all(len(peer.pdus()) == 7 for peer in others))

            # Servers that are away cost nothing until they are tried again.
            assert len(near.network.sent) - requests <= 300 - len(away)

    assert all(peer.bodies()[:5] == ["0", "1", "2", "3", "4"] for peer in others)
