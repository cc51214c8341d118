"""Events to be sent later: what users schedule, restart, cancel and ask about.

What is scheduled is a row; a duty of one process sends it when its time has come. Here is what
any process does with the rows, and the sending itself, which may be tried again without harm.

Spec: MSC4140.
"""

import math
import secrets
from typing import Final, Protocol

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
from hs.core.events import event_types
from hs.core.ids import EventID, RoomID, UserID
from hs.core.requester import Requester
from hs.lib.clock import Clock
from hs.repl.memory_writer import MemoryWriter
from hs.repl.rows import CacheRow
from hs.services.accounts.limits.account_restrictions import check_may_act
from hs.services.rooms.sending.event_sending import Sending, check_may_be_state
from hs.services.rooms.store.stored_event import DELAYED_EVENT_DEVICE
from hs.storage.accounts import users
from hs.storage.database import Database, UniqueViolation
from hs.storage.rooms import delayed_events as storage
from hs.storage.rooms.delayed_events import DelayedRecord as DelayedRecord
from hs.storage.rooms.delayed_events import TooMany

CACHE_NAME: Final = "delayed_events"
MAX_SCHEDULED: Final = 100  # of one user
MAX_CONTENT_BYTES: Final = 65_536
FINISHED_SHOWN: Final = 1000


class SendRates(Protocol):
    """Limits how often a user sends."""

    def check(self, rate: str, requester: Requester | None, client_ip: str) -> None:
        """Count one. Raises: LimitExceeded."""


class NotDelayed(MatrixError):
    """This server delays no events."""

    def __init__(self) -> None:
        # To send the event at once would be the worst answer to a client that wants it later.
        super().__init__("M_FORBIDDEN", 403, "This server does not delay events")


class DelayTooLong(MatrixError):
    """The delay is longer than this server allows."""

    def __init__(self, most_ms: int) -> None:
        super().__init__(
            "M_FORBIDDEN",
            403,
            f"An event can be delayed by {most_ms} ms at most",
            max_delay=most_ms,
            **{
                "org.matrix.msc4140.errcode": "M_MAX_DELAY_EXCEEDED",
                "org.matrix.msc4140.max_delay": most_ms,
            },
        )


class AlreadyOver(MatrixError):
    """What came of the delayed event is not what is asked for."""

    def __init__(self, message: str) -> None:
        super().__init__("M_UNKNOWN", 409, message)


@attrs.frozen
class Wanted:
    """An event to be sent later; `origin_server_ts` is for application services."""

    type: str
    content: JsonObject
    delay_ms: int
    state_key: str | None = None
    txn_id: str | None = None
    origin_server_ts: int | None = None


@attrs.frozen(eq=False, kw_only=True)
class DelayedEvents:
    """Schedules events; `longest_ms` None: none at all."""

    database: Database
    clock: Clock
    sending: Sending
    rates: SendRates
    announcements: MemoryWriter[CacheRow]
    longest_ms: int | None

    async def schedule(self, requester: Requester, room_id: RoomID, wanted: Wanted) -> str:
        """Have an event sent later; give the ID of its delay.

        Idempotent by the transaction ID.
        Raises: NotDelayed, DelayTooLong, InvalidParam, TooLarge, LimitExceeded, UserSuspended,
        ConsentNotGiven.
        """
        if self.longest_ms is None:
            raise NotDelayed
        if wanted.type != event_types.REDACTION:
            # Only here it is known whether the terms are agreed to; a redaction needs no consent
            # if it is of one's own event, which is found out when it is sent.
            check_may_act(requester)
        if wanted.state_key is not None:
            check_may_be_state(wanted.type)
        if wanted.delay_ms <= 0:
            raise InvalidParam("The delay must be a positive number of milliseconds")
        if wanted.delay_ms > self.longest_ms:
            raise DelayTooLong(self.longest_ms)
        check_canonical(wanted.content)
        content = orjson.dumps(wanted.content)
        if len(content) > MAX_CONTENT_BYTES:
            raise TooLarge("The event is too large")
        record = self._record(requester, room_id, wanted, content)
        try:
            kept = await self.database.write(storage.schedule, record, MAX_SCHEDULED)
        except UniqueViolation:
            # The same request came twice at once; the other one's is there now.
            kept = await self.database.write(storage.schedule, record, MAX_SCHEDULED)
        if isinstance(kept, TooMany):
            wait_ms = max(kept.next_ms - self.clock.now_ms(), 1)
            raise LimitExceeded(
                f"No more than {MAX_SCHEDULED} events can be scheduled at once",
                retry_after_ms=math.ceil(wait_ms / 1000) * 1000,
            )
        self._announce(record.send_ms, *(() if wanted.state_key is None else (room_id,)))
        return kept

    async def restart(self, requester: Requester | None, delay_id: str) -> None:
        """Begin a delay anew. Raises: NotFound, AlreadyOver."""
        record = await self.get(requester, delay_id)
        now_ms = self.clock.now_ms()
        if not await self.database.write(storage.restart, delay_id, now_ms):
            raise AlreadyOver("The delayed event is not scheduled any more")
        self._announce(now_ms + record.delay_ms)

    async def cancel(self, requester: Requester | None, delay_id: str) -> None:
        """Have a delayed event never sent. Raises: NotFound, AlreadyOver, if it was."""
        await self.get(requester, delay_id)
        if await self.database.write(storage.cancel, delay_id, self.clock.now_ms()):
            return
        record = await self.get(requester, delay_id)
        if record.status != storage.OVER or record.event_id is not None:
            raise AlreadyOver("The delayed event was sent")

    async def send(self, requester: Requester | None, delay_id: str) -> None:
        """Send a delayed event now; if that fails, it stays scheduled.

        Raises: NotFound, AlreadyOver, if it was cancelled; as sending.
        """
        await self.get(requester, delay_id)
        if not await self.database.write(storage.take, delay_id, self.clock.now_ms()):
            record = await self.get(requester, delay_id)
            if record.status == storage.OVER and record.event_id is None:
                raise AlreadyOver("The delayed event was cancelled")
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
        """Give one; without a requester, to whoever knows its ID. Raises: NotFound."""
        record = await self.database.read(storage.find, delay_id)
        if record is None or (requester is not None and record.user_id != requester.user_id):
            raise NotFound("There is no such delayed event")
        return record

    async def scheduled(self, requester: Requester) -> list[DelayedRecord]:
        """List what a user has scheduled, the next first."""
        return await self.database.read(storage.of_user, requester.user_id)

    async def finished(self, requester: Requester) -> list[DelayedRecord]:
        """List what came of a user's others lately, the latest first."""
        return await self.database.read(storage.finished_of_user, requester.user_id, FINISHED_SHOWN)

    async def send_taken(self, record: DelayedRecord) -> None:
        """Send an event whose time has come, and note what came of it.

        Raises: LimitExceeded, and MatrixError of 500 and more, when it is to be tried again.
        """
        try:
            event_id = await self._send(record)
        except MatrixError as error:
            # That its user sends much else just now must not lose what ends a call of theirs.
            if error.status >= 500 or isinstance(error, LimitExceeded):
                raise
            await self._finish(record.delay_id, None, error)
        else:
            await self._finish(record.delay_id, event_id, None)

    def _record(
        self, requester: Requester, room_id: RoomID, wanted: Wanted, content: bytes
    ) -> DelayedRecord:
        now_ms = self.clock.now_ms()
        massaged = requester.appservice_id is not None
        return DelayedRecord(
            delay_id=secrets.token_urlsafe(24),
            user_id=requester.user_id,
            device_id=requester.device_id or "",
            scope=f"/rooms/{room_id}/delayed_event/{wanted.type}",
            txn_id=wanted.txn_id,
            room_id=room_id,
            type=wanted.type,
            state_key=wanted.state_key,
            content=content,
            origin_server_ts=wanted.origin_server_ts if massaged else None,
            delay_ms=wanted.delay_ms,
            started_ms=now_ms,
            send_ms=now_ms + wanted.delay_ms,
        )

    async def _send(self, record: DelayedRecord) -> EventID:
        """Send an event for its user; a repetition gives the same event."""
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
            raise Forbidden("The account is closed")
        if user.is_locked:
            raise UserLocked("The account is locked")
        return Requester(
            UserID(record.user_id),
            DELAYED_EVENT_DEVICE,
            is_guest=user.is_guest,
            is_admin=user.is_admin,
            shadow=user.is_shadow_banned,
            appservice_id=user.appservice_id,
            suspended=user.is_suspended,
        )

    async def _finish(
        self, delay_id: str, event_id: EventID | None, error: MatrixError | None
    ) -> None:
        told = None if error is None else orjson.dumps(error.body())
        now_ms = self.clock.now_ms()
        await self.database.write(storage.finish, delay_id, event_id, told, now_ms)

    def _announce(self, send_ms: int, *rooms_of_state: RoomID) -> None:
        keys = (str(send_ms), *rooms_of_state)
        self.announcements.append_nowait([CacheRow(CACHE_NAME, keys)])
