"""Events that were stored while no process evaluated, as rows of the events stream."""

import logging
from typing import Final

import attrs

from hs.core.errors import Unavailable
from hs.core.events import event_types
from hs.core.ids import EventID
from hs.core.positions import VectorPosition
from hs.core.streams import EVENTS, EventRow
from hs.repl.entry_retries import EntryRetries
from hs.repl.feed import Batch
from hs.services.push.evaluation.event_evaluation import Evaluator
from hs.services.push.evaluation.row_evaluation import FAILED
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.stored_event import StoredEvent
from hs.storage.database import Database
from hs.storage.push import push_rules as storage

PAGE_SIZE: Final = 500

log = logging.getLogger(__name__)


@attrs.frozen
class FeedStart:
    """Where the feed stood at the beginning of a catch-up.

    The feed delivers the events that it does not cover, in the order of each writer. Of several
    writers one may be slow: the tables may have its later events and not yet an earlier one.
    """

    position: VectorPosition
    writers: frozenset[str]

    def covers(self, writer: str, stream_id: int) -> bool:
        """Return whether the feed will not deliver an event, so that it is read from the tables."""
        # Of a writer that is no longer configured the feed delivers nothing.
        return writer not in self.writers or self.position.covers(writer, stream_id)


@attrs.frozen(eq=False)
class MissedEvents:
    """Reads the events between the stored position of the evaluation and the start of the feed.

    An event that cannot be read, although the database is there, is skipped: it must not stop the
    evaluation of all others.
    """

    _database: Database
    _events: EventStore
    _evaluator: Evaluator
    _retries: EntryRetries[str] = attrs.Factory(EntryRetries)

    async def stored_position(self) -> VectorPosition:
        """Return the position up to which the results of events are stored."""
        stored = await self._database.read(storage.load_position)
        return VectorPosition() if stored is None else VectorPosition.parse(stored)

    async def page(
        self, after: int, evaluated: VectorPosition, start: FeedStart
    ) -> tuple[list[Batch[EventRow]], int | None]:
        """Return the next events above a stream ID, in order: up to `start`, and not `evaluated`.

        The batches are as the feed would deliver them. Also return the stream ID from which the
        next page continues; None if this is the last page.
        Raises: Unavailable; a page that is read again skips an event that failed each time.
        """
        batches: list[Batch[EventRow]] = []
        page = await self._database.read(storage.list_events_after, after, PAGE_SIZE)
        for stream_id, writer, event_id in page:
            if evaluated.covers(writer, stream_id) or not start.covers(writer, stream_id):
                continue
            row = await self._read(EventID(event_id))
            if row is not None:
                batches.append(Batch(EVENTS, writer, stream_id - 1, stream_id, [(stream_id, row)]))
        return batches, page[-1][0] if len(page) == PAGE_SIZE else None

    async def _read(self, event_id: EventID) -> EventRow | None:
        """Return the row of an event; None if it was purged, or if it cannot be made."""
        try:
            stored = await self._events.get_one(event_id)
            return None if stored is None else await self._row(stored)
        except Unavailable as error:
            if self._retries.may_retry(event_id, error):
                raise
            log.exception(FAILED, event_id)
        except Exception:  # it would fail again after a restart, and later events must not wait
            log.exception(FAILED, event_id)
        return None

    async def _row(self, stored: StoredEvent) -> EventRow:
        """Make the row of an event, with the fields that the evaluation reads."""
        event = stored.event
        membership = event.content.get("membership") if event.type == event_types.MEMBER else None
        target = None if event.redacts is None else await self._events.get_one(event.redacts)
        return EventRow(
            room_id=event.room_id,
            event_id=event.event_id,
            type=event.type,
            sender=event.sender,
            state_key=event.state_key,
            depth=event.depth,
            origin_server_ts=event.origin_server_ts,
            membership=membership,
            prev_membership=await self._evaluator.membership_before(stored) if membership else None,
            redacts=event.redacts,
            snapshot_id=stored.snapshot_id,
            redaction_applies=target is not None and target.redacted_by == event.event_id,
        )
