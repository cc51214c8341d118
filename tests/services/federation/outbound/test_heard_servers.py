"""A server that was down gets what it lacks as soon as it is heard."""

import attrs
import pytest
import trio
import trio.testing

from hs.core.errors import RemoteFault
from hs.core.ids import ServerName, UserID
from hs.lib.clock import FixedClock
from hs.settings.sections.federation import PeerRequestSettings
from tests.services.federation.sending import ReceivingPeer, sending, shared_room, wait_until
from tests.support.composition import SETTINGS
from tests.support.federation import PeerNetwork, open_server
from tests.support.sql.databases import fresh_inline

NEAR, FAR = (ServerName(f"{name}.example") for name in ("near", "far"))
ANN = UserID("@ann:near.example")


async def test_server_that_is_heard_gets_events_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    settings = attrs.evolve(SETTINGS, peer_requests=PeerRequestSettings())
    network, clock = PeerNetwork(), FixedClock()
    async with fresh_inline() as database:
        async with open_server(NEAR, network, database, settings=settings, clock=clock) as near:
            far = ReceivingPeer(FAR, network)
            room_id, _ = await shared_room(near, far)
            async with sending(near):
                network.down.add(FAR)
                await near.world.send(room_id, ANN, "hello")
                await trio.sleep(1500)  # the next attempt is minutes away
                network.down.clear()
                clock.advance(120_000)
                began = trio.current_time()
                with pytest.raises(RemoteFault):
                    await far.client.get(
                        NEAR, "/_matrix/federation/v1/query/directory", {"room_alias": "#a:b"}
                    )
                await wait_until(far.bodies)
                waited_s = trio.current_time() - began

    assert far.bodies() == ["hello"]
    assert waited_s < 30
