"""Searching for messages: the index, kept by one process, and those who look into it."""

import attrs

from hs.apis.client.search import SearchApi
from hs.lib.tasks import Duty
from hs.nursery.foundation import Foundation
from hs.nursery.plan import BACKGROUND
from hs.nursery.wiring.reading import Reading
from hs.nursery.wiring.rooms import Rooms
from hs.services.search.indexing import SearchIndexer, SearchProgress
from hs.services.search.messages import MessageSearch
from hs.services.search.showing import ResultShowing


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
