"""One e-mail pusher at work: it waits until something is unread for long, then mails it all."""

import logging
from collections.abc import Sequence
from typing import Final

import attrs
import trio

from hs.core.ids import EventID, RoomID, UserID
from hs.lib.backoff import Backoff
from hs.lib.clock import Clock
from hs.lib.mail.mailer import Mailer, MailFault
from hs.services.push.pushers.delivery import KEPT_MS, Push, Pusher
from hs.services.push.pushers.email_content import MailContent, Unread
from hs.services.push.pushers.email_schedule import after_mail, due_ms
from hs.services.push.pushers.pusher_positions import Positions
from hs.services.push.pushers.pusher_table import PusherWriter
from hs.services.push.pushers.pushers import EMAIL
from hs.services.push.unread.unread_counts import UnreadCounts
from hs.services.rooms.store.event_store import EventStore
from hs.storage.database import Database, DatabaseError
from hs.storage.push import pushers as storage
from hs.storage.push.pushers import Throttle

MAX_READ: Final = 1000
"""Notifications looked at together; one e-mail is done with all of them that are unread."""

MAX_MAILED: Final = 50
"""Messages that it shows of the room that is the reason, and again of all others."""

NEVER_MS: Final = 2**62

FIRST_PAUSE_S: Final = 30.0
LONGEST_PAUSE_S: Final = 3600.0
NOTE_AGAIN_S: Final = 1.0

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class MailTools:
    """What all lines of e-mail share."""

    database: Database
    positions: Positions
    writer: PusherWriter
    clock: Clock
    counts: UnreadCounts
    events: EventStore
    content: MailContent
    mailer: Mailer
    delay_ms: int


@attrs.define(eq=False)
class MailLine:
    """A pusher that mails."""

    pusher: Pusher
    _tools: MailTools
    is_working: bool = False
    has_news: bool = True
    is_over: bool = False
    _position: int = attrs.field(init=False)
    # What the next e-mail waits for, and what may change that.
    _due_ms: int = NEVER_MS
    _throttles: dict[str, Throttle] = attrs.Factory(dict)
    _earlier: trio.Event = attrs.Factory(trio.Event)
    _pauses: Backoff = attrs.Factory(lambda: Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S))
    _scope: trio.CancelScope = attrs.Factory(trio.CancelScope)

    def __attrs_post_init__(self) -> None:
        self._position = self.pusher.position

    @property
    def user_id(self) -> UserID:
        """Give whom it serves."""
        return self.pusher.user_id

    def replace(self, pusher: Pusher) -> None:
        """Take over what was set anew."""
        self.pusher = pusher
        self._position = max(self._position, pusher.position)

    def add(self, push: Push) -> None:
        """Note what was put in the queue: it may be due before all else."""
        self.has_news = True
        if due_ms(push, self._throttles.get(push.room_id), self._tools.delay_ms) < self._due_ms:
            self._earlier.set()

    def look_again(self) -> None:
        """Look into the table: something may be there that was not told."""
        self.has_news = True
        self._earlier.set()

    def note_read(self) -> None:
        """Do nothing: what is read is left out when the time comes."""

    def end(self) -> None:
        """Send nothing any more."""
        self.is_over = True
        self._scope.cancel()

    async def work(self) -> None:
        """Mail what waits, each thing when it is due; returns when nothing waits."""
        with trio.CancelScope() as self._scope:
            while True:
                # From here on whatever comes is looked at, until it is known what is due.
                self._earlier, self._due_ms = trio.Event(), NEVER_MS
                pushes = await self._tools.database.read(
                    storage.queued, self.user_id, self._position, MAX_READ
                )
                if not pushes:
                    return
                await self._serve(pushes)

    async def _serve(self, pushes: Sequence[Push]) -> None:
        unread = await self._unread(pushes)
        if not unread:
            await self._move(pushes[-1].seq)
            return
        key = self.pusher.key
        found = await self._tools.database.read(storage.throttles, key)
        self._throttles = {one.room_id: one for one in found}
        delay_ms = self._tools.delay_ms
        due = {
            push: due_ms(push, self._throttles.get(push.room_id), delay_ms) for push, _ in unread
        }
        why = min(due, key=lambda push: due[push])
        self._due_ms = due[why]
        left_ms = self._due_ms - self._tools.clock.now_ms()
        if left_ms > 0:
            with trio.move_on_after(left_ms / 1000):
                await self._earlier.wait()
            return
        if not await self._has_address():
            await self._tools.writer.delete(self.user_id, key.app_id, key.pushkey)
            self.end()
            await trio.lowlevel.checkpoint()
        await self._mail(unread, why, pushes[-1].seq)

    async def _unread(self, pushes: Sequence[Push]) -> list[Unread]:
        found = await self._tools.events.get([EventID(push.event_id) for push in pushes])
        unread = []
        for push in pushes:
            stored = found.get(EventID(push.event_id))
            if stored is None or stored.redacted_by is not None:
                continue
            if not await self._tools.counts.has_read(
                self.user_id, RoomID(push.room_id), push.thread_id, push.stream_id
            ):
                unread.append((push, stored))
        return unread

    async def _has_address(self) -> bool:
        owner = await self._tools.database.read(
            storage.owner_of_address, EMAIL, self.pusher.key.pushkey
        )
        return owner == self.user_id

    async def _mail(self, unread: Sequence[Unread], why: Push, upto: int) -> None:
        mail = await self._tools.content.write(self.pusher, _shown(unread, why), why)
        now_ms = self._tools.clock.now_ms()
        try:
            await self._tools.mailer.send(mail)
        except MailFault as fault:
            is_late = now_ms - why.added_ms - self._tools.delay_ms > KEPT_MS
            if fault.temporary and not is_late:
                log.info("cannot mail %s what is unread yet: %s", self.user_id, fault)
                await trio.sleep(self._pauses.next_s())
                return
            log.warning("%s is not mailed what is unread: %s", self.user_id, fault)
        self._pauses.reset()
        await self._note(unread, upto, now_ms)

    async def _note(self, unread: Sequence[Unread], upto: int, now_ms: int) -> None:
        first: dict[str, int] = {}
        for push, _ in unread:
            first.setdefault(push.room_id, push.added_ms)
        mailed = [
            after_mail(room_id, self._throttles.get(room_id), first_ms, now_ms)
            for room_id, first_ms in first.items()
        ]
        while True:
            try:
                await self._tools.database.write(storage.note_mail, self.pusher.key, upto, mailed)
            except DatabaseError as error:
                # To go on without would be to mail it all again.
                log.warning("cannot note what was mailed yet: %s", error)
                await trio.sleep(NOTE_AGAIN_S)
            else:
                break
        self._position = max(self._position, upto)
        self._tools.positions.note_moved(self.user_id)

    async def _move(self, upto: int) -> None:
        await self._tools.positions.move(self.pusher.key, upto)
        self._position = max(self._position, upto)


def _shown(unread: Sequence[Unread], why: Push) -> list[Unread]:
    """Choose what an e-mail shows: the newest."""
    first = [one for one in unread if one[0].room_id == why.room_id]
    others = [one for one in unread if one[0].room_id != why.room_id]
    return [*first[-MAX_MAILED:], *others[-MAX_MAILED:]]
