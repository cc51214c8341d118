"""The times of e-mails: some time after a message that stays unread, with pauses for each room.

After the first e-mail about a room there is none about that room for ten minutes, after the second
for a day, and so on. After half a day without notifications the pauses begin anew.
"""

from typing import Final

from hs.services.push.pushers.delivery import Push
from hs.storage.push.pushers import Throttle

HOUR_MS: Final = 3600 * 1000
FIRST_MS: Final = 10 * 60 * 1000
FACTOR: Final = 144
LONGEST_MS: Final = 24 * HOUR_MS
RESET_AFTER_MS: Final = 12 * HOUR_MS


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
