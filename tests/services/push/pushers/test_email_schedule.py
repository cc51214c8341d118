"""How often a pusher mails."""

from hypothesis import given
from hypothesis import strategies as st

from hs.services.push.pushers.delivery import Push
from hs.services.push.pushers.email_schedule import (
    FIRST_MS,
    FORGOTTEN_AFTER_MS,
    LONGEST_MS,
    after_mail,
    due_ms,
)
from hs.storage.push.pushers import Throttle

DELAY_MS = 600_000


def push_at(added_ms: int) -> Push:
    return Push("@bob:x", 1, 1, "!r", "$e", "main", "[]", added_ms)


def test_the_first_message_is_mailed_after_the_delay() -> None:
    assert due_ms(push_at(1000), None, DELAY_MS) == 1000 + DELAY_MS


def test_a_room_is_silent_for_a_while_after_it_was_mailed_about() -> None:
    throttle = Throttle("!r", 1000, 50 * DELAY_MS)

    assert due_ms(push_at(2000), throttle, DELAY_MS) == 1000 + 50 * DELAY_MS


def test_the_silence_grows_to_a_day_and_is_forgotten_after_half_a_day_without_news() -> None:
    first = after_mail("!r", None, 0, 1000)
    second = after_mail("!r", first, 2000, 3000)
    third = after_mail("!r", second, 4000, 5000)
    later = third.sent_ms + FORGOTTEN_AFTER_MS + 1
    anew = after_mail("!r", third, later, later + DELAY_MS)

    assert [one.throttle_ms for one in (first, second, third, anew)] == [
        FIRST_MS,
        LONGEST_MS,
        LONGEST_MS,
        FIRST_MS,
    ]


@given(st.lists(st.integers(0, 3 * FORGOTTEN_AFTER_MS), min_size=1, max_size=50))
def test_a_room_never_has_more_than_a_few_mails_a_day(gaps: list[int]) -> None:
    now_ms, throttle, mailed = 0, None, []
    for gap in gaps:
        now_ms += gap
        due = due_ms(push_at(now_ms), throttle, DELAY_MS)
        throttle = after_mail("!r", throttle, now_ms, max(due, now_ms))
        mailed.append(throttle.sent_ms)
        now_ms = throttle.sent_ms

    for number in range(len(mailed) - 5):
        assert mailed[number + 5] - mailed[number] > LONGEST_MS
