"""Delayed events: schedule, restart, cancel, send and list them.

Rules:

- A delayed event is a row. A duty of one process sends it when its time has come; all other
  operations run in any process.
- Every change of its status is one conditional UPDATE. Whoever sends an event takes its row first;
  from then on it can neither be cancelled nor restarted, nor be taken by another request. A request
  whose UPDATE matches no row reads the outcome and reports it.
- If a process ends after taking a row, the duty takes the row again after a while. Sending the same
  row twice yields one event: `delay_id` is the transaction ID, under a device ID that no real
  device has.
- If an explicit send fails, the row is released and stays scheduled. If the duty's attempt fails,
  the error is final, unless it may be temporary: server errors and rate limits are tried again.
- New and changed times are announced to the duty, which otherwise sleeps until the next event is
  due.

Spec: MSC4140.
"""

import math
import secrets
from typing import Final

import attrs
import orjson

from hs.core.canonical_json import JsonObject, check_canonical
from hs.core.errors import (
    Forbidden,
    InvalidParam,
    LimitExceeded,
    MatrixError,
    NotFound,
    TooLarge,
    UserLocked,
)
from hs.core.event_contents import check_content
from hs.core.events import event_types
from hs.core.events.sticky import check_sticky_duration
from hs.core.ids import EventID, RoomID, UserID
from hs.core.requester import Requester
from hs.core.streams import CacheRow
from hs.lib.clock import Clock
from hs.repl.memory_writer import MemoryWriter
from hs.services.accounts.limits.account_restrictions import check_may_act
from hs.services.accounts.limits.rate_limits import RequestRateLimits
from hs.services.rooms.sending.event_sending import EventSender, check_may_be_state
from hs.services.rooms.store.stored_event import DELAYED_EVENT_DEVICE
from hs.storage.accounts import users
from hs.storage.database import Database, UniqueViolation
from hs.storage.rooms import delayed_events as storage
from hs.storage.rooms.delayed_events import DelayedEventLimitReached
from hs.storage.rooms.delayed_events import DelayedRecord as DelayedRecord

CACHE_NAME: Final = "delayed_events"
MAX_SCHEDULED: Final = 100  # per user
MAX_CONTENT_BYTES: Final = 65_536
MAX_FINISHED: Final = 1000


class DelayedEventsDisabled(MatrixError):
    """Delayed events are disabled on this server."""

    def __init__(self) -> None:
        # An error, because sending the event at once would be worse than not sending it.
        super().__init__("M_FORBIDDEN", 403, "Delayed events are disabled on this server")


class DelayTooLong(MatrixError):
    """The delay is longer than this server allows."""

    def __init__(self, max_delay_ms: int) -> None:
        message = f"The delay must not be longer than {max_delay_ms} ms"
        super().__init__("M_FORBIDDEN", 403, message, **_limit_fields(max_delay_ms))


class UnstableDelayTooLong(MatrixError):
    """DelayTooLong for clients that pass the delay in the query.

    matrix-js-sdk, and with it Element Call, schedules the event again with a shorter delay if the
    errcode is M_UNKNOWN and the fields of MSC4140 are there. It gives up after any other error.
    """

    def __init__(self, error: DelayTooLong) -> None:
        super().__init__("M_UNKNOWN", 400, error.message, **error.extra)


def _limit_fields(max_delay_ms: int) -> dict[str, str | int]:
    return {
        "max_delay": max_delay_ms,
        "org.matrix.msc4140.errcode": "M_MAX_DELAY_EXCEEDED",
        "org.matrix.msc4140.max_delay": max_delay_ms,
    }


class DelayedEventFinished(MatrixError):
    """The delayed event has already been sent, cancelled or failed."""

    def __init__(self, message: str) -> None:
        super().__init__("M_UNKNOWN", 409, message)


@attrs.frozen
class DelayedEventRequest:
    """A request to schedule an event; `origin_server_ts` is for application services.

    `sticky_ms` makes the event sticky for that time from when it is sent (MSC4354).
    """

    type: str
    content: JsonObject
    delay_ms: int
    state_key: str | None = None
    txn_id: str | None = None
    origin_server_ts: int | None = None
    sticky_ms: int | None = None


@attrs.frozen(eq=False, kw_only=True)
class DelayedEvents:
    """Schedules events; disabled if `longest_ms` is None."""

    database: Database
    clock: Clock
    sending: EventSender
    rates: RequestRateLimits
    announcements: MemoryWriter[CacheRow]
    longest_ms: int | None

    async def schedule(
        self, requester: Requester, room_id: RoomID, request: DelayedEventRequest
    ) -> str:
        """Schedule an event; return its delay ID. Idempotent by the transaction ID.

        Raises: DelayedEventsDisabled, DelayTooLong, InvalidParam, TooLarge, LimitExceeded,
            UserSuspended, ConsentNotGiven.
        """
        if self.longest_ms is None:
            raise DelayedEventsDisabled
        if request.type != event_types.REDACTION:
            # Consent is known here only, not when the event is sent. Redactions of the user's own
            # events do not need it; they are checked when they are sent.
            check_may_act(requester)
        check_sticky_duration(request.sticky_ms)
        if request.state_key is not None:
            if request.sticky_ms is not None:
                raise InvalidParam("sticky_duration_ms must not be set for state events")
            check_may_be_state(request.type)
        check_content(requester.user_id, request.type, request.state_key, request.content)
        if request.delay_ms <= 0:
            raise InvalidParam("delay must be a positive number of milliseconds")
        if request.delay_ms > self.longest_ms:
            raise DelayTooLong(self.longest_ms)
        check_canonical(request.content)
        content = orjson.dumps(request.content)
        if len(content) > MAX_CONTENT_BYTES:
            raise TooLarge(f"content must not be larger than {MAX_CONTENT_BYTES} bytes")
        record = self._record(requester, room_id, request, content)
        try:
            result = await self.database.write(storage.schedule, record, MAX_SCHEDULED)
        except UniqueViolation:
            # An equal request ran at the same time; now its row exists.
            result = await self.database.write(storage.schedule, record, MAX_SCHEDULED)
        if isinstance(result, DelayedEventLimitReached):
            wait_ms = max(result.next_ms - self.clock.now_ms(), 1)
            raise LimitExceeded(
                f"No more than {MAX_SCHEDULED} events can be scheduled at once",
                retry_after_ms=math.ceil(wait_ms / 1000) * 1000,
            )
        self._announce(record.send_ms, *(() if request.state_key is None else (room_id,)))
        return result

    async def restart(self, requester: Requester | None, delay_id: str) -> None:
        """Restart a delay. Raises: NotFound, DelayedEventFinished."""
        record = await self.get(requester, delay_id)
        now_ms = self.clock.now_ms()
        if not await self.database.write(storage.restart, delay_id, now_ms):
            raise DelayedEventFinished("The delayed event is no longer scheduled")
        self._announce(now_ms + record.delay_ms)

    async def cancel(self, requester: Requester | None, delay_id: str) -> None:
        """Cancel a delayed event; idempotent.

        Raises: NotFound; DelayedEventFinished, if it was sent.
        """
        await self.get(requester, delay_id)
        if await self.database.write(storage.cancel, delay_id, self.clock.now_ms()):
            return
        record = await self.get(requester, delay_id)
        if record.status != storage.FINISHED or record.event_id is not None:
            raise DelayedEventFinished("The delayed event has already been sent")

    async def send(self, requester: Requester | None, delay_id: str) -> None:
        """Send a delayed event now; idempotent. If that fails, it stays scheduled.

        Raises: NotFound; DelayedEventFinished, if it was cancelled; and as Sending does.
        """
        await self.get(requester, delay_id)
        if not await self.database.write(storage.take, delay_id, self.clock.now_ms()):
            record = await self.get(requester, delay_id)
            if record.status == storage.FINISHED and record.event_id is None:
                raise DelayedEventFinished("The delayed event was cancelled")
            return
        record = await self.get(requester, delay_id)
        try:
            event_id = await self._send(record)
        except MatrixError:
            await self.database.write(storage.release, delay_id)
            self._announce(record.send_ms)
            raise
        await self._finish(delay_id, event_id, None)

    async def get(self, requester: Requester | None, delay_id: str) -> DelayedRecord:
        """Return a delayed event; without a requester, of any user. Raises: NotFound."""
        record = await self.database.read(storage.find, delay_id)
        if record is None or (requester is not None and record.user_id != requester.user_id):
            raise NotFound("Unknown delay_id")
        return record

    async def scheduled(self, requester: Requester) -> list[DelayedRecord]:
        """Return a user's scheduled events, the next first."""
        return await self.database.read(storage.list_scheduled, requester.user_id)

    async def finished(self, requester: Requester) -> list[DelayedRecord]:
        """Return a user's finished events, the latest first."""
        return await self.database.read(storage.list_finished, requester.user_id, MAX_FINISHED)

    async def send_taken(self, record: DelayedRecord) -> None:
        """Send a due event that the caller has taken, and record the result.

        Raises: LimitExceeded, and MatrixError with a status of 500 or more, if it should be tried
            again.
        """
        try:
            event_id = await self._send(record)
        except MatrixError as error:
            # A rate limit must not lose the event, which may end a call of the user.
            if error.status >= 500 or isinstance(error, LimitExceeded):
                raise
            await self._finish(record.delay_id, None, error)
        else:
            await self._finish(record.delay_id, event_id, None)

    def _record(
        self, requester: Requester, room_id: RoomID, request: DelayedEventRequest, content: bytes
    ) -> DelayedRecord:
        now_ms = self.clock.now_ms()
        is_appservice = requester.appservice_id is not None
        return DelayedRecord(
            delay_id=secrets.token_urlsafe(24),
            user_id=requester.user_id,
            device_id=requester.device_id or "",
            scope=f"/rooms/{room_id}/delayed_event/{request.type}",
            txn_id=request.txn_id,
            room_id=room_id,
            type=request.type,
            state_key=request.state_key,
            content=content,
            origin_server_ts=request.origin_server_ts if is_appservice else None,
            delay_ms=request.delay_ms,
            started_ms=now_ms,
            send_ms=now_ms + request.delay_ms,
            sticky_ms=request.sticky_ms,
        )

    async def _send(self, record: DelayedRecord) -> EventID:
        """Send an event on behalf of its user; a repetition returns the same event."""
        requester = await self._requester(record)
        self.rates.check("message", requester, "")
        room_id, content = RoomID(record.room_id), orjson.loads(record.content)
        if record.state_key is None:
            return await self.sending.message(
                requester,
                room_id,
                record.type,
                content,
                txn_id=record.delay_id,
                origin_server_ts=record.origin_server_ts,
                sticky_ms=record.sticky_ms,
            )
        return await self.sending.state(
            requester,
            room_id,
            record.type,
            record.state_key,
            content,
            txn_id=record.delay_id,
            origin_server_ts=record.origin_server_ts,
        )

    async def _requester(self, record: DelayedRecord) -> Requester:
        user = await self.database.read(users.find_user, record.user_id)
        if user is None or user.is_deactivated:
            raise Forbidden("The account is deactivated")
        if user.is_locked:
            raise UserLocked("The account is locked")
        return Requester(
            UserID(record.user_id),
            DELAYED_EVENT_DEVICE,
            is_guest=user.is_guest,
            is_admin=user.is_admin,
            is_shadow_banned=user.is_shadow_banned,
            appservice_id=user.appservice_id,
            suspended=user.is_suspended,
        )

    async def _finish(
        self, delay_id: str, event_id: EventID | None, error: MatrixError | None
    ) -> None:
        error_body = None if error is None else orjson.dumps(error.body())
        now_ms = self.clock.now_ms()
        await self.database.write(storage.finish, delay_id, event_id, error_body, now_ms)

    def _announce(self, send_ms: int, *rooms_of_state: RoomID) -> None:
        keys = (str(send_ms), *rooms_of_state)
        self.announcements.append_nowait([CacheRow(CACHE_NAME, keys)])
