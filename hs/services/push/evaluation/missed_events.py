"""Events that were stored while no process evaluated, as rows of the events stream."""

import logging
from collections.abc import Sequence
from itertools import groupby
from typing import Final

import attrs

from hs.core.errors import Unavailable
from hs.core.events import event_types
from hs.core.ids import EventID
from hs.core.positions import VectorPosition
from hs.core.streams import EVENTS, EventRow
from hs.repl.entry_retries import EntryRetries
from hs.repl.feed import Batch
from hs.services.push.evaluation.event_context import ContextReader
from hs.services.push.evaluation.row_evaluation import FAILED
from hs.services.rooms.store.event_store import EventStore
from hs.services.rooms.store.stored_event import EventStatus
from hs.storage.database import Database, DatabaseUnavailable
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

    A page of events is read together, whatever the evaluation will need of it. If that fails, its
    events are read one by one, and an event that cannot be read, although the database is there, is
    skipped: it must not stop the evaluation of all others.
    """

    _database: Database
    _events: EventStore
    _contexts: ContextReader
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
        page = await self._database.read(storage.list_events_after, after, PAGE_SIZE)
        missed = [
            (stream_id, writer, EventID(event_id))
            for stream_id, writer, event_id in page
            if start.covers(writer, stream_id) and not evaluated.covers(writer, stream_id)
        ]
        rows = await self._read([event_id for _, _, event_id in missed])
        batches: list[Batch[EventRow]] = []
        for writer, group in groupby(missed, key=lambda entry: entry[1]):
            numbered = [
                (number, rows[event_id]) for number, _, event_id in group if event_id in rows
            ]
            if numbered:
                first, last = numbered[0][0], numbered[-1][0]
                batches.append(Batch(EVENTS, writer, first - 1, last, numbered))
        return batches, page[-1][0] if len(page) == PAGE_SIZE else None

    async def _read(self, event_ids: Sequence[EventID]) -> dict[EventID, EventRow]:
        """Return the rows of those events that were not purged and can be read."""
        try:
            return await self._rows(event_ids)
        except DatabaseUnavailable:
            raise
        except Exception:  # noqa: BLE001 - that of an event is logged when it is read alone
            log.warning("missed events cannot be read together, reading them one by one")
        rows: dict[EventID, EventRow] = {}
        for event_id in event_ids:
            rows |= await self._read_one(event_id)
        return rows

    async def _read_one(self, event_id: EventID) -> dict[EventID, EventRow]:
        try:
            return await self._rows([event_id])
        except Unavailable as error:
            if self._retries.may_retry(event_id, error):
                raise
            log.exception(FAILED, event_id)
        except Exception:  # it would fail again after a restart, and later events must not wait
            log.exception(FAILED, event_id)
        return {}

    async def _rows(self, event_ids: Sequence[EventID]) -> dict[EventID, EventRow]:
        """Make the rows of events, with the fields that the evaluation reads."""
        events = await self._events.get(event_ids)
        targets = [stored.event.redacts for stored in events.values()]
        redacted = await self._events.get([target for target in targets if target is not None])
        joined_before = await self._contexts.joined_before(events.values())
        await self._contexts.prepare(events.values())
        rows: dict[EventID, EventRow] = {}
        for event_id, stored in events.items():
            event = stored.event
            is_member = event.type == event_types.MEMBER
            target = None if event.redacts is None else redacted.get(event.redacts)
            is_outside = stored.status == EventStatus.OUTLIER
            rows[event_id] = EventRow(
                room_id=event.room_id,
                event_id=event_id,
                type=event.type,
                sender=event.sender,
                state_key=event.state_key,
                depth=event.depth,
                origin_server_ts=event.origin_server_ts,
                membership=event.content.get("membership") if is_member else None,
                prev_membership=event_types.JOIN if event_id in joined_before else None,
                outlier=is_outside,
                outside=is_outside,
                redacts=event.redacts,
                snapshot_id=stored.snapshot_id,
                redaction_applies=target is not None and target.redacted_by == event_id,
            )
        return rows
