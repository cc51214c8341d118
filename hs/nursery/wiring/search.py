"""Searching for messages: the index, kept by one process, and those who look into it."""

import attrs

from hs.apis.client.directory.search import SearchApi
from hs.lib.tasks import Duty
from hs.nursery.plan import BACKGROUND
from hs.nursery.process_base import Foundation
from hs.nursery.wiring.room_reading import Reading
from hs.nursery.wiring.rooms import Rooms
from hs.services.search.message_search import MessageSearch
from hs.services.search.result_serializer import ResultShowing
from hs.services.search.search_indexer import SearchIndexer, SearchProgress


@attrs.frozen(eq=False, kw_only=True)
class Search:
    """The search; one process has `duties`."""

    messages: MessageSearch
    duties: list[Duty]


def wire_search(ground: Foundation, rooms: Rooms, reading: Reading) -> Search:
    """Build it."""
    database, feed = ground.database, ground.feed
    is_enabled = ground.settings.rooms.enable_search
    duties: list[Duty] = []
    if is_enabled and BACKGROUND in ground.plan.duties:
        duties.append(Duty("search index", SearchIndexer(database, feed).run))
    showing = ResultShowing(
        rooms.events, rooms.states, reading.timelines, reading.state, reading.showing
    )
    messages = MessageSearch(
        database,
        rooms.events,
        rooms.states,
        rooms.memberships,
        reading.visibility,
        SearchProgress.following(database, feed),
        showing,
        is_enabled,
    )
    return Search(messages=messages, duties=duties)


def search_apis(search: Search) -> list[object]:
    """Give the endpoints."""
    return [SearchApi(search.messages)]
