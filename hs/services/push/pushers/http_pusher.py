"""The sending of notifications to one push gateway, in the order of the events.

Rules:

- A notification is sent only after the database has the position of the one before. So each
  notification arrives, and only one that was being sent when a process was killed arrives twice.
- A process that is told to stop waits for the notification that is being sent (GRACE_S).
- What is still to be sent is in `pending_pushes`, and what follows on a failure in
  `delivery_attempts`.
"""

import logging
import random
from functools import partial
from typing import Final

import attrs
import trio

from hs.core.ids import UserID
from hs.lib.clock import Clock
from hs.lib.grace import with_grace
from hs.services.push.pushers.delivery import DeliveryResult, Push, Pusher
from hs.services.push.pushers.delivery_attempts import DeliveryAttempts
from hs.services.push.pushers.pending_pushes import PendingPushes
from hs.services.push.pushers.push_gateway import PushGateway
from hs.services.push.pushers.pusher_positions import PusherPositions
from hs.services.push.pushers.pusher_table import PusherWriter
from hs.storage.database import Database

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
class _Badge:
    """The unread count that the client shows, as far as known."""

    shown: int | None = None
    is_outdated: bool = False


@attrs.define(eq=False)
class HttpPusher:
    """The line of an HTTP pusher; see `RunningPusher`."""

    pusher: Pusher
    _delivery: PushGateway
    _tools: HttpPusherDependencies
    is_working: bool = False
    has_news: bool = True
    is_over: bool = False
    _pending: PendingPushes = attrs.field(init=False)
    _attempts: DeliveryAttempts = attrs.Factory(DeliveryAttempts)
    _badge: _Badge = attrs.Factory(_Badge)
    _scope: trio.CancelScope = attrs.Factory(trio.CancelScope)

    def __attrs_post_init__(self) -> None:
        self._pending = PendingPushes(self.pusher.position)

    @property
    def user_id(self) -> UserID:
        return self.pusher.user_id

    @property
    def _slots(self) -> trio.CapacityLimiter:
        return self._tools.slow_slots if self._attempts.has_failed else self._tools.slots

    def replace(self, pusher: Pusher) -> None:
        """Use changed settings of the pusher; a pending retry is made at once."""
        self.pusher = pusher
        self._pending.advance(pusher.position)
        self._attempts.retry_now()

    def add(self, push: Push) -> None:
        self.has_news = True
        self._pending.add(push)

    def look_again(self) -> None:
        self.has_news = True
        self._pending.look_again()

    def note_read(self) -> None:
        """Note that the user has read something, so that the unread count may have changed."""
        self.has_news = True
        self._badge.is_outdated = True

    def end(self) -> None:
        self.is_over = True
        self._scope.cancel()

    async def work(self) -> None:
        """Send all notifications that wait, then the unread count if it is outdated."""
        with trio.CancelScope() as self._scope:
            await self._jitter()
            while pushes := await self._pending.take(self._tools.database, self.user_id):
                for push in pushes:
                    await self._deliver(push)
            await self._update_badge()

    async def _jitter(self) -> None:
        if self._tools.jitter_ms:
            await trio.sleep(random.random() * self._tools.jitter_ms / 1000)

    async def _deliver(self, push: Push) -> None:
        while self._pending.has(push):
            async with self._slots:
                # If it were sent and its position not stored, it would be sent again.
                result = await with_grace(GRACE_S, partial(self._send, push))
            if result is DeliveryResult.GONE:
                await self._delete_pusher()
            elif self._pending.has(push):
                await self._attempts.pause()

    async def _send(self, push: Push) -> DeliveryResult:
        result = await self._delivery.deliver(self.pusher, push)
        if self._attempts.is_last(push, result, self._tools.clock.now_ms()):
            await self._tools.positions.move(self.pusher.key, push.seq)
            self._pending.advance(push.seq)
        return result

    async def _delete_pusher(self) -> None:
        log.info("push gateway of %s rejected the pushkey, deleting the pusher", self.user_id)
        key = self.pusher.key
        await self._tools.writer.delete(self.user_id, key.app_id, key.pushkey)
        self.end()
        await trio.lowlevel.checkpoint()

    async def _update_badge(self) -> None:
        badge = self._badge
        if badge.is_outdated:
            badge.is_outdated = False
            async with self._slots:
                badge.shown = await self._delivery.deliver_badge(self.pusher, badge.shown)
