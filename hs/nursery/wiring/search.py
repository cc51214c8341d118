"""Searching for messages: the search, and the duty that keeps its index."""

from hs.apis.client.directory.search import SearchApi
from hs.lib.tasks import Duty
from hs.nursery.part import Part
from hs.nursery.plan import BACKGROUND
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.room_reading import RoomReading
from hs.nursery.wiring.rooms import Rooms
from hs.services.search.message_search import MessageSearch
from hs.services.search.result_serializer import SearchResultRenderer
from hs.services.search.search_indexer import SearchIndexer, SearchProgress


def wire_search(base: ProcessBase, rooms: Rooms, reading: RoomReading) -> Part:
    """Build the endpoint, and the duty where searching is enabled."""
    database, feed = base.database, base.feed
    is_enabled = base.settings.rooms.enable_search
    showing = SearchResultRenderer(
        rooms.events, rooms.states, reading.timelines, reading.state, reading.serializer
    )
    messages = MessageSearch(
        database=database,
        events=rooms.events,
        states=rooms.states,
        memberships=rooms.memberships,
        visibility=reading.visibility,
        progress=SearchProgress.following(database, feed),
        showing=showing,
        is_enabled=is_enabled,
    )
    return Part(
        endpoints=[SearchApi(messages)],
        duties=base.planned(BACKGROUND, lambda: _indexing(base)) if is_enabled else [],
    )


def _indexing(base: ProcessBase) -> Duty:
    return Duty("search index", SearchIndexer(base.database, base.feed).run)
