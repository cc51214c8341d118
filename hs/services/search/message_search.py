"""Search for messages, room names and topics that the requester may see.

Hits come from the index in batches and are then filtered by visibility, so a page may need several
batches; MAX_PASSES bounds them. The count of results must not reveal events that the requester may
not see: see `_count`.

Spec: client-server API, Server Side Search.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import trio

from hs.core.errors import MatrixError
from hs.core.events import event_types
from hs.core.ids import RoomID, UserID
from hs.core.requester import Requester
from hs.core.search_words import SearchQuery, highlights_of, parse_query
from hs.services.rooms.membership.room_succession import predecessor_of
from hs.services.rooms.read.rendering import content_of
from hs.services.rooms.read.visibility import Visibility, VisibleEvent
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.state_store import StateStore
from hs.services.search.result_serializer import SearchResultRenderer
from hs.services.search.search_indexer import KEYS, SearchProgress, text_of
from hs.services.search.search_request import MessageSearchRequest, SearchCursor, parse_cursor
from hs.storage.database import Database
from hs.storage.directory import search as storage
from hs.storage.directory.search import MessageSearchQuery, SearchHit
from hs.storage.rooms import relations

DEFAULT_LIMIT: Final = 10
MAX_LIMIT: Final = 100
MAX_PASSES: Final = 10
MIN_BATCH: Final = 20
MAX_BATCH: Final = 500
MAX_PREDECESSORS: Final = 20
MAX_HIGHLIGHTS: Final = 100
CURRENT_S: Final = 3.0
# Scales ranks, which are fractions that may differ little, to the integer order of groups.
_ORDER_SCALE: Final = 1_000_000_000
_READABLE: Final = frozenset((event_types.JOIN, event_types.LEAVE, event_types.BAN))


@attrs.frozen(eq=False)
class _Page:
    """The results of a page, in order, and the start of the next page."""

    results: Sequence[tuple[SearchHit, VisibleEvent]]
    next_cursor: SearchCursor | None


@attrs.frozen(eq=False)
class MessageSearch:
    """The search of messages."""

    _database: Database
    _events: EventStore
    _states: StateStore
    _memberships: Memberships
    _visibility: Visibility
    _progress: SearchProgress
    _showing: SearchResultRenderer
    _is_enabled: bool = True

    async def search(self, requester: Requester, request: MessageSearchRequest) -> dict[str, Any]:
        """Return a page of results, the section `room_events` of the response.

        Raises: InvalidParam; MatrixError if search is disabled.
        """
        if not self._is_enabled:
            raise MatrixError("M_UNKNOWN", 400, "Search is disabled on this homeserver")
        first = SearchCursor(request.order)
        cursor = (
            first if request.next_batch is None else parse_cursor(request.next_batch, request.order)
        )
        query = parse_query(request.term)
        index_query = await self._storage_query(requester.user_id, request, query, cursor)
        if index_query is None:
            return _answer(0, (), [])
        await self._progress.wait_current(CURRENT_S)
        page = await self._page(requester.user_id, request, index_query, cursor)
        count = await self._count(requester.user_id, request, index_query, page)
        rendered = await self._showing.results(requester, page.results, request.context)
        # In a thread, because it is CPU-bound for long texts.
        highlights = await trio.to_thread.run_sync(_highlights, page, query)
        response = _answer(count, highlights, rendered)
        if page.next_cursor is not None:
            response["next_batch"] = page.next_cursor.encode()
        if request.groups:
            response["groups"] = {key: _grouped(key, page, request) for key in request.groups}
        if request.include_state:
            room_ids = dict.fromkeys(RoomID(hit.room_id) for hit, _ in page.results)
            response["state"] = await self._showing.state(requester, list(room_ids))
        return response

    async def _storage_query(
        self,
        user_id: UserID,
        request: MessageSearchRequest,
        query: SearchQuery,
        cursor: SearchCursor,
    ) -> MessageSearchQuery | None:
        """Return the query of the index; None if there can be no results."""
        keys = KEYS if request.keys is None else [key for key in request.keys if key in KEYS]
        types = [KEYS[key][0] for key in keys if request.event_filter.allows_type(KEYS[key][0])]
        room_ids = await self._searched_rooms(user_id, request)
        senders = request.event_filter.senders
        if cursor.group is not None:
            key, value = cursor.group
            if key == "room_id":
                room_ids = [room_id for room_id in room_ids if room_id == value]
            elif request.event_filter.allows_sender(value):
                senders = frozenset((value,))
            else:
                senders = frozenset()
        is_empty = not query.phrases or not types or not room_ids or senders == frozenset()
        if is_empty or request.event_filter.limit == 0:
            return None
        return MessageSearchQuery(
            query, room_ids, types, None if senders is None else sorted(senders)
        )

    async def _searched_rooms(self, user_id: UserID, request: MessageSearchRequest) -> list[RoomID]:
        """Return the current and former rooms of the requester that match the filter."""
        rooms = await self._memberships.rooms_of(user_id)
        readable = [
            room_id
            for room_id, membership in rooms.items()
            if membership.membership in _READABLE and not membership.forgotten
        ]
        event_filter = request.event_filter
        if event_filter.rooms is not None:
            requested = set(event_filter.rooms)
            for room_id in event_filter.rooms & set(readable):
                requested.update(await self._predecessors(RoomID(room_id)))
            readable = [room_id for room_id in readable if room_id in requested]
        return [room_id for room_id in readable if room_id not in event_filter.not_rooms]

    async def _predecessors(self, room_id: RoomID) -> list[RoomID]:
        """Return the predecessors of a room, the latest first."""
        predecessors: list[RoomID] = []
        while len(predecessors) < MAX_PREDECESSORS:
            create = await self._states.current_event(room_id, event_types.CREATE)
            predecessor = None if create is None else predecessor_of(create.event)
            if predecessor is None or predecessor in predecessors:
                break
            predecessors.append(predecessor)
            room_id = predecessor
        return predecessors

    async def _page(
        self,
        user_id: UserID,
        request: MessageSearchRequest,
        query: MessageSearchQuery,
        cursor: SearchCursor,
    ) -> _Page:
        """Read hits until enough of them are visible."""
        limit = max(1, request.event_filter.limit_within(DEFAULT_LIMIT, MAX_LIMIT))
        results: list[tuple[SearchHit, VisibleEvent]] = []
        size = max(MIN_BATCH, 2 * limit)
        for _ in range(MAX_PASSES):
            hits = await self._hits(query, cursor, size)
            visible = await self._visible(user_id, request, hits)
            for hit in hits:
                cursor = cursor.after(hit)
                if hit.stream_id not in visible:
                    continue
                results.append((hit, visible[hit.stream_id]))
                if len(results) == limit:
                    is_last = hit is hits[-1] and len(hits) < size
                    return _Page(results, None if is_last else cursor)
            if len(hits) < size:
                return _Page(results, None)
            size = min(MAX_BATCH, 2 * size)
        return _Page(results, cursor)

    async def _count(
        self, user_id: UserID, request: MessageSearchRequest, query: MessageSearchQuery, page: _Page
    ) -> int:
        """Return the approximate number of results.

        Only rooms whose members may read everything are counted without checking each event. A
        count that included, for example, events after the requester's ban would reveal which words
        they contain.
        """
        if request.next_batch is None and page.next_cursor is None:
            return len(page.results)
        rooms = await self._memberships.rooms_of(user_id)
        readable = []
        for room_id in map(RoomID, query.room_ids):
            membership = rooms.get(room_id)
            is_joined = membership is not None and membership.membership == event_types.JOIN
            if is_joined and await self._visibility.is_open_to_members(room_id):
                readable.append(room_id)
        if not readable:
            return len(page.results)
        counted = await self._database.read_long(
            storage.count_hits, query._replace(room_ids=readable)
        )
        return max(counted, len(page.results))

    async def _hits(
        self, query: MessageSearchQuery, cursor: SearchCursor, size: int
    ) -> list[SearchHit]:
        if cursor.order == "rank":
            return await self._database.read_long(
                storage.list_by_rank, query, cursor.rank_bound, size
            )
        return await self._database.read_long(storage.list_latest, query, cursor.stream_id, size)

    async def _visible(
        self, user_id: UserID, request: MessageSearchRequest, hits: Sequence[SearchHit]
    ) -> Mapping[int, VisibleEvent]:
        stored = await self._events.get_by_stream_ids([hit.stream_id for hit in hits])
        candidates = [
            event
            for event in stored.values()
            if event.redacted_by is None
            and request.event_filter.allows(
                event.event.type, event.event.sender, event.event.content
            )
        ]
        if request.event_filter.needs_children:
            children: dict[str, list[tuple[str, str]]] = {}
            event_ids = [event.event_id for event in candidates]
            for parent, rel_type, sender in await self._database.read(
                relations.list_children, event_ids
            ):
                children.setdefault(parent, []).append((rel_type, sender))
            candidates = [
                event
                for event in candidates
                if request.event_filter.allows_children(children.get(event.event_id, ()))
            ]
        visible = await self._visibility.filter_visible(user_id, candidates)
        # Names and topics set by ignored users are left out as well.
        ignored = await self._visibility.ignored_by(user_id)
        return {
            event.stored.stream_id: event
            for event in visible
            if not event.pruned and event.stored.event.sender not in ignored - {user_id}
        }


def _answer(count: int, highlights: Sequence[str], results: list[Any]) -> dict[str, Any]:
    return {"count": count, "highlights": list(highlights), "results": results}


def _highlights(page: _Page, query: SearchQuery) -> list[str]:
    words: set[str] = set()
    for _, visible in page.results:
        event = visible.stored.event
        words |= highlights_of(text_of(event.type, dict(content_of(visible.stored))), query)
    return sorted(words)[:MAX_HIGHLIGHTS]


def _grouped(key: Any, page: _Page, request: MessageSearchRequest) -> dict[str, dict[str, Any]]:
    """Group the results of a page; a group's order is that of its first result."""
    groups: dict[str, dict[str, Any]] = {}
    for hit, visible in page.results:
        event = visible.stored.event
        value = hit.room_id if key == "room_id" else event.sender
        order = round(hit.score * _ORDER_SCALE) if request.order == "rank" else hit.origin_server_ts
        group = groups.setdefault(value, {"order": order, "results": []})
        group["results"].append(event.event_id)
    if page.next_cursor is not None:
        for value, group in groups.items():
            group["next_batch"] = attrs.evolve(page.next_cursor, group=(key, value)).encode()
    return groups
