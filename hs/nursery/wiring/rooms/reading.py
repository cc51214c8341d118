"""Reading rooms for clients: visibility, rendering, history, state, space hierarchies."""

import attrs

from hs.apis.client.rooms.mutual_rooms import MutualRoomsApi
from hs.apis.client.rooms.room_messages import RoomMessagesApi
from hs.apis.client.rooms.room_relations import RoomRelationsApi
from hs.apis.client.rooms.room_state import RoomStateApi
from hs.apis.client.rooms.room_summary import RoomSummaryApi
from hs.nursery.part import Part
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.accounts.accounts import AccountServices
from hs.nursery.wiring.federation.remote_history import RemoteHistory
from hs.nursery.wiring.rooms.rooms import Rooms
from hs.services.rooms.read.event_serializer import EventSerializer
from hs.services.rooms.read.hierarchy import Hierarchy
from hs.services.rooms.read.mutual_rooms import MutualRooms
from hs.services.rooms.read.older_history import OlderHistory
from hs.services.rooms.read.pagination import TokenPositions
from hs.services.rooms.read.related_events import RelatedEvents
from hs.services.rooms.read.rendering import MAX_BYTES as RENDERED_BYTES
from hs.services.rooms.read.rendering import EventRenderer
from hs.services.rooms.read.retention_policy import RetentionPolicies
from hs.services.rooms.read.room_previews import RoomPreviews
from hs.services.rooms.read.room_snapshot import RoomSnapshots
from hs.services.rooms.read.room_state import RoomState, ServiceUsers
from hs.services.rooms.read.timelines import Timelines
from hs.services.rooms.read.timestamp_search import TimestampSearch
from hs.services.rooms.read.visibility import Visibility
from hs.services.rooms.store.aggregations import AggregationStore
from hs.services.rooms.store.membership_history import MembershipHistory


@attrs.frozen(eq=False, kw_only=True)
class RoomReading:
    """What sync, search and other subjects need to read rooms."""

    membership_history: MembershipHistory
    visibility: Visibility
    rendering: EventRenderer
    serializer: EventSerializer
    timelines: Timelines
    timestamps: TimestampSearch
    state: RoomState
    snapshots: RoomSnapshots
    previews: RoomPreviews
    hierarchy: Hierarchy
    retention: RetentionPolicies
    part: Part


def wire_reading(
    base: ProcessBase,
    rooms: Rooms,
    service_users: ServiceUsers,
    accounts: AccountServices,
    remote: RemoteHistory,
) -> RoomReading:
    """Build the readers; before the notifier, which relies on their caches."""
    database, feed, events = base.database, base.feed, rooms.events
    states, memberships = rooms.states, rooms.memberships
    rendering = _rendering(base, rooms)
    retention = RetentionPolicies.following(feed, states, base.settings.retention, base.clock)
    history = MembershipHistory(events, states)
    visibility = _visibility(base, rooms, accounts, history, retention)
    serializer, positions = EventSerializer(visibility, rendering), TokenPositions(database)
    timelines = _timelines(base, rooms, visibility, serializer, remote.older)
    timestamps = TimestampSearch(database, events, visibility, remote.older)
    state = RoomState(
        database=database,
        events=events,
        states=states,
        memberships=memberships,
        membership_history=history,
        visibility=visibility,
        serializer=serializer,
        positions=positions,
        service_users=service_users,
    )
    related = RelatedEvents(
        database=database,
        events=events,
        visibility=visibility,
        serializer=serializer,
        positions=positions,
        timelines=timelines,
    )
    previews = RoomPreviews(database, states, memberships, base.signer.server_name, remote.spaces)
    hierarchy = Hierarchy(events, states, previews, remote.spaces)
    return RoomReading(
        membership_history=history,
        visibility=visibility,
        rendering=rendering,
        serializer=serializer,
        timelines=timelines,
        timestamps=timestamps,
        state=state,
        snapshots=RoomSnapshots(database, visibility, timelines, serializer, state),
        previews=previews,
        hierarchy=hierarchy,
        retention=retention,
        part=Part(
            endpoints=[
                RoomMessagesApi(timelines, timestamps),
                RoomStateApi(state, memberships),
                RoomRelationsApi(related),
                RoomSummaryApi(previews, hierarchy),
                MutualRoomsApi(MutualRooms(database)),
            ]
        ),
    )


def _timelines(
    base: ProcessBase,
    rooms: Rooms,
    visibility: Visibility,
    serializer: EventSerializer,
    older: OlderHistory,
) -> Timelines:
    return Timelines(
        database=base.database,
        events=rooms.events,
        states=rooms.states,
        visibility=visibility,
        serializer=serializer,
        positions=TokenPositions(base.database),
        older=older,
    )


def _visibility(
    base: ProcessBase,
    rooms: Rooms,
    accounts: AccountServices,
    history: MembershipHistory,
    retention: RetentionPolicies,
) -> Visibility:
    return Visibility(
        database=base.database,
        feed=base.feed,
        events=rooms.events,
        states=rooms.states,
        memberships=rooms.memberships,
        membership_history=history,
        ignored=accounts.account_data,
        erased=accounts.erased,
        sticky=rooms.sticky,
        expiry=retention if base.settings.retention.enabled else None,
    )


def _rendering(base: ProcessBase, rooms: Rooms) -> EventRenderer:
    database, events = base.database, rooms.events
    factor = base.settings.caches.caches.factor("rendered_events")
    return EventRenderer(
        database=database,
        feed=base.feed,
        events=events,
        aggregates=AggregationStore(database, base.feed, events),
        states=rooms.states,
        sticky=rooms.sticky,
        clock=base.clock,
        max_bytes=int(RENDERED_BYTES * factor),
    )
