"""Events that were outliers, and then became part of their room, are found as any others."""

from hs.core.events.event import Event
from hs.core.ids import UserID
from hs.storage.database import Database
from hs.storage.push import push_rules
from tests.services.directory.test_imported_members import found_ids
from tests.services.federation.history.test_scrolling_back import ANN, BEA, FAR, NEAR, say, scroll
from tests.services.federation.inbound.inbound_scene import JOIN, Inbound, open_inbound
from tests.services.federation.shared_rooms import join_through
from tests.support.federation import PeerNetwork, open_server, open_servers
from tests.support.peers import ADMIN, DORA
from tests.support.rooms import ALICE
from tests.support.searching import Searching


async def receive_as_outlier(inbound: Inbound, event: Event) -> None:
    """Store an event without the state before it."""
    receiver = inbound.server.process.services.core.rooms.receiver
    await receiver.receive(inbound.room_id, [], [event.canonical], {})


async def test_topic_of_the_past_is_found_when_a_client_has_scrolled_to_it(
    database: Database,
) -> None:
    network = PeerNetwork()
    async with (
        open_servers(FAR, network=network) as (far,),
        open_server(NEAR, network, database) as near,
    ):
        room_id = await far.world.create_room(ANN)
        topic = await far.world.set_state(room_id, ANN, "m.room.topic", {"topic": "garden"})
        await say(far, room_id, ANN, "1", "2")
        await join_through(far, near, room_id, BEA)
        searching = Searching(near.world)
        assert await searching.finds(BEA, "garden") == []

        await scroll(near.process, room_id)

        assert await searching.finds(BEA, "garden") == [topic.event_id]


async def test_event_received_after_it_was_an_outlier_is_found(database: Database) -> None:
    async with open_inbound(database) as inbound:
        topic = inbound.history.add(ADMIN, "m.room.topic", {"topic": "garden"}, "")
        await receive_as_outlier(inbound, topic)
        searching = Searching(inbound.server.world)
        assert await searching.finds(ALICE, "garden") == []
        [*_, (position, _, _)] = await database.read(push_rules.list_events_after, 0, 100)

        await inbound.send(topic)

        assert await searching.finds(ALICE, "garden") == [topic.event_id]
        newer = await database.read(push_rules.list_events_after, position, 100)
        assert [event_id for _, _, event_id in newer] == [topic.event_id]


async def test_member_received_after_it_was_an_outlier_is_in_the_directory(
    database: Database,
) -> None:
    async with open_inbound(database) as inbound:
        content = {**JOIN, "displayname": "Dora Lake"}
        joined = inbound.history.add(DORA, "m.room.member", content, DORA)
        await receive_as_outlier(inbound, joined)
        assert await found_ids(inbound.server, UserID(ALICE), "lake") == []

        await inbound.send(joined)

        assert await found_ids(inbound.server, UserID(ALICE), "lake") == [DORA]
