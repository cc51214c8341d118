"""A world that receives events of other servers.

Receiving is not wired in production yet. So this module, and no other one here, builds services:
the receiver, over the services of the world's process.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs

from hs.services.rooms.receive.event_intake import OwnedRoomReceiver
from hs.services.rooms.receive.event_receiver import RoomReceiver
from hs.services.rooms.receive.pdu_checks import PduChecker
from hs.services.rooms.receive.received_room import RoomStores
from hs.services.rooms.store.auth_chains import AuthGraph
from hs.services.rooms.store.state_resolution import StateResolver
from hs.storage.database import Database
from tests.support.peers import TEST_SERVER, AllKeysKeyRing
from tests.support.rooms import World, open_world


@attrs.define(eq=False)
class ReceivingWorld(World):
    """The rooms of a process, and their receiver."""

    auth_graph: AuthGraph = attrs.field(init=False)
    receiver: RoomReceiver = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        World.__attrs_post_init__(self)
        self.auth_graph = AuthGraph(self.database)
        resolver = StateResolver(self.events, self.auth_graph)
        stores = RoomStores(
            database=self.database,
            rooms=self.rooms,
            events=self.events,
            states=self.states,
            resolver=resolver,
            server_name=TEST_SERVER,
        )
        self.receiver = OwnedRoomReceiver(
            PduChecker(AllKeysKeyRing()), stores, self.memberships.is_local
        )


@asynccontextmanager
async def open_receiving(database: Database) -> AsyncIterator[ReceivingWorld]:
    """Start a process; opening another on the same database afterwards is a restart."""
    async with open_world(database) as world:
        yield ReceivingWorld(world.process)
