"""Message search in a composed process, which indexes all events before every search."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import orjson

from hs.core.filters import parse_event_filter
from hs.core.ids import UserID
from hs.core.requester import Requester
from hs.services.search.search_indexer import SearchIndexer
from hs.services.search.search_request import MessageSearchRequest
from hs.settings.settings import Settings
from hs.storage.database import Database
from tests.support.composition import SETTINGS
from tests.support.rooms import World, open_world


@attrs.frozen(eq=False)
class Searching:
    """A world with an index."""

    world: World

    @property
    def indexer(self) -> SearchIndexer:
        """The indexer."""
        indexer = self.world.process.services.search.indexer
        assert indexer is not None, "this process does not index"
        return indexer

    async def search(
        self, user_id: UserID, term: str, filter: dict[str, Any] | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Search, after indexing all events."""
        await self.indexer.catch_up()
        request = MessageSearchRequest(
            term, event_filter=parse_event_filter(filter or {}), **fields
        )
        search = self.world.process.services.search
        return await search.messages.search(Requester(user_id, "PHONE"), request)

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
    database: Database, settings: Settings = SETTINGS
) -> AsyncIterator[Searching]:
    """Open a world with message search."""
    async with open_world(database, settings) as world:
        yield Searching(world)
