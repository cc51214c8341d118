"""The sending of e-mails to one address: when something has been unread for long, all of it.

The position and the pauses of the rooms are stored in one transaction after the e-mail was sent,
and nothing else is sent before. So only a process that is killed between the two sends an e-mail
twice.
"""

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
from hs.services.push.pushers.email_content import NotificationEmailContent, Unread
from hs.services.push.pushers.email_schedule import EmailPlan
from hs.services.push.pushers.pusher_positions import PusherPositions
from hs.services.push.pushers.pusher_table import PusherWriter
from hs.services.push.pushers.pushers import EMAIL
from hs.services.push.unread.unread_counts import UnreadCounts
from hs.services.rooms.store.event_store import EventStore
from hs.storage.database import Database
from hs.storage.push import pushers as storage

MAX_READ: Final = 1000
"""The limit of notifications that are read together; one e-mail is about all unread ones."""

MAX_MAILED: Final = 50
"""The limit of messages shown of the room that made the e-mail due, and of all other rooms."""

FIRST_PAUSE_S: Final = 30.0
LONGEST_PAUSE_S: Final = 3600.0

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class EmailPusherDependencies:
    """Dependencies of all lines."""

    database: Database
    positions: PusherPositions
    writer: PusherWriter
    clock: Clock
    counts: UnreadCounts
    events: EventStore
    content: NotificationEmailContent
    mailer: Mailer
    delay_ms: int


@attrs.define(eq=False)
class EmailPusher:
    """The line of an e-mail pusher; see `RunningPusher`."""

    pusher: Pusher
    _tools: EmailPusherDependencies
    is_working: bool = False
    has_news: bool = True
    is_over: bool = False
    _position: int = attrs.field(init=False)
    _plan: EmailPlan = attrs.field(init=False)
    _pauses: Backoff = attrs.Factory(lambda: Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S))
    _scope: trio.CancelScope = attrs.Factory(trio.CancelScope)

    def __attrs_post_init__(self) -> None:
        self._position = self.pusher.position
        self._plan = EmailPlan(self._tools.delay_ms)

    @property
    def user_id(self) -> UserID:
        return self.pusher.user_id

    def replace(self, pusher: Pusher) -> None:
        self.pusher = pusher
        self._position = max(self._position, pusher.position)

    def add(self, push: Push) -> None:
        """Note a stored notification, which may be due earlier than all others."""
        self.has_news = True
        self._plan.add(push)

    def look_again(self) -> None:
        self.has_news = True
        self._plan.end_wait()

    def note_read(self) -> None:
        """Do nothing: read events are left out when an e-mail is written."""

    def end(self) -> None:
        self.is_over = True
        self._scope.cancel()

    async def work(self) -> None:
        """Send e-mails when they are due, until no notification waits."""
        with trio.CancelScope() as self._scope:
            while True:
                self._plan.begin()
                pushes = await self._tools.database.read(
                    storage.list_queued, self.user_id, self._position, MAX_READ
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
        throttles = await self._tools.database.read(storage.list_throttles, key)
        reason = self._plan.choose((push for push, _ in unread), throttles)
        if not await self._plan.wait(self._tools.clock.now_ms()):
            return
        if not await self._has_address():
            await self._tools.writer.delete(self.user_id, key.app_id, key.pushkey)
            self.end()
            await trio.lowlevel.checkpoint()
        await self._send(unread, reason, pushes[-1].seq)

    async def _unread(self, pushes: Sequence[Push]) -> list[Unread]:
        events = await self._tools.events.get([EventID(push.event_id) for push in pushes])
        unread = []
        for push in pushes:
            stored = events.get(EventID(push.event_id))
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

    async def _send(self, unread: Sequence[Unread], reason: Push, upto: int) -> None:
        mail = await self._tools.content.write(self.pusher, _newest(unread, reason), reason)
        now_ms = self._tools.clock.now_ms()
        try:
            await self._tools.mailer.send(mail)
        except MailFault as fault:
            is_late = now_ms - reason.added_ms - self._tools.delay_ms > KEPT_MS
            if fault.temporary and not is_late:
                pause_s = self._pauses.next_s()
                log.info(
                    "e-mail to %s could not be sent, retrying in %.0f s: %s",
                    self.user_id,
                    pause_s,
                    fault,
                )
                await trio.sleep(pause_s)
                return
            log.warning("e-mail to %s could not be sent, skipping it: %s", self.user_id, fault)
        self._pauses.reset()
        await self._record(unread, upto, now_ms)

    async def _record(self, unread: Sequence[Unread], upto: int, now_ms: int) -> None:
        throttles = self._plan.pauses_after((push for push, _ in unread), now_ms)
        await self._tools.positions.record_email(self.pusher.key, upto, throttles)
        self._position = max(self._position, upto)

    async def _move(self, upto: int) -> None:
        await self._tools.positions.move(self.pusher.key, upto)
        self._position = max(self._position, upto)


def _newest(unread: Sequence[Unread], reason: Push) -> list[Unread]:
    """Return the messages that an e-mail shows: the newest of the room and of all others."""
    of_room = [(push, stored) for push, stored in unread if push.room_id == reason.room_id]
    of_others = [(push, stored) for push, stored in unread if push.room_id != reason.room_id]
    return [*of_room[-MAX_MAILED:], *of_others[-MAX_MAILED:]]
