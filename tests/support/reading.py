"""The read side of rooms over a World; the preferences of users are held in dicts."""

from collections.abc import Collection
from collections.abc import Set as AbstractSet
from typing import Any

import attrs
import orjson

from hs.apis.client.rooms.room_messages import RoomMessagesApi
from hs.apis.client.rooms.room_relations import RoomRelationsApi
from hs.apis.client.rooms.room_state import RoomStateApi
from hs.apis.client.rooms.room_summary import RoomSummaryApi
from hs.core.ids import EventID, RoomID, UserID
from hs.core.requester import Requester
from hs.services.appservices.appservice_registry import AppserviceRegistry
from hs.services.rooms.read.event_serializer import EventSerializer
from hs.services.rooms.read.hierarchy import Hierarchy
from hs.services.rooms.read.pagination import TokenPositions
from hs.services.rooms.read.related_events import RelatedEvents
from hs.services.rooms.read.rendering import EventRenderer
from hs.services.rooms.read.room_previews import RoomPreviews
from hs.services.rooms.read.room_state import RoomState
from hs.services.rooms.read.timelines import Timelines
from hs.services.rooms.read.visibility import RetentionCutoff, Visibility
from hs.services.rooms.store.aggregations import AggregationStore
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.recent_events import RecentEvents
from hs.services.rooms.store.replaced_state import ReplacedState
from tests.support.rooms import SERVER, World
from tests.support.web import Tokens, WebClient, client_for

NO_SERVICES = AppserviceRegistry((), SERVER)


@attrs.define(eq=False)
class UserPreferences:
    """The users that others ignore, and the users who asked for erasure."""

    ignored: dict[UserID, set[UserID]] = attrs.Factory(dict)
    erased: set[UserID] = attrs.Factory(set)

    async def ignored_by(self, user_id: UserID) -> AbstractSet[UserID]:
        return self.ignored.get(user_id, frozenset())

    async def erased_among(self, user_ids: AbstractSet[UserID]) -> AbstractSet[UserID]:
        return self.erased & user_ids


@attrs.define(eq=False)
class ReadingScene:
    """The services of one process that read rooms."""

    world: World
    wishes: UserPreferences
    memberships: Memberships
    tails: RecentEvents
    aggregates: AggregationStore
    previous: ReplacedState
    rendering: EventRenderer
    visibility: Visibility

    async def see(
        self, user_id: UserID, *event_ids: EventID, device_id: str | None = None
    ) -> list[dict[str, Any]]:
        """Return events as a user receives them; those that the user may not see are left out."""
        stored = await self.world.events.get(event_ids)
        seen = await self.visibility.filter_visible(user_id, list(stored.values()))
        viewer = self.rendering.viewer(
            Requester(user_id, device_id), await self.visibility.ignored_by(user_id)
        )
        await self.rendering.prepare([visible.stored for visible in seen], viewer)
        return [
            orjson.loads(
                self.rendering.timeline_event(
                    visible.stored, viewer, visible.membership, room_id=True
                )
            )
            for visible in seen
        ]

    async def bodies(self, user_id: UserID, room_id: RoomID) -> list[str]:
        """Return the texts of all messages in a room that a user may see."""
        ids = [EventID(row.event_id) for _, row in self.world.seen if row.room_id == room_id]
        events = await self.see(user_id, *ids)
        return [event["content"]["body"] for event in events if "body" in event["content"]]


def readers_of(world: World, expiry: RetentionCutoff | None = None) -> ReadingScene:
    """Build the readers, before the world's first event or after a restart."""
    wishes = UserPreferences()
    memberships = Memberships(world.database, world.feed, SERVER)
    tails = RecentEvents(world.feed)
    aggregates = AggregationStore(world.database, world.feed, world.events)
    previous = ReplacedState(world.database, world.events, world.states)
    rendering = EventRenderer(
        database=world.database,
        feed=world.feed,
        events=world.events,
        aggregates=aggregates,
        previous=previous,
        clock=world.clock,
    )
    visibility = Visibility(
        database=world.database,
        feed=world.feed,
        events=world.events,
        states=world.states,
        memberships=memberships,
        ignored=wishes,
        erased=wishes,
        expiry=expiry,
    )
    return ReadingScene(
        world=world,
        wishes=wishes,
        memberships=memberships,
        tails=tails,
        aggregates=aggregates,
        previous=previous,
        rendering=rendering,
        visibility=visibility,
    )


def timelines_of(reading: ReadingScene) -> Timelines:
    """Build the service that reads history."""
    world = reading.world
    showing = EventSerializer(reading.visibility, reading.rendering)
    return Timelines(
        database=world.database,
        events=world.events,
        states=world.states,
        visibility=reading.visibility,
        serializer=showing,
        positions=TokenPositions(world.database),
    )


def client_of(
    reading: ReadingScene,
    *user_ids: UserID,
    guests: Collection[UserID] = (),
    services: AppserviceRegistry = NO_SERVICES,
) -> WebClient:
    """Return a client of all endpoints that read rooms.

    A user's token is the user ID, a service's token is its ID.
    """
    world = reading.world
    showing = EventSerializer(reading.visibility, reading.rendering)
    places = TokenPositions(world.database)
    timelines = timelines_of(reading)
    state = RoomState(
        database=world.database,
        events=world.events,
        states=world.states,
        memberships=reading.memberships,
        visibility=reading.visibility,
        serializer=showing,
        positions=places,
        service_users=services,
    )
    related = RelatedEvents(
        database=world.database,
        events=world.events,
        visibility=reading.visibility,
        serializer=showing,
        positions=places,
        timelines=timelines,
    )
    previews = RoomPreviews(world.database, world.states, reading.memberships)
    tokens = Tokens()
    for user_id in (*user_ids, *guests):
        tokens.requesters[user_id] = Requester(
            user_id, f"{user_id} phone", 1, is_guest=user_id in guests
        )
    for service in services.services:
        tokens.requesters[service.id] = Requester(service.sender, appservice_id=service.id)
    return client_for(
        RoomMessagesApi(timelines),
        RoomStateApi(state, reading.memberships),
        RoomRelationsApi(related),
        RoomSummaryApi(previews, Hierarchy(world.events, world.states, previews)),
        tokens=tokens,
    )
