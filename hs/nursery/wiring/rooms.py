"""The rooms: their stores on every process, and their writing end where this process has it."""

from typing import Final

import attrs

from hs.lib.tasks import Duty, every
from hs.nursery.process import Runner
from hs.nursery.process_base import Foundation
from hs.repl.streams import EVENTS
from hs.services.rooms.append.appender import RoomAppender
from hs.services.rooms.append.committer import Committer
from hs.services.rooms.append.event_builder import EventBuilder
from hs.services.rooms.append.hot_rooms import MAX_BYTES as HOT_BYTES
from hs.services.rooms.append.hot_rooms import HotRooms
from hs.services.rooms.append.policy_servers import NoPolicyServers, RoomPolicies
from hs.services.rooms.append.room_writer import RoomWriter
from hs.services.rooms.append.sharded_appender import ShardedAppender
from hs.services.rooms.append.transaction_ids import TxnMemory
from hs.services.rooms.membership.deactivated_users import CHORE_PERIOD_S, RoomDepartures
from hs.services.rooms.retention.request_cleanup import UPKEEP_PERIOD_S, RoomUpkeep
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.recent_events import MAX_BYTES as TAIL_BYTES
from hs.services.rooms.store.recent_events import Tails
from hs.services.rooms.store.state_store import MAX_CURRENT_BYTES, MAX_SNAPSHOT_BYTES, StateStore
from hs.storage.rooms.chain_cover import index_chains

BYTES_PER_EVENT: Final = 4 * 1024  # an event with all that Python keeps beside it


@attrs.frozen(eq=False, kw_only=True)
class Rooms:
    """What other services need of the rooms; `committer` is None where no events are written."""

    events: EventStore
    states: StateStore
    memberships: Memberships
    tails: Tails
    appender: ShardedAppender
    committer: Committer | None
    hot: HotRooms | None  # as the committer: where events are written
    departures: RoomDepartures

    @property
    def runners(self) -> list[tuple[str, Runner]]:
        """Give what must run where events are written."""
        return [] if self.committer is None else [("committer", self.committer.run)]

    @property
    def duties(self) -> list[Duty]:
        """Give what runs in every process."""
        return [Duty("departures", self.departures.run)]


def wire_rooms(ground: Foundation) -> Rooms:
    """Build the rooms' services. Subscribers come in the order in which they depend."""
    caches = ground.settings.caches.caches
    event_bytes = ground.settings.caches.event_cache_size * BYTES_PER_EVENT
    events = EventStore(ground.database, ground.feed, int(event_bytes * caches.factor("events")))
    states = StateStore(
        ground.database,
        ground.feed,
        events,
        int(MAX_CURRENT_BYTES * caches.factor("current_state")),
        int(MAX_SNAPSHOT_BYTES * caches.factor("state_snapshots")),
    )
    server_name = ground.settings.server.server_name
    memberships = Memberships(ground.database, ground.feed, server_name)
    tails = Tails(ground.feed, int(TAIL_BYTES * caches.factor("tails")))
    committer, hot, local = _writing_end(ground, events, states, memberships)
    appenders: dict[str, RoomAppender] = {}
    for instance in ground.ownership.writers(EVENTS):
        if instance == ground.plan.instance:
            assert local is not None
            appenders[instance] = local
        else:
            assert ground.remote is not None
            appenders[instance] = ground.remote.clients.proxy(RoomAppender, instance)
    appender = ShardedAppender(ground.ownership, appenders)
    return Rooms(
        events=events,
        states=states,
        memberships=memberships,
        tails=tails,
        appender=appender,
        committer=committer,
        hot=hot,
        departures=RoomDepartures(ground.database, appender, memberships),
    )


def _writing_end(
    ground: Foundation, events: EventStore, states: StateStore, memberships: Memberships
) -> tuple[Committer | None, HotRooms | None, RoomWriter | None]:
    if not ground.ownership.writes(EVENTS):
        return None, None, None
    committer = Committer(
        ground.table(EVENTS), states, ground.clock, ground.signer.server_name, index_chains
    )
    rooms = HotRooms(
        ground.database,
        events,
        states,
        committer,
        int(HOT_BYTES * ground.settings.caches.caches.factor("hot_rooms")),
    )
    writer = RoomWriter(
        rooms,
        events,
        TxnMemory(ground.database),
        EventBuilder(ground.signer, ground.clock),
        lambda room_id: ground.ownership.is_mine(EVENTS, room_id),
        RoomPolicies(memberships, NoPolicyServers()),
    )
    if ground.remote is not None:
        ground.remote.server.register(RoomAppender, writer)
    return committer, rooms, writer


def room_chores(ground: Foundation, rooms: Rooms) -> list[Duty]:
    """Give what one process does for the rooms now and then."""
    upkeep = RoomUpkeep(ground.database, ground.clock)

    async def forget() -> None:
        await every(UPKEEP_PERIOD_S, upkeep.forget_old_requests)

    async def depart() -> None:
        await rooms.departures.finish_others()
        await every(CHORE_PERIOD_S, rooms.departures.finish_others)

    return [
        Duty("forgetting old requests", forget),
        Duty("taking users who are gone out of rooms", depart),
    ]
