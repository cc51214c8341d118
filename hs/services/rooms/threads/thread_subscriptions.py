"""Subscriptions to threads, made by the user or automatically by a mention.

Spec: MSC4306; MSC4308 for how clients catch up.
"""

from typing import Final, Protocol

import attrs

from hs.core.errors import InvalidParam, MatrixError, NotFound, TooLarge
from hs.core.ids import EventID, RoomID, UserID
from hs.core.relations import THREAD, relation_of
from hs.core.requester import Requester
from hs.core.streams import EVENTS, ThreadSubscriptionRow
from hs.core.tokens import PaginationToken, SyncToken
from hs.repl.feed import Feed
from hs.repl.rpc import rpc
from hs.repl.writers import StreamIds, TableWriter
from hs.services.rooms.read.timelines import Timelines
from hs.storage.database import Database, Tx
from hs.storage.rooms import thread_subscriptions as storage
from hs.storage.rooms.thread_subscriptions import SubscriptionRecord

MAX_LIMIT: Final = 1000
DEFAULT_LIMIT: Final = 100
MAX_SUBSCRIPTIONS: Final = 50_000  # of one user, those that were ended included

SubscriptionChange = tuple[bool, list[tuple[int, ThreadSubscriptionRow]]]


class SubscriptionWriter(Protocol):
    """The process that writes thread subscriptions."""

    @rpc
    async def subscribe(
        self, user_id: UserID, room_id: RoomID, root_id: EventID, cause: int | None, upto: int
    ) -> bool:
        """Subscribe a user, or subscribe them automatically because of the event `cause`.

        `cause` and `upto`, the last event so far, are stream IDs. Return False if the user has
        unsubscribed after `cause`. Raises: TooLarge if the user has too many subscriptions.
        """
        ...

    @rpc
    async def unsubscribe(
        self, user_id: UserID, room_id: RoomID, root_id: EventID, upto: int
    ) -> None:
        """Unsubscribe a user who is subscribed; `upto` is the stream ID of the last event."""
        ...


@attrs.frozen(eq=False)
class SubscriptionTable:
    """The SubscriptionWriter of the process that owns the stream."""

    writer: TableWriter[ThreadSubscriptionRow]

    async def subscribe(
        self, user_id: UserID, room_id: RoomID, root_id: EventID, cause: int | None, upto: int
    ) -> bool:
        """Subscribe a user; see SubscriptionWriter."""
        return await self.writer.write(_subscribe, user_id, room_id, root_id, cause, upto)

    async def unsubscribe(
        self, user_id: UserID, room_id: RoomID, root_id: EventID, upto: int
    ) -> None:
        """Unsubscribe a user; see SubscriptionWriter."""
        await self.writer.write(_unsubscribe, user_id, room_id, root_id, upto)


@attrs.frozen
class SubscriptionsPage:
    """Changes, the latest first; `end` is the token to continue from, if there are more."""

    changes: list[SubscriptionRecord]
    end: str | None


@attrs.frozen(eq=False)
class ThreadSubscriptions:
    """Reads and changes thread subscriptions for clients."""

    _database: Database
    _feed: Feed
    _writer: SubscriptionWriter
    _timelines: Timelines

    async def subscribe(
        self, requester: Requester, room_id: RoomID, root_id: EventID, cause: EventID | None
    ) -> None:
        """Subscribe the requester; with `cause`, automatically because of an event in the thread.

        Raises: NotFound; M_NOT_IN_THREAD; M_CONFLICTING_UNSUBSCRIPTION; TooLarge.
        """
        await self._timelines.find_visible(requester, root_id, room_id)
        cause_stream_id = None
        if cause is not None:
            cause_stream_id = await self._stream_id_of_cause(requester, room_id, root_id, cause)
        if not await self._writer.subscribe(
            requester.user_id, room_id, root_id, cause_stream_id, self._last_event()
        ):
            raise MatrixError(
                "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION",
                409,
                "The user unsubscribed from the thread after this event",
            )

    async def unsubscribe(self, requester: Requester, room_id: RoomID, root_id: EventID) -> None:
        """Unsubscribe the requester, if they are subscribed. Raises: NotFound."""
        await self._timelines.find_visible(requester, root_id, room_id)
        await self._writer.unsubscribe(requester.user_id, room_id, root_id, self._last_event())

    async def is_automatic(self, requester: Requester, room_id: RoomID, root_id: EventID) -> bool:
        """Return whether the requester's subscription is automatic.

        Raises: NotFound, if they are not subscribed.
        """
        await self._timelines.find_visible(requester, root_id, room_id)
        record = await self._database.read(storage.get, requester.user_id, room_id, root_id)
        if record is None or not record.is_subscribed:
            raise NotFound("You are not subscribed to this thread")
        return record.is_automatic

    async def page(
        self, requester: Requester, start: str | None, to: str | None, limit: int
    ) -> SubscriptionsPage:
        """Return changes before `start`, back to the `pos` of a sync. Raises: InvalidParam."""
        if limit <= 0:
            raise InvalidParam("limit must be greater than zero")
        upto = storage.NEWEST
        if start is not None:
            (key,) = PaginationToken.parse(start, int).keys
            upto = int(key)
        after = 0 if to is None else SyncToken.parse(to).thread_subscriptions.floor
        return await self.changes(requester.user_id, after, upto, limit, gone_too=True)

    async def changes(
        self, user_id: UserID, after: int, upto: int, limit: int, *, gone_too: bool
    ) -> SubscriptionsPage:
        """Return changes in `(after, upto]`, the latest first."""
        limit = min(limit, MAX_LIMIT)
        records = await self._database.read(_changes, user_id, after, upto, limit + 1, gone_too)
        end = None
        if len(records) > limit:
            records = records[:limit]
            end = PaginationToken((records[-1].stream_id - 1,)).encode()
        return SubscriptionsPage(records, end)

    async def _stream_id_of_cause(
        self, requester: Requester, room_id: RoomID, root_id: EventID, cause: EventID
    ) -> int:
        visible = await self._timelines.find_visible(requester, cause, room_id)
        relation = relation_of(visible.stored.event.content)
        if relation is None or relation.rel_type != THREAD or relation.parent_id != root_id:
            raise MatrixError(
                "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD", 400, "The event is not in the thread"
            )
        return visible.stored.stream_id

    def _last_event(self) -> int:
        return self._feed.position(EVENTS).most()


async def _changes(
    tx: Tx, user_id: str, after: int, upto: int, limit: int, gone_too: bool
) -> list[SubscriptionRecord]:
    return await storage.list_changes(tx, user_id, after, upto, limit, gone_too=gone_too)


async def _subscribe(
    tx: Tx,
    ids: StreamIds,
    user_id: str,
    room_id: str,
    root_id: str,
    cause: int | None,
    upto: int,
) -> SubscriptionChange:
    current = await storage.get(tx, user_id, room_id, root_id)
    automatic = cause is not None
    if current is not None and current.is_subscribed:
        if automatic or not current.is_automatic:
            return True, []
    elif current is not None and cause is not None and cause <= current.events_upto:
        return False, []
    if current is None and await storage.has_as_many(tx, user_id, MAX_SUBSCRIPTIONS):
        raise TooLarge(f"A user must not have more than {MAX_SUBSCRIPTIONS} subscriptions")
    record = SubscriptionRecord(
        user_id=user_id,
        room_id=room_id,
        root_id=root_id,
        is_subscribed=True,
        is_automatic=automatic,
        events_upto=upto,
        stream_id=await ids.next_id(),
    )
    return True, await _write(tx, record)


async def _unsubscribe(
    tx: Tx, ids: StreamIds, user_id: str, room_id: str, root_id: str, upto: int
) -> SubscriptionChange:
    current = await storage.get(tx, user_id, room_id, root_id)
    if current is None or not current.is_subscribed:
        return False, []
    record = SubscriptionRecord(
        user_id=user_id,
        room_id=room_id,
        root_id=root_id,
        is_subscribed=False,
        is_automatic=False,
        events_upto=upto,
        stream_id=await ids.next_id(),
    )
    return True, await _write(tx, record)


async def _write(tx: Tx, record: SubscriptionRecord) -> list[tuple[int, ThreadSubscriptionRow]]:
    await storage.put(tx, record)
    row = ThreadSubscriptionRow(
        record.user_id, record.room_id, record.root_id, record.is_subscribed
    )
    return [(record.stream_id, row)]
