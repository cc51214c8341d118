"""The sending of notifications to one push gateway, in the order of the events.

Rules:

- A notification is sent only after the database has the position of the one before. So each
  notification arrives, and only one that was being sent when a process was killed arrives twice.
- A process that is told to stop waits for the notification that is being sent (GRACE_S).
- `_waiting` has all notifications above the position while `_is_current` holds. That is set
  before the table is read, so a notification is in the table, is added by the feed, or both; what
  is not above the position any more is skipped. If more wait than fit, the table is read again.
- A failed attempt is repeated with growing pauses, until a day after the event; then, or after
  MAX_REFUSALS refusals, the notification is skipped.
"""

import logging
import random
from collections import deque
from functools import partial
from typing import Final

import attrs
import trio

from hs.core.ids import UserID
from hs.lib.backoff import Backoff
from hs.lib.clock import Clock
from hs.lib.grace import with_grace
from hs.services.push.pushers.delivery import KEPT_MS, DeliveryResult, Push, Pusher
from hs.services.push.pushers.push_gateway import PushGateway
from hs.services.push.pushers.pusher_positions import PusherPositions
from hs.services.push.pushers.pusher_table import PusherWriter
from hs.storage.database import Database
from hs.storage.push import pushers as storage

MAX_HELD: Final = 100
"""The limit of notifications in memory; others are read from the table later."""

PAGE_SIZE: Final = 50
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 3600.0
MAX_REFUSALS: Final = 3
GRACE_S: Final = 10.0
"""How long a notification that is being sent may take when the process stops."""

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class HttpPusherDependencies:
    """Dependencies of all lines.

    `slots` limits how many lines send at the same time, `slow_slots` those whose last attempt
    failed. So gateways that do not answer delay each other, but no others.
    """

    database: Database
    positions: PusherPositions
    writer: PusherWriter
    clock: Clock
    slots: trio.CapacityLimiter
    slow_slots: trio.CapacityLimiter
    jitter_ms: int


@attrs.define(eq=False)
class HttpPusher:
    """The line of an HTTP pusher; see `PusherLine`."""

    pusher: Pusher
    _delivery: PushGateway
    _tools: HttpPusherDependencies
    _position: int = attrs.field(init=False)
    is_working: bool = False
    has_news: bool = True
    is_over: bool = False
    _waiting: deque[Push] = attrs.Factory(deque)
    # Whether all notifications above the position are waiting here.
    _is_current: bool = False
    _badge: int | None = None  # the unread count that the client shows
    _badge_is_outdated: bool = False
    _changed: trio.Event = attrs.Factory(trio.Event)
    _pauses: Backoff = attrs.Factory(lambda: Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S))
    _refusals: int = 0
    _has_failed: bool = False
    _scope: trio.CancelScope = attrs.Factory(trio.CancelScope)

    def __attrs_post_init__(self) -> None:
        self._position = self.pusher.position

    @property
    def user_id(self) -> UserID:
        return self.pusher.user_id

    @property
    def _slots(self) -> trio.CapacityLimiter:
        return self._tools.slow_slots if self._has_failed else self._tools.slots

    def replace(self, pusher: Pusher) -> None:
        """Use changed settings of the pusher; a pending retry is made at once."""
        self.pusher = pusher
        self._position = max(self._position, pusher.position)
        self._pauses.reset()
        self._changed.set()

    def add(self, push: Push) -> None:
        self.has_news = True
        if self._is_current and len(self._waiting) < MAX_HELD:
            self._waiting.append(push)
        else:
            self.look_again()

    def look_again(self) -> None:
        self.has_news = True
        self._is_current = False
        self._waiting.clear()

    def note_read(self) -> None:
        """Note that the user has read something, so that the unread count may have changed."""
        self.has_news = True
        self._badge_is_outdated = True

    def end(self) -> None:
        self.is_over = True
        self._scope.cancel()

    async def work(self) -> None:
        """Send all notifications that wait, then the unread count if it is outdated."""
        with trio.CancelScope() as self._scope:
            await self._jitter()
            while pushes := await self._next():
                for push in pushes:
                    await self._deliver(push)
            await self._update_badge()

    async def _jitter(self) -> None:
        if self._tools.jitter_ms:
            await trio.sleep(random.random() * self._tools.jitter_ms / 1000)

    async def _next(self) -> list[Push]:
        if self._is_current:
            pushes = [push for push in self._waiting if push.seq > self._position]
            self._waiting.clear()
            return pushes
        # From here on the feed adds notifications.
        self._is_current = True
        self._waiting.clear()
        pushes = await self._tools.database.read(
            storage.list_queued, self.user_id, self._position, PAGE_SIZE
        )
        if len(pushes) == PAGE_SIZE:
            self._is_current = False
        return pushes

    async def _deliver(self, push: Push) -> None:
        while push.seq > self._position:
            async with self._slots:
                # If it were sent and its position not stored, it would be sent again.
                result = await with_grace(GRACE_S, partial(self._send, push))
            if result is DeliveryResult.GONE:
                await self._delete_pusher()
            elif push.seq > self._position:
                await self._pause()

    async def _send(self, push: Push) -> DeliveryResult:
        result = await self._delivery.deliver(self.pusher, push)
        self._has_failed = result is DeliveryResult.FAILED
        if self._is_done(result, push):
            await self._tools.positions.move(self.pusher.key, push.seq)
            self._position = max(self._position, push.seq)
            self._refusals = 0
        return result

    def _is_done(self, result: DeliveryResult, push: Push) -> bool:
        """Return whether no further attempt is to be made to send a notification."""
        if result is DeliveryResult.DELIVERED:
            self._pauses.reset()
            return True
        if result is DeliveryResult.GONE:
            return False
        if result is DeliveryResult.REFUSED:
            self._refusals += 1
            if self._refusals >= MAX_REFUSALS:
                log.warning(
                    "push gateway of %s refused %s, skipping it", self.user_id, push.event_id
                )
                return True
        if self._tools.clock.now_ms() - push.added_ms > KEPT_MS:
            log.warning("push of %s to %s timed out, skipping it", push.event_id, self.user_id)
            return True
        return False

    async def _pause(self) -> None:
        self._changed = trio.Event()
        with trio.move_on_after(self._pauses.next_s()):
            await self._changed.wait()

    async def _delete_pusher(self) -> None:
        log.info("push gateway of %s rejected the pushkey, deleting the pusher", self.user_id)
        key = self.pusher.key
        await self._tools.writer.delete(self.user_id, key.app_id, key.pushkey)
        self.end()
        await trio.lowlevel.checkpoint()

    async def _update_badge(self) -> None:
        if not self._badge_is_outdated:
            return
        self._badge_is_outdated = False
        async with self._slots:
            self._badge = await self._delivery.deliver_badge(self.pusher, self._badge)
