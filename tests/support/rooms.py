"""The rooms of a composed process: to write events as users do, without HTTP.

async with open_world(database) as world:
    room_id = await world.create_room(ALICE, invite=(BOB,))
    sent = await world.send(room_id, ALICE, "hello")
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.streams import EVENTS, EventRow
from hs.lib.clock import FixedClock
from hs.nursery.wiring.federation.remote_servers import RemoteServers
from hs.nursery.wiring.rooms.rooms import RoomOwner
from hs.repl.feed import Feed
from hs.services.rooms.append.committer import Committer
from hs.services.rooms.append.drafts import AppendedEvent, Draft, TransactionKey
from hs.services.rooms.append.hot_rooms import HotRooms
from hs.services.rooms.append.room_writer import RoomWriter
from hs.services.rooms.append.sharded_appender import ShardedAppender
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.room_servers import RoomServers
from hs.services.rooms.store.state_store import StateStore
from hs.settings.settings import Settings
from hs.storage.database import Database
from tests.support.composition import (
    SETTINGS,
    ComposedProcess,
    Neighbourhood,
    open_process,
    worker_settings,
)

ALICE = UserID("@alice:test.example")
BOB = UserID("@bob:test.example")
CAROL = UserID("@carol:test.example")
ZOE = UserID("@zoe:elsewhere.example")

DEFAULT_VERSION = "11"


@attrs.define(eq=False)
class World:
    """The rooms of a process; `seen` are the rows of the events stream in order."""

    process: ComposedProcess
    seen: list[tuple[int, EventRow]] = attrs.Factory(list)

    def __attrs_post_init__(self) -> None:
        self.feed.subscribe(EVENTS, lambda batch: self.seen.extend(batch.rows))

    @property
    def database(self) -> Database:
        """The database."""
        return self.process.base.database

    @property
    def feed(self) -> Feed:
        """The feed of the process."""
        return self.process.base.feed

    @property
    def clock(self) -> FixedClock:
        """The clock, which a test may advance."""
        return self.process.clock

    @property
    def events(self) -> EventStore:
        """The events."""
        return self.process.services.core.rooms.events

    @property
    def states(self) -> StateStore:
        """The states of rooms."""
        return self.process.services.core.rooms.states

    @property
    def memberships(self) -> Memberships:
        """The memberships."""
        return self.process.services.core.rooms.memberships

    @property
    def servers(self) -> RoomServers:
        """The servers in rooms."""
        return self.process.services.core.rooms.servers

    @property
    def appender(self) -> ShardedAppender:
        """The appender to the rooms of all writers."""
        return self.process.services.core.rooms.appender

    @property
    def rooms(self) -> HotRooms:
        """The rooms that this process has loaded to write to them."""
        return self._owner.hot

    @property
    def committer(self) -> Committer:
        """The committer of this process."""
        return self._owner.committer

    @property
    def writer(self) -> RoomWriter:
        """The writer of this process."""
        return self._owner.writer

    @property
    def _owner(self) -> RoomOwner:
        owner = self.process.services.core.rooms.owner
        assert owner is not None, "this process writes no events"
        return owner

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
async def open_world(
    database: Database,
    settings: Settings = SETTINGS,
    *,
    clock: FixedClock | None = None,
    neighbours: Neighbourhood | None = None,
    remote: RemoteServers | None = None,
) -> AsyncIterator[World]:
    """Start a process; at the end it writes pending events and stops.

    Opening another world on the same database afterwards is a restart.
    """
    async with open_process(
        database, settings, clock=clock, neighbours=neighbours, remote=remote
    ) as process:
        yield World(process)


@asynccontextmanager
async def open_writers(database: Database) -> AsyncIterator[tuple[World, World]]:
    """Start two processes that write events."""
    neighbours = Neighbourhood()
    settings = [worker_settings(SETTINGS, name, events=("one", "two")) for name in ("one", "two")]
    async with (
        open_world(database, settings[0], neighbours=neighbours) as first,
        open_world(database, settings[1], neighbours=neighbours) as second,
    ):
        yield first, second
