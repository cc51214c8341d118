"""The times of e-mails and the pauses between them."""

from hypothesis import given
from hypothesis import strategies as st

from hs.services.push.pushers.delivery import Push
from hs.services.push.pushers.email_schedule import (
    FIRST_MS,
    LONGEST_MS,
    RESET_AFTER_MS,
    due_ms,
    pause_after_email,
)
from hs.storage.push.pushers import Throttle

DELAY_MS = 600_000


def push_at(added_ms: int) -> Push:
    return Push(
        user_id="@bob:x",
        seq=1,
        stream_id=1,
        room_id="!r",
        event_id="$e",
        thread_id="main",
        actions="[]",
        added_ms=added_ms,
    )


def test_first_message_is_mailed_after_the_delay() -> None:
    assert due_ms(push_at(1000), None, DELAY_MS) == 1000 + DELAY_MS


def test_pause_of_a_room_delays_the_next_email() -> None:
    throttle = Throttle("!r", 1000, 50 * DELAY_MS)

    assert due_ms(push_at(2000), throttle, DELAY_MS) == 1000 + 50 * DELAY_MS


def test_pause_grows_to_a_day_and_is_reset_after_half_a_day_without_messages() -> None:
    first = pause_after_email("!r", None, 0, 1000)
    second = pause_after_email("!r", first, 2000, 3000)
    third = pause_after_email("!r", second, 4000, 5000)
    later = third.sent_ms + RESET_AFTER_MS + 1
    fresh = pause_after_email("!r", third, later, later + DELAY_MS)

    assert [throttle.throttle_ms for throttle in (first, second, third, fresh)] == [
        FIRST_MS,
        LONGEST_MS,
        LONGEST_MS,
        FIRST_MS,
    ]


@given(st.lists(st.integers(0, 3 * RESET_AFTER_MS), min_size=1, max_size=50))
def test_at_most_five_emails_about_a_room_are_sent_in_a_day(gaps: list[int]) -> None:
    now_ms, throttle, mailed = 0, None, []
    for gap in gaps:
        now_ms += gap
        due = due_ms(push_at(now_ms), throttle, DELAY_MS)
        throttle = pause_after_email("!r", throttle, now_ms, max(due, now_ms))
        mailed.append(throttle.sent_ms)
        now_ms = throttle.sent_ms

    for number in range(len(mailed) - 5):
        assert mailed[number + 5] - mailed[number] > LONGEST_MS
