"""One pusher at work: what waits for it, and the order in which it is sent.

A notification is sent only after the database holds that the one before is done. So a gateway
gets each one, and gets again only what was on its way when a process was killed.
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
from hs.services.push.pushers.delivery import KEPT_MS, Delivery, Push, Pusher, Verdict
from hs.services.push.pushers.pusher_positions import Positions
from hs.services.push.pushers.pusher_table import PusherWriter
from hs.storage.database import Database
from hs.storage.push import pushers as storage

MAX_HELD: Final = 100
"""Notifications in memory; more are read from the table when their turn comes."""

READ_AT_ONCE: Final = 50
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 3600.0
MAX_REFUSALS: Final = 3
GRACE_S: Final = 10.0
"""For what is on its way when the process ends."""


log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class LineTools:
    """What all lines share.

    `slots` bounds how many send at once, `slow_slots` how many of those whose last attempt
    failed: gateways that never answer hold up each other, and nobody else.
    """

    database: Database
    positions: Positions
    writer: PusherWriter
    clock: Clock
    slots: trio.CapacityLimiter
    slow_slots: trio.CapacityLimiter
    jitter_ms: int


@attrs.define(eq=False)
class Line:
    """A pusher over HTTP; `work` runs while there is something to do."""

    pusher: Pusher
    _delivery: Delivery
    _tools: LineTools
    _position: int = attrs.field(init=False)
    is_working: bool = False
    has_news: bool = True
    is_over: bool = False
    _waiting: deque[Push] = attrs.Factory(deque)
    # Whether the table holds nothing that is above the position and not waiting here.
    _is_current: bool = False
    _badge: int | None = None
    _badge_is_old: bool = False
    _changed: trio.Event = attrs.Factory(trio.Event)
    _pauses: Backoff = attrs.Factory(lambda: Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S))
    _refusals: int = 0
    _has_failed: bool = False
    _scope: trio.CancelScope = attrs.Factory(trio.CancelScope)

    def __attrs_post_init__(self) -> None:
        self._position = self.pusher.position

    @property
    def user_id(self) -> UserID:
        """Give whom it serves."""
        return self.pusher.user_id

    @property
    def _slots(self) -> trio.CapacityLimiter:
        return self._tools.slow_slots if self._has_failed else self._tools.slots

    def replace(self, pusher: Pusher) -> None:
        """Take over what was set anew; who waits to try again does it now."""
        self.pusher = pusher
        self._position = max(self._position, pusher.position)
        self._pauses.reset()
        self._changed.set()

    def add(self, push: Push) -> None:
        """Note what was put in the queue."""
        self.has_news = True
        if self._is_current and len(self._waiting) < MAX_HELD:
            self._waiting.append(push)
        else:
            self.look_again()

    def look_again(self) -> None:
        """Look into the table: something may be there that was not told."""
        self.has_news = True
        self._is_current = False
        self._waiting.clear()

    def note_read(self) -> None:
        """Note that the user has read something, so that the number on icons may be another."""
        self.has_news = True
        self._badge_is_old = True

    def end(self) -> None:
        """Send nothing any more."""
        self.is_over = True
        self._scope.cancel()

    async def work(self) -> None:
        """Send what waits; returns when nothing does."""
        with trio.CancelScope() as self._scope:
            await self._jitter()
            while pushes := await self._next():
                for push in pushes:
                    await self._deliver(push)
            await self._show_badge()

    async def _jitter(self) -> None:
        if self._tools.jitter_ms:
            await trio.sleep(random.random() * self._tools.jitter_ms / 1000)

    async def _next(self) -> list[Push]:
        if self._is_current:
            pushes = list(self._waiting)
        else:
            # From here on the feed adds; what it brings as well as the table is passed over.
            self._is_current = True
            self._waiting.clear()
            pushes = await self._tools.database.read(
                storage.queued, self.user_id, self._position, READ_AT_ONCE
            )
            if len(pushes) == READ_AT_ONCE:
                self._is_current = False
            return pushes
        self._waiting.clear()
        return [push for push in pushes if push.seq > self._position]

    async def _deliver(self, push: Push) -> None:
        while push.seq > self._position:
            async with self._slots:
                # Sent and not noted would be sent again after a restart.
                verdict = await with_grace(GRACE_S, partial(self._send, push))
            if verdict is Verdict.GONE:
                await self._give_up()
            elif push.seq > self._position:
                await self._pause()

    async def _send(self, push: Push) -> Verdict:
        verdict = await self._delivery.deliver(self.pusher, push)
        self._has_failed = verdict is Verdict.LATER
        if self._is_done(verdict, push):
            await self._tools.positions.move(self.pusher.key, push.seq)
            self._position = max(self._position, push.seq)
            self._refusals = 0
        return verdict

    def _is_done(self, verdict: Verdict, push: Push) -> bool:
        if verdict is Verdict.DONE:
            self._pauses.reset()
            return True
        if verdict is Verdict.GONE:
            return False
        if verdict is Verdict.REFUSED:
            self._refusals += 1
            if self._refusals >= MAX_REFUSALS:
                log.warning("the push gateway of %s refuses %s", self.user_id, push.event_id)
                return True
        if self._tools.clock.now_ms() - push.added_ms > KEPT_MS:
            log.warning("%s could not be pushed to %s in time", push.event_id, self.user_id)
            return True
        return False

    async def _pause(self) -> None:
        self._changed = trio.Event()
        with trio.move_on_after(self._pauses.next_s()):
            await self._changed.wait()

    async def _give_up(self) -> None:
        """Delete the pusher."""
        log.info("the push gateway of %s does not know its app any more", self.user_id)
        key = self.pusher.key
        await self._tools.writer.delete(self.user_id, key.app_id, key.pushkey)
        self.end()
        await trio.lowlevel.checkpoint()

    async def _show_badge(self) -> None:
        if not self._badge_is_old:
            return
        self._badge_is_old = False
        async with self._slots:
            self._badge = await self._delivery.deliver_badge(self.pusher, self._badge)
