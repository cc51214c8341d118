"""The rooms part of a server: rooms, their feed and their database, without HTTP.

async with open_world(database) as world:
    room_id = await world.create_room(ALICE, invite=(BOB,))
    sent = await world.send(room_id, ALICE, "hello")
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, ServerName, UserID
from hs.core.signing.keys import Signer, SigningKey
from hs.core.streams import EVENTS, EventRow
from hs.lib.clock import FixedClock
from hs.repl.feed import Feed
from hs.repl.inproc import InProcHub
from hs.repl.ownership import Location, Ownership, Topology
from hs.repl.transport import Transport
from hs.repl.writers import TableWriter
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.committer import Committer
from hs.services.rooms.append.drafts import AppendedEvent, Draft, TransactionKey
from hs.services.rooms.append.event_builder import EventBuilder, random_opaque
from hs.services.rooms.append.hot_rooms import HotRooms
from hs.services.rooms.append.policy_servers import (
    NoPolicyServers,
    PolicyServerCheck,
    PolicyServers,
)
from hs.services.rooms.append.room_writer import RoomWriter
from hs.services.rooms.append.sharded_appender import ShardedAppender
from hs.services.rooms.append.transaction_ids import TransactionIds
from hs.services.rooms.receive.event_intake import OwnedRoomReceiver
from hs.services.rooms.receive.event_receiver import ShardedReceiver
from hs.services.rooms.receive.pdu_checks import PduChecker
from hs.services.rooms.receive.received_room import RoomStores
from hs.services.rooms.store.auth_chains import AuthGraph
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.state_resolution import StateResolver
from hs.services.rooms.store.state_store import StateStore
from hs.storage.database import Database
from hs.storage.rooms.chain_cover import index_chains
from tests.support.peers import AllKeysKeyRing

SERVER = ServerName("test.example")
SIGNER = Signer(SERVER, SigningKey.from_seed("key", bytes(range(32))))
ALICE = UserID("@alice:test.example")
BOB = UserID("@bob:test.example")
CAROL = UserID("@carol:test.example")
ZOE = UserID("@zoe:elsewhere.example")

DEFAULT_VERSION = "11"
WRITERS = Topology(
    "one",
    "main",
    writers={"events": ("one", "two")},
    locations={"one": Location("127.0.0.1", 1), "two": Location("127.0.0.1", 2)},
)
ALONE = Topology("main", "main")


@attrs.define(eq=False)
class World:
    """The components of a running server; `seen` are the rows of the events stream in order."""

    database: Database
    feed: Feed
    clock: FixedClock
    signer: Signer
    events: EventStore
    states: StateStore
    rooms: HotRooms
    committer: Committer
    writer: RoomWriter
    appender: ShardedAppender
    ownership: Ownership
    stream: TableWriter[EventRow]
    appenders: dict[str, RoomAppender]  # by instance; tests may add those of other worlds
    receiver: ShardedReceiver
    auth_graph: AuthGraph
    transport: Transport
    seen: list[tuple[int, EventRow]] = attrs.Factory(list)

    async def create_room(
        self,
        creator: UserID = ALICE,
        *,
        version: str = DEFAULT_VERSION,
        join: Sequence[UserID] = (),
        invite: Sequence[UserID] = (),
        state: Sequence[Draft] = (),
        power_levels: Mapping[str, Any] | None = None,
        join_rule: str = "public",
    ) -> RoomID:
        """Create a room whose creator has joined, with further members joined or invited."""
        levels = {"users": {} if version == "12" else {creator: 100}, **(power_levels or {})}
        drafts = [
            Draft(event_types.CREATE, creator, {}, ""),
            member(creator, "join"),
            Draft(event_types.POWER_LEVELS, creator, levels, ""),
            Draft(event_types.JOIN_RULES, creator, {"join_rule": join_rule}, ""),
            *state,
        ]
        room_id = (await self.appender.create(version, drafts))[0].room_id
        for user_id in join:
            await self.join(room_id, user_id)
        for user_id in invite:
            await self.set_membership(room_id, creator, user_id, "invite")
        return room_id

    async def append(self, room_id: RoomID, *drafts: Draft) -> list[AppendedEvent]:
        """Append drafts to a room."""
        return await self.appender.append(room_id, list(drafts))

    async def send(
        self,
        room_id: RoomID,
        sender: UserID,
        body: str = "hello",
        txn: TransactionKey | None = None,
    ) -> AppendedEvent:
        """Send a text message."""
        return (await self.append(room_id, message(sender, body, txn)))[0]

    async def set_state(
        self,
        room_id: RoomID,
        sender: UserID,
        event_type: str,
        content: Mapping[str, Any],
        state_key: str = "",
    ) -> AppendedEvent:
        """Set a state event."""
        return (await self.append(room_id, Draft(event_type, sender, dict(content), state_key)))[0]

    async def join(self, room_id: RoomID, user_id: UserID) -> AppendedEvent:
        """Let a user join."""
        return (await self.append(room_id, member(user_id, "join")))[0]

    async def leave(self, room_id: RoomID, user_id: UserID) -> AppendedEvent:
        """Let a user leave."""
        return (await self.append(room_id, member(user_id, "leave")))[0]

    async def set_membership(
        self, room_id: RoomID, sender: UserID, user_id: UserID, membership: str
    ) -> AppendedEvent:
        """Let one user invite, kick or ban another."""
        content = {"membership": membership}
        draft = Draft(event_types.MEMBER, sender, content, user_id)
        return (await self.append(room_id, draft))[0]

    async def redact(self, room_id: RoomID, sender: UserID, event_id: EventID) -> AppendedEvent:
        """Redact an event."""
        draft = Draft(event_types.REDACTION, sender, {}, redacts=event_id)
        return (await self.append(room_id, draft))[0]


def message(sender: UserID, body: str = "hello", txn: TransactionKey | None = None) -> Draft:
    """Return the draft of a text message."""
    content = {"msgtype": "m.text", "body": body}
    return Draft(event_types.MESSAGE, sender, content, txn=txn)


def member(user_id: UserID, membership: str, **content: Any) -> Draft:
    """Return the draft of a user's own membership."""
    return Draft(event_types.MEMBER, user_id, {"membership": membership, **content}, user_id)


def txn_key(
    user_id: UserID, room_id: RoomID, txn_id: str, device_id: str = "DEVICE"
) -> TransactionKey:
    """Return the transaction key of a request to send a message."""
    return TransactionKey(user_id, device_id, f"/rooms/{room_id}/send/m.room.message", txn_id)


@asynccontextmanager
async def open_writers(database: Database) -> AsyncIterator[tuple[World, World]]:
    """Start two processes that write events."""
    hub = InProcHub()
    async with (
        open_world(database, hub=hub, topology=WRITERS) as first,
        open_world(database, hub=hub, topology=attrs.evolve(WRITERS, instance="two")) as second,
    ):
        first.appenders.update(second.appenders)
        second.appenders.update(first.appenders)
        yield first, second


@asynccontextmanager
async def open_world(
    database: Database,
    *,
    clock: FixedClock | None = None,
    hub: InProcHub | None = None,
    topology: Topology = ALONE,
    max_room_bytes: int = 128 * 1024 * 1024,
    opaque_id: Callable[[], str] = random_opaque,
    policy_servers: PolicyServers | None = None,
) -> AsyncIterator[World]:
    """Start the rooms part of a server; at the end it writes pending events and stops.

    Opening another world on the same database afterwards is a restart.
    """
    world = make_world(
        database,
        clock or FixedClock(),
        hub or InProcHub(),
        topology,
        max_room_bytes,
        opaque_id,
        policy_servers,
    )
    async with trio.open_nursery() as streams:
        await streams.start(world.stream.run)
        async with trio.open_nursery() as duties:
            await duties.start(world.committer.run)
            yield world
            duties.cancel_scope.cancel()
        streams.cancel_scope.cancel()


def make_world(
    database: Database,
    clock: FixedClock,
    hub: InProcHub,
    topology: Topology,
    max_room_bytes: int,
    opaque_id: Callable[[], str],
    policy_servers: PolicyServers | None = None,
) -> World:
    """Build the components without starting anything."""
    feed = Feed()
    ownership = Ownership(topology)
    instance = topology.instance
    events = EventStore(database, feed)
    states = StateStore(database, feed, events)
    transport = hub.join(feed)
    stream = TableWriter(EVENTS, instance, database, transport, clock.now_ms)
    committer = Committer(stream, states, clock, SERVER, index_chains)
    rooms = HotRooms(database, events, states, committer, max_room_bytes)
    builder = EventBuilder(SIGNER, clock, opaque_id)
    writer = RoomWriter(
        rooms=rooms,
        events=events,
        transactions=TransactionIds(database),
        builder=builder,
        owns=lambda room: ownership.is_mine(EVENTS, room),
        policies=PolicyServerCheck(
            Memberships(database, feed, SERVER), policy_servers or NoPolicyServers()
        ),
    )
    appenders: dict[str, RoomAppender] = {instance: writer}
    auth_graph = AuthGraph(database)
    resolver = StateResolver(events, auth_graph)
    inbound = OwnedRoomReceiver(
        PduChecker(AllKeysKeyRing()), RoomStores(database, rooms, events, states, resolver)
    )
    world = World(
        database=database,
        feed=feed,
        clock=clock,
        signer=SIGNER,
        events=events,
        states=states,
        rooms=rooms,
        committer=committer,
        writer=writer,
        appender=ShardedAppender(ownership, appenders),
        ownership=ownership,
        stream=stream,
        appenders=appenders,
        receiver=ShardedReceiver(ownership, {instance: inbound}),
        auth_graph=auth_graph,
        transport=transport,
    )
    feed.subscribe(EVENTS, lambda batch: world.seen.extend(batch.rows))
    return world
