"""Children of events, and the threads of rooms, page by page.

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
from hs.services.rooms.read.event_serializer import Showing
from hs.services.rooms.read.pagination import FURTHEST, NOWHERE, Places
from hs.services.rooms.read.rendering import json_array
from hs.services.rooms.read.timelines import Direction, Timelines
from hs.services.rooms.read.visibility import Visibility
from hs.services.rooms.store.event_store import EventStore
from hs.storage.database import Database
from hs.storage.rooms import relations
from hs.storage.rooms.relations import Child, ThreadsWanted, Wanted

DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 100
RECURSION_DEPTH: Final = 3


@attrs.frozen
class RelationsAsk:
    """Which children are asked for; empty texts let all pass."""

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
    """One page of threads, as their roots."""

    chunk: orjson.Fragment
    next_batch: str | None = None


@attrs.frozen(eq=False)
class RelatedEvents:
    """Reads children of events for clients."""

    _database: Database
    _events: EventStore
    _visibility: Visibility
    _showing: Showing
    _places: Places
    _timelines: Timelines

    async def children(self, requester: Requester, ask: RelationsAsk) -> RelationsPage:
        """Give a page of the children of an event.

        Raises: Forbidden, InvalidParam, NotFound for a parent that the user may not see.
        """
        await self._visibility.check_may_read(requester.user_id, ask.room_id)
        await self._timelines.find_visible(requester, ask.event_id, ask.room_id)
        limit = _limit(ask.limit)
        children = await self._read(ask, limit + 1)
        more = len(children) > limit
        children = children[:limit]
        events = await self._events.get(EventID(one.event_id) for one in children)
        seen = await self._visibility.filter_visible(requester.user_id, list(events.values()))
        return RelationsPage(
            json_array(await self._showing.timeline(requester, seen)),
            _rest(children, ask.direction) if more else None,
            ask.start,
            RECURSION_DEPTH if ask.recurse else None,
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
        """Give a page of a room's threads, those with the latest replies first.

        Replies of users that the requester ignores do not count: without others there is no
        thread.

        Raises: Forbidden, InvalidParam.
        """
        await self._visibility.check_may_read(requester.user_id, room_id)
        most = _limit(limit)
        ignored = await self._visibility.ignored_by(requester.user_id)
        wanted = ThreadsWanted(
            room_id,
            FURTHEST[1] if start is None else _number(start),
            most + 1,
            list(ignored),
            requester.user_id if participated else "",
        )
        rows = await self._database.read(relations.threads, wanted)
        more = len(rows) > most
        rows = rows[:most]
        events = await self._events.get(EventID(root) for root, _ in rows)
        seen = await self._visibility.filter_visible(
            requester.user_id, list(events.values()), ignore=False
        )
        shown = [
            one._replace(pruned=True) if one.stored.event.sender in ignored else one for one in seen
        ]
        return ThreadsPage(
            json_array(await self._showing.timeline(requester, shown)),
            PaginationToken((rows[-1][1],)).encode() if more else None,
        )

    async def _read(self, ask: RelationsAsk, limit: int) -> Sequence[Child]:
        start = None if ask.start is None else await self._places.parse(ask.room_id, ask.start)
        to = None if ask.to is None else await self._places.parse(ask.room_id, ask.to)
        lower, upper = (to, start) if ask.direction == "b" else (start, to)
        wanted = Wanted(
            ask.room_id,
            ask.event_id,
            ask.rel_type,
            ask.event_type,
            NOWHERE if lower is None else lower,
            FURTHEST if upper is None else upper,
            limit,
        )
        if ask.recurse:
            read = relations.newest_family if ask.direction == "b" else relations.oldest_family
        else:
            read = relations.newest_children if ask.direction == "b" else relations.oldest_children
        return await self._database.read(read, wanted)


def _limit(limit: int | None) -> int:
    if limit is None:
        return DEFAULT_LIMIT
    if limit <= 0:
        raise InvalidParam("limit must be greater than zero")
    return min(limit, MAX_LIMIT)


def _rest(children: Sequence[Child], direction: Direction) -> str:
    last = children[-1]
    stream_id = last.stream_id - 1 if direction == "b" else last.stream_id
    return TopologicalToken(last.depth, stream_id).encode()


def _number(token: str) -> int:
    (number,) = PaginationToken.parse(token, int).keys
    assert isinstance(number, int)
    return number
