"""The times of e-mails: some time after a message that stays unread, with pauses for each room.

After the first e-mail about a room there is none about that room for ten minutes, after the second
for a day, and so on. After half a day without notifications the pauses begin anew.
"""

from collections.abc import Iterable
from typing import Final

import attrs
import trio

from hs.services.push.pushers.delivery import Push
from hs.storage.push.pushers import Throttle

HOUR_MS: Final = 3600 * 1000
FIRST_MS: Final = 10 * 60 * 1000
FACTOR: Final = 144
LONGEST_MS: Final = 24 * HOUR_MS
RESET_AFTER_MS: Final = 12 * HOUR_MS
NEVER_MS: Final = 2**62


def due_ms(push: Push, throttle: Throttle | None, delay_ms: int) -> int:
    """Return when a notification is to be mailed if it stays unread."""
    after_delay_ms = push.added_ms + delay_ms
    if throttle is None:
        return after_delay_ms
    return max(after_delay_ms, throttle.sent_ms + throttle.throttle_ms)


def pause_after_email(
    room_id: str, before: Throttle | None, first_ms: int, now_ms: int
) -> Throttle:
    """Return the pause for a room after an e-mail.

    `before` is the previous pause, `first_ms` the time of the first notification in the e-mail.
    """
    if before is None or first_ms - before.sent_ms > RESET_AFTER_MS:
        return Throttle(room_id, now_ms, FIRST_MS)
    return Throttle(room_id, now_ms, min(before.throttle_ms * FACTOR, LONGEST_MS))


@attrs.define(eq=False)
class EmailPlan:
    """When the next e-mail of one pusher is due.

    From `begin` to `choose`, each notification that is added ends the next wait.
    """

    _delay_ms: int
    _throttles: dict[str, Throttle] = attrs.Factory(dict)
    _due_ms: int = NEVER_MS
    _changed: trio.Event = attrs.Factory(trio.Event)

    def begin(self) -> None:
        """Begin a new plan; call it before the notifications are read."""
        self._changed, self._due_ms = trio.Event(), NEVER_MS

    def choose(self, pushes: Iterable[Push], throttles: Iterable[Throttle]) -> Push:
        """Return the notification that is due first, which is the reason of the next e-mail."""
        self._throttles = {throttle.room_id: throttle for throttle in throttles}
        reason = min(pushes, key=self._due)
        self._due_ms = self._due(reason)
        return reason

    def add(self, push: Push) -> None:
        """End the wait if a new notification is due earlier than all others."""
        if self._due(push) < self._due_ms:
            self.end_wait()

    def end_wait(self) -> None:
        """End the wait, so that a new plan is made."""
        self._changed.set()

    async def wait(self, now_ms: int) -> bool:
        """Return True at once if the e-mail is due; otherwise wait, and return False."""
        left_ms = self._due_ms - now_ms
        if left_ms <= 0:
            return True
        with trio.move_on_after(left_ms / 1000):
            await self._changed.wait()
        return False

    def pauses_after(self, pushes: Iterable[Push], now_ms: int) -> list[Throttle]:
        """Return the pauses of all rooms of an e-mail; the notifications are in order."""
        first_ms: dict[str, int] = {}
        for push in pushes:
            first_ms.setdefault(push.room_id, push.added_ms)
        return [
            pause_after_email(room_id, self._throttles.get(room_id), added_ms, now_ms)
            for room_id, added_ms in first_ms.items()
        ]

    def _due(self, push: Push) -> int:
        return due_ms(push, self._throttles.get(push.room_id), self._delay_ms)
