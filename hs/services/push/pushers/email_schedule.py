"""When a pusher mails: some time after a message stays unread, and ever more seldom about a room.

After the first e-mail about a room it is silent about that room for ten minutes, after the next
for a day; half a day without anything to tell begins anew.
"""

from typing import Final

from hs.services.push.pushers.delivery import Push
from hs.storage.push.pushers import Throttle

HOUR_MS: Final = 3600 * 1000
FIRST_MS: Final = 10 * 60 * 1000
FACTOR: Final = 144
LONGEST_MS: Final = 24 * HOUR_MS
FORGOTTEN_AFTER_MS: Final = 12 * HOUR_MS


def due_ms(push: Push, throttle: Throttle | None, delay_ms: int) -> int:
    """Tell when a notification that stays unread is to be mailed."""
    unread_long_enough = push.added_ms + delay_ms
    if throttle is None:
        return unread_long_enough
    return max(unread_long_enough, throttle.sent_ms + throttle.throttle_ms)


def after_mail(room_id: str, before: Throttle | None, first_ms: int, now_ms: int) -> Throttle:
    """Give the silence about a room after an e-mail now, whose first news is of `first_ms`."""
    if before is None or first_ms - before.sent_ms > FORGOTTEN_AFTER_MS:
        return Throttle(room_id, now_ms, FIRST_MS)
    return Throttle(room_id, now_ms, min(before.throttle_ms * FACTOR, LONGEST_MS))
