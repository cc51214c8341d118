"""What reads rooms for users: visibility, rendering, history, state, trees."""

import attrs

from hs.apis.client.rooms.room_messages import RoomMessagesApi
from hs.apis.client.rooms.room_relations import RoomRelationsApi
from hs.apis.client.rooms.room_state import RoomStateApi
from hs.apis.client.rooms.room_summary import RoomSummaryApi
from hs.nursery.process_base import Foundation
from hs.nursery.wiring.rooms import Rooms
from hs.services.rooms.read.event_serializer import Showing
from hs.services.rooms.read.hierarchy import Hierarchy
from hs.services.rooms.read.pagination import Places
from hs.services.rooms.read.related_events import RelatedEvents
from hs.services.rooms.read.rendering import MAX_BYTES as RENDERED_BYTES
from hs.services.rooms.read.rendering import Rendering
from hs.services.rooms.read.retention_policy import RetentionPolicies
from hs.services.rooms.read.room_previews import RoomPreviews
from hs.services.rooms.read.room_snapshot import RoomSnapshots
from hs.services.rooms.read.room_state import RoomState, ServiceUsers
from hs.services.rooms.read.timelines import Timelines
from hs.services.rooms.read.visibility import ErasedUsers, IgnoredUsers, Visibility
from hs.services.rooms.store.aggregations import Aggregates
from hs.services.rooms.store.replaced_state import PreviousStates


@attrs.frozen(eq=False, kw_only=True)
class Reading:
    """What sync and the endpoints need to show rooms."""

    visibility: Visibility
    rendering: Rendering
    showing: Showing
    places: Places
    timelines: Timelines
    state: RoomState
    related: RelatedEvents
    previews: RoomPreviews
    hierarchy: Hierarchy
    snapshots: RoomSnapshots
    retention: RetentionPolicies


def wire_reading(
    ground: Foundation,
    rooms: Rooms,
    service_users: ServiceUsers,
    ignored: IgnoredUsers,
    erased: ErasedUsers,
) -> Reading:
    """Build what reads rooms. Before the notifier, which relies on its caches."""
    database, feed = ground.database, ground.feed
    events, states, memberships = rooms.events, rooms.states, rooms.memberships
    aggregates = Aggregates(database, feed, events)
    previous = PreviousStates(database, events, states)
    factor = ground.settings.caches.caches.factor("rendered_events")
    rendering = Rendering(
        database, feed, events, aggregates, previous, ground.clock, int(RENDERED_BYTES * factor)
    )
    kept = ground.settings.retention
    retention = RetentionPolicies.following(feed, states, kept, ground.clock)
    expiry = retention if kept.enabled else None
    visibility = Visibility(database, feed, events, states, memberships, ignored, erased, expiry)
    showing = Showing(visibility, rendering)
    places = Places(database)
    timelines = Timelines(database, events, states, visibility, showing, places)
    state = RoomState(
        database, events, states, memberships, visibility, showing, places, service_users
    )
    previews = RoomPreviews(database, states, memberships)
    return Reading(
        visibility=visibility,
        rendering=rendering,
        showing=showing,
        places=places,
        timelines=timelines,
        state=state,
        related=RelatedEvents(database, events, visibility, showing, places, timelines),
        previews=previews,
        hierarchy=Hierarchy(events, states, previews),
        snapshots=RoomSnapshots(database, visibility, timelines, showing, state),
        retention=retention,
    )


def reading_apis(reading: Reading, rooms: Rooms) -> list[object]:
    """Give the endpoints that read rooms."""
    return [
        RoomMessagesApi(reading.timelines),
        RoomStateApi(reading.state, rooms.memberships),
        RoomRelationsApi(reading.related),
        RoomSummaryApi(reading.previews, reading.hierarchy),
    ]
