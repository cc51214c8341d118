"""Searching for messages: the search, and the duty that keeps its index."""

import attrs

from hs.apis.client.directory.search import SearchApi
from hs.lib.tasks import Duty
from hs.nursery.part import Part
from hs.nursery.plan import BACKGROUND
from hs.nursery.process_base import ProcessBase
from hs.nursery.wiring.rooms.reading import RoomReading
from hs.nursery.wiring.rooms.rooms import Rooms
from hs.repl.feed import Interest
from hs.services.search.message_search import MessageSearch
from hs.services.search.result_serializer import SearchResultRenderer
from hs.services.search.search_indexer import SearchIndexer, SearchProgress


@attrs.frozen(eq=False, kw_only=True)
class SearchServices:
    """Message search; `indexer` is None in a process that does not index."""

    messages: MessageSearch
    progress: SearchProgress
    indexer: SearchIndexer | None
    part: Part


def wire_search(base: ProcessBase, rooms: Rooms, reading: RoomReading) -> SearchServices:
    """Build the endpoint, and the duty where searching is enabled."""
    database, feed = base.database, base.feed
    is_enabled = base.settings.rooms.enable_search
    showing = SearchResultRenderer(
        rooms.events, rooms.states, reading.timelines, reading.state, reading.serializer
    )
    progress = SearchProgress.following(database, feed, base.interest_if_asked(Interest.CHANGES))
    messages = MessageSearch(
        database=database,
        events=rooms.events,
        states=rooms.states,
        memberships=rooms.memberships,
        visibility=reading.visibility,
        progress=progress,
        showing=showing,
        is_enabled=is_enabled,
    )
    indexer = None
    if is_enabled:
        indexer = base.planned(BACKGROUND, lambda: SearchIndexer(database, feed))
    duties = [] if indexer is None else [Duty("search index", indexer.run, plan_duty=BACKGROUND)]
    return SearchServices(
        messages=messages,
        progress=progress,
        indexer=indexer,
        part=Part(endpoints=[SearchApi(messages)], duties=duties),
    )
