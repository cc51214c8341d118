"""Message search over a World, which is indexed before every search."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import orjson

from hs.core.filters import parse_event_filter
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.services.accounts.limits.appservice_users import NoAppservices
from hs.services.rooms.read.event_serializer import EventSerializer
from hs.services.rooms.read.pagination import TokenPositions
from hs.services.rooms.read.room_state import RoomState
from hs.services.rooms.read.timelines import Timelines
from hs.services.search.message_search import MessageSearch
from hs.services.search.result_serializer import SearchResultRenderer
from hs.services.search.search_indexer import SearchIndexer, SearchProgress
from hs.services.search.search_request import MessageSearchRequest
from hs.storage.database import Database
from tests.support.reading import ReadingScene, readers_of
from tests.support.rooms import World, open_world


@attrs.define(eq=False)
class Searching:
    """A world with an index."""

    world: World
    reading: ReadingScene
    indexer: SearchIndexer
    messages: MessageSearch

    async def search(
        self, user_id: UserID, term: str, filter: dict[str, Any] | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Search, after indexing all events."""
        await self.indexer.catch_up()
        ask = MessageSearchRequest(term, event_filter=parse_event_filter(filter or {}), **fields)
        return await self.messages.search(Requester(user_id, "PHONE"), ask)

    async def finds(self, user_id: UserID, term: str, **fields: Any) -> list[str]:
        """Return the IDs of the events that are found."""
        response = await self.search(user_id, term, **fields)
        return [event["event_id"] for event in events_of(response)]


def events_of(response: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the events of a response's results."""
    return [plain(result["result"]) for result in response["results"]]


def plain(fragment: Any) -> Any:
    """Convert rendered fragments to plain values."""
    return orjson.loads(orjson.dumps(fragment))


@asynccontextmanager
async def open_searching(
    database: Database, *, is_enabled: bool = True
) -> AsyncIterator[Searching]:
    """Open a world with message search."""
    async with open_world(database) as world:
        yield searching_of(world, is_enabled=is_enabled)


def searching_of(world: World, *, is_enabled: bool = True) -> Searching:
    """Build message search over a world."""
    reading = readers_of(world)
    database, events, states = world.database, world.events, world.states
    showing = EventSerializer(reading.visibility, reading.rendering)
    places = TokenPositions(database)
    timelines = Timelines(
        database=database,
        events=events,
        states=states,
        visibility=reading.visibility,
        serializer=showing,
        positions=places,
    )
    room_state = RoomState(
        database=database,
        events=events,
        states=states,
        memberships=reading.memberships,
        visibility=reading.visibility,
        serializer=showing,
        positions=places,
        service_users=NoAppservices(),
    )
    messages = MessageSearch(
        database=database,
        events=events,
        states=states,
        memberships=reading.memberships,
        visibility=reading.visibility,
        progress=SearchProgress.following(database, world.feed),
        showing=SearchResultRenderer(events, states, timelines, room_state, showing),
        is_enabled=is_enabled,
    )
    return Searching(world, reading, SearchIndexer(database, world.feed), messages)
