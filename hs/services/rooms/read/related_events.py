"""Child events of an event, and the threads of a room, page by page.

Spec: client-server API, `/relations`, `/threads`.
"""

from collections.abc import Sequence
from typing import Final

import attrs
import orjson

from hs.core.errors import InvalidParam
from hs.core.ids import EventID, RoomID
from hs.core.requester import Requester
from hs.core.tokens import PaginationToken, TopologicalToken
from hs.services.rooms.read.event_serializer import EventSerializer
from hs.services.rooms.read.pagination import HISTORY_END, HISTORY_START, TokenPositions
from hs.services.rooms.read.rendering import json_array
from hs.services.rooms.read.timelines import Direction, Timelines
from hs.services.rooms.read.visibility import Visibility
from hs.services.rooms.store.event_store import EventStore
from hs.storage.database import Database
from hs.storage.rooms import relations
from hs.storage.rooms.relations import ChildEvent, ChildrenQuery, ThreadsQuery

DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 100
RECURSION_DEPTH: Final = 3


@attrs.frozen
class RelationsRequest:
    """A request for children of an event; empty strings match everything."""

    room_id: RoomID
    event_id: EventID
    rel_type: str = ""
    event_type: str = ""
    direction: Direction = "b"
    start: str | None = None
    to: str | None = None
    limit: int | None = None
    recurse: bool = False


@attrs.frozen
class RelationsPage:
    """One page of children."""

    chunk: orjson.Fragment
    next_batch: str | None = None
    prev_batch: str | None = None
    recursion_depth: int | None = None


@attrs.frozen
class ThreadsPage:
    """One page of threads: their root events."""

    chunk: orjson.Fragment
    next_batch: str | None = None


@attrs.frozen(eq=False)
class RelatedEvents:
    """Reads children of events for clients."""

    _database: Database
    _events: EventStore
    _visibility: Visibility
    _serializer: EventSerializer
    _positions: TokenPositions
    _timelines: Timelines

    async def children(self, requester: Requester, request: RelationsRequest) -> RelationsPage:
        """Return a page of the children of an event.

        Raises: Forbidden; InvalidParam; NotFound, if the user may not see the parent.
        """
        await self._visibility.check_may_read(requester.user_id, request.room_id)
        await self._timelines.find_visible(requester, request.event_id, request.room_id)
        limit = _limit(request.limit)
        children = await self._read(request, limit + 1)
        has_more = len(children) > limit
        children = children[:limit]
        events = await self._events.get(EventID(child.event_id) for child in children)
        visible = await self._visibility.filter_visible(requester.user_id, list(events.values()))
        return RelationsPage(
            json_array(await self._serializer.timeline(requester, visible)),
            _next_batch(children, request.direction) if has_more else None,
            request.start,
            RECURSION_DEPTH if request.recurse else None,
        )

    async def threads(
        self,
        requester: Requester,
        room_id: RoomID,
        *,
        participated: bool,
        start: str | None,
        limit: int | None,
    ) -> ThreadsPage:
        """Return a page of a room's threads, those with the latest replies first.

        Replies of users that the requester ignores do not count; a thread without other replies is
        left out.
        Raises: Forbidden, InvalidParam.
        """
        await self._visibility.check_may_read(requester.user_id, room_id)
        page_size = _limit(limit)
        ignored = await self._visibility.ignored_by(requester.user_id)
        query = ThreadsQuery(
            room_id,
            HISTORY_END[1] if start is None else _number(start),
            page_size + 1,
            list(ignored),
            requester.user_id if participated else "",
        )
        rows = await self._database.read(relations.threads, query)
        has_more = len(rows) > page_size
        rows = rows[:page_size]
        events = await self._events.get(EventID(root) for root, _ in rows)
        visible = await self._visibility.filter_visible(
            requester.user_id, list(events.values()), ignore=False
        )
        roots = [
            root._replace(pruned=True) if root.stored.event.sender in ignored else root
            for root in visible
        ]
        return ThreadsPage(
            json_array(await self._serializer.timeline(requester, roots)),
            PaginationToken((rows[-1][1],)).encode() if has_more else None,
        )

    async def _read(self, request: RelationsRequest, limit: int) -> Sequence[ChildEvent]:
        start = (
            None
            if request.start is None
            else await self._positions.parse(request.room_id, request.start)
        )
        to = (
            None if request.to is None else await self._positions.parse(request.room_id, request.to)
        )
        lower, upper = (to, start) if request.direction == "b" else (start, to)
        query = ChildrenQuery(
            room_id=request.room_id,
            parent_id=request.event_id,
            rel_type=request.rel_type,
            event_type=request.event_type,
            after=HISTORY_START if lower is None else lower,
            upto=HISTORY_END if upper is None else upper,
            limit=limit,
        )
        if request.recurse:
            read = (
                relations.newest_descendants
                if request.direction == "b"
                else relations.oldest_descendants
            )
        else:
            read = (
                relations.newest_children if request.direction == "b" else relations.oldest_children
            )
        return await self._database.read(read, query)


def _limit(limit: int | None) -> int:
    if limit is None:
        return DEFAULT_LIMIT
    if limit <= 0:
        raise InvalidParam("limit must be greater than zero")
    return min(limit, MAX_LIMIT)


def _next_batch(children: Sequence[ChildEvent], direction: Direction) -> str:
    last = children[-1]
    stream_id = last.stream_id - 1 if direction == "b" else last.stream_id
    return TopologicalToken(last.depth, stream_id).encode()


def _number(token: str) -> int:
    (stream_id,) = PaginationToken.parse(token, int).keys
    assert isinstance(stream_id, int)
    return stream_id
