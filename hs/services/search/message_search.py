"""Searches messages, names and topics for words, in what the requester may see.

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
from hs.services.rooms.read.visibility import Seen, Visibility
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.memberships import Memberships
from hs.services.rooms.store.state_store import StateStore
from hs.services.search.result_serializer import ResultShowing
from hs.services.search.search_indexer import KEYS, SearchProgress, text_of
from hs.services.search.search_request import Cursor, SearchAsk, parse_cursor
from hs.storage.database import Database
from hs.storage.directory import search as storage
from hs.storage.directory.search import Hit, Wanted
from hs.storage.rooms import relations

DEFAULT_LIMIT: Final = 10
MAX_LIMIT: Final = 100
MAX_PASSES: Final = 10
MIN_BATCH: Final = 20
MAX_BATCH: Final = 500
MAX_PREDECESSORS: Final = 20
MAX_HIGHLIGHTS: Final = 100
CURRENT_S: Final = 3.0
# Ranks are fractions, and often near to each other; groups are ordered by integers.
_FINELY: Final = 1_000_000_000
_READABLE: Final = frozenset((event_types.JOIN, event_types.LEAVE, event_types.BAN))


@attrs.frozen(eq=False)
class _Page:
    """What was found, in order, and where the next page begins."""

    found: Sequence[tuple[Hit, Seen]]
    rest: Cursor | None


@attrs.frozen(eq=False)
class MessageSearch:
    """Finds messages."""

    _database: Database
    _events: EventStore
    _states: StateStore
    _memberships: Memberships
    _visibility: Visibility
    _progress: SearchProgress
    _showing: ResultShowing
    _is_enabled: bool = True

    async def search(self, requester: Requester, ask: SearchAsk) -> dict[str, Any]:
        """Give a page of results, the section `room_events` of the answer.

        Raises: InvalidParam; MatrixError, when searching is turned off.
        """
        if not self._is_enabled:
            raise MatrixError("M_UNKNOWN", 400, "Search is disabled on this homeserver")
        first = Cursor(ask.order)
        cursor = first if ask.next_batch is None else parse_cursor(ask.next_batch, ask.order)
        query = parse_query(ask.term)
        wanted = await self._wanted(requester.user_id, ask, query, cursor)
        if wanted is None:
            return _answer(0, (), [])
        await self._progress.wait_current(CURRENT_S)
        page = await self._page(requester.user_id, ask, wanted, cursor)
        count = await self._count(requester.user_id, ask, wanted, page)
        shown = await self._showing.results(requester, page.found, ask.context)
        # In a thread: a page of long texts takes its time.
        highlights = await trio.to_thread.run_sync(_highlights, page, query)
        answer = _answer(count, highlights, shown)
        if page.rest is not None:
            answer["next_batch"] = page.rest.encode()
        if ask.groups:
            answer["groups"] = {key: _grouped(key, page, ask) for key in ask.groups}
        if ask.include_state:
            rooms = dict.fromkeys(hit.room_id for hit, _ in page.found)
            answer["state"] = await self._showing.state(requester, [RoomID(one) for one in rooms])
        return answer

    async def _wanted(
        self, user_id: UserID, ask: SearchAsk, query: SearchQuery, cursor: Cursor
    ) -> Wanted | None:
        """Say what to look for; None if nothing can be found."""
        keys = KEYS if ask.keys is None else [key for key in ask.keys if key in KEYS]
        types = [KEYS[key][0] for key in keys if ask.wanted.allows_type(KEYS[key][0])]
        rooms = await self._rooms(user_id, ask)
        senders = ask.wanted.senders
        if cursor.group is not None:
            key, value = cursor.group
            if key == "room_id":
                rooms = [room_id for room_id in rooms if room_id == value]
            elif ask.wanted.allows_sender(value):
                senders = frozenset((value,))
            else:
                senders = frozenset()
        nothing = not query.phrases or not types or not rooms or senders == frozenset()
        if nothing or ask.wanted.limit == 0:
            return None
        return Wanted(query, rooms, types, None if senders is None else sorted(senders))

    async def _rooms(self, user_id: UserID, ask: SearchAsk) -> list[RoomID]:
        """List the rooms that the requester is in or was in, as far as they are wanted."""
        rooms = await self._memberships.rooms_of(user_id)
        may = [
            room_id
            for room_id, own in rooms.items()
            if own.membership in _READABLE and not own.forgotten
        ]
        wanted = ask.wanted
        if wanted.rooms is not None:
            named = set(wanted.rooms)
            for room_id in wanted.rooms & set(may):
                named.update(await self._predecessors(RoomID(room_id)))
            may = [room_id for room_id in may if room_id in named]
        return [room_id for room_id in may if room_id not in wanted.not_rooms]

    async def _predecessors(self, room_id: RoomID) -> list[RoomID]:
        """List the rooms that a room was upgraded from."""
        found: list[RoomID] = []
        while len(found) < MAX_PREDECESSORS:
            create = await self._states.current_event(room_id, event_types.CREATE)
            before = None if create is None else predecessor_of(create.event)
            if before is None or before in found:
                break
            found.append(before)
            room_id = before
        return found

    async def _page(self, user_id: UserID, ask: SearchAsk, wanted: Wanted, cursor: Cursor) -> _Page:
        """Go through the hits until enough are found that may be seen."""
        limit = max(1, ask.wanted.limit_within(DEFAULT_LIMIT, MAX_LIMIT))
        found: list[tuple[Hit, Seen]] = []
        size = max(MIN_BATCH, 2 * limit)
        for _ in range(MAX_PASSES):
            hits = await self._hits(wanted, cursor, size)
            seen = await self._seen(user_id, ask, hits)
            for hit in hits:
                cursor = cursor.behind(hit)
                if hit.stream_id not in seen:
                    continue
                found.append((hit, seen[hit.stream_id]))
                if len(found) == limit:
                    is_last = hit is hits[-1] and len(hits) < size
                    return _Page(found, None if is_last else cursor)
            if len(hits) < size:
                return _Page(found, None)
            size = min(MAX_BATCH, 2 * size)
        return _Page(found, cursor)

    async def _count(self, user_id: UserID, ask: SearchAsk, wanted: Wanted, page: _Page) -> int:
        """Give about how many results there are.

        What is counted unseen is only what members may read: to count the rest, such as what
        was said after the requester was banned, would be to tell which words are in it.
        """
        if ask.next_batch is None and page.rest is None:
            return len(page.found)
        rooms = await self._memberships.rooms_of(user_id)
        readable = []
        for room_id in map(RoomID, wanted.room_ids):
            own = rooms.get(room_id)
            is_joined = own is not None and own.membership == event_types.JOIN
            if is_joined and await self._visibility.is_open_to_members(room_id):
                readable.append(room_id)
        if not readable:
            return len(page.found)
        counted = await self._database.read_long(storage.count, wanted._replace(room_ids=readable))
        return max(counted, len(page.found))

    async def _hits(self, wanted: Wanted, cursor: Cursor, size: int) -> list[Hit]:
        if cursor.order == "rank":
            return await self._database.read_long(storage.best, wanted, cursor.place, size)
        return await self._database.read_long(storage.latest, wanted, cursor.time_place, size)

    async def _seen(
        self, user_id: UserID, ask: SearchAsk, hits: Sequence[Hit]
    ) -> Mapping[int, Seen]:
        stored = await self._events.get_numbered([hit.stream_id for hit in hits])
        wanted = [
            one
            for one in stored.values()
            if one.redacted_by is None
            and ask.wanted.allows(one.event.type, one.event.sender, one.event.content)
        ]
        if ask.wanted.needs_children:
            children: dict[str, list[tuple[str, str]]] = {}
            ids = [one.event_id for one in wanted]
            for parent, rel_type, sender in await self._database.read(relations.children, ids):
                children.setdefault(parent, []).append((rel_type, sender))
            wanted = [
                one for one in wanted if ask.wanted.allows_children(children.get(one.event_id, ()))
            ]
        visible = await self._visibility.filter_visible(user_id, wanted)
        # Ignored users are left out of what they named, too.
        ignored = await self._visibility.ignored_by(user_id)
        return {
            one.stored.stream_id: one
            for one in visible
            if not one.pruned and one.stored.event.sender not in ignored - {user_id}
        }


def _answer(count: int, highlights: Sequence[str], results: list[Any]) -> dict[str, Any]:
    return {"count": count, "highlights": list(highlights), "results": results}


def _highlights(page: _Page, query: SearchQuery) -> list[str]:
    words: set[str] = set()
    for _, seen in page.found:
        event = seen.stored.event
        words |= highlights_of(text_of(event.type, dict(content_of(seen.stored))), query)
    return sorted(words)[:MAX_HIGHLIGHTS]


def _grouped(key: Any, page: _Page, ask: SearchAsk) -> dict[str, dict[str, Any]]:
    """Group the page's results; the best, or latest, of a group says where it belongs."""
    groups: dict[str, dict[str, Any]] = {}
    for hit, seen in page.found:
        event = seen.stored.event
        value = hit.room_id if key == "room_id" else event.sender
        order = round(hit.score * _FINELY) if ask.order == "rank" else hit.origin_server_ts
        group = groups.setdefault(value, {"order": order, "results": []})
        group["results"].append(event.event_id)
    if page.rest is not None:
        for value, group in groups.items():
            group["next_batch"] = attrs.evolve(page.rest, group=(key, value)).encode()
    return groups
