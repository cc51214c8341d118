"""The attempts of one pusher to deliver a notification.

A failed attempt is repeated with growing pauses, until a day after the event; then, or after
MAX_REFUSALS refusals, the notification is skipped.
"""

import logging
from typing import Final

import attrs
import trio

from hs.lib.backoff import Backoff
from hs.services.push.pushers.delivery import KEPT_MS, DeliveryResult, Push

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 3600.0
MAX_REFUSALS: Final = 3

log = logging.getLogger(__name__)


@attrs.define(eq=False)
class DeliveryAttempts:
    """The results so far; `has_failed` is true if the last attempt got no answer."""

    has_failed: bool = False
    _refusals: int = 0
    _pauses: Backoff = attrs.Factory(lambda: Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S))
    _retry: trio.Event = attrs.Factory(trio.Event)

    def is_last(self, push: Push, result: DeliveryResult, now_ms: int) -> bool:
        """Note the result of an attempt; return whether no further one is to be made.

        If the pusher is GONE, it is to be deleted instead.
        """
        self.has_failed = result is DeliveryResult.FAILED
        is_last = self._is_last(push, result, now_ms)
        if is_last:
            self._refusals = 0
        return is_last

    def retry_now(self) -> None:
        """End the pause, as the settings of the pusher have changed."""
        self._pauses.reset()
        self._retry.set()

    async def pause(self) -> None:
        """Wait until the next attempt."""
        self._retry = trio.Event()
        with trio.move_on_after(self._pauses.next_s()):
            await self._retry.wait()

    def _is_last(self, push: Push, result: DeliveryResult, now_ms: int) -> bool:
        if result is DeliveryResult.DELIVERED:
            self._pauses.reset()
            return True
        if result is DeliveryResult.GONE:
            return False
        if result is DeliveryResult.REFUSED:
            self._refusals += 1
            if self._refusals >= MAX_REFUSALS:
                log.warning(
                    "push gateway of %s refused %s, skipping it", push.user_id, push.event_id
                )
                return True
        if now_ms - push.added_ms > KEPT_MS:
            log.warning("push of %s to %s timed out, skipping it", push.event_id, push.user_id)
            return True
        return False
