"""One user's count in one room: brought up to date from recent notifications, or not at all."""

import pytest

from hs.core.ids import EventID, RoomID, UserID
from hs.core.push.unread import Count, RoomCounts
from hs.core.streams import Unread
from hs.services.ephemeral.room_receipts import RoomReceipts
from hs.services.push.unread.read_positions import ReadPosition
from hs.services.push.unread.recent_notifications import RecentInRoom, RecentNotifications
from hs.services.push.unread.user_room_count import UserRoomCount

ALICE, BOB = UserID("@alice:test"), UserID("@bob:test")
ROOM = RoomID("!room")
ROOT = EventID("$root")
FLOOR = 10


def read(everywhere: int = FLOOR, **threads: int) -> ReadPosition:
    return ReadPosition(everywhere, threads, RoomReceipts(), 0, {})


def message(stream_id: int, thread_id: str = "main", *highlighted: UserID) -> Unread:
    exceptions = tuple((user_id, 0, 1) for user_id in highlighted)
    return Unread(
        stream_id=stream_id,
        room_id=ROOM,
        event_id=f"${stream_id}",
        thread_id=thread_id,
        sender=ALICE,
        notify=True,
        highlight=False,
        exceptions=exceptions,
    )


def hold(*messages: Unread) -> tuple[RecentNotifications, RecentInRoom]:
    """Hold the room, and return all recent notifications and those of the room."""
    notifications = RecentNotifications()
    notifications.take_up(ROOM, FLOOR, messages)
    recent = notifications.get(ROOM)
    assert recent is not None
    return notifications, recent


def begin(recent: RecentInRoom, position: ReadPosition, user_id: UserID = BOB) -> UserRoomCount:
    count = UserRoomCount(user_id, position, recent.floor, recent.version)
    assert count.update(recent, position)
    return count


def test_new_notifications_are_added() -> None:
    notifications, recent = hold(message(11))
    position = read()
    count = begin(recent, position)
    first = count.shown()

    notifications.add(message(12, "main", BOB))
    notifications.add(message(12))
    notifications.add(message(13, ROOT))
    updated = count.update(recent, position)

    assert first == RoomCounts(Count(1, 0))
    assert updated
    assert count.shown() == RoomCounts(Count(2, 1), {ROOT: Count(1, 0)})
    assert begin(recent, position, ALICE).shown() == RoomCounts()


def test_threads_that_were_read_further_are_counted_again() -> None:
    _, recent = hold(message(11), message(12, ROOT), message(13, ROOT, BOB))
    count = begin(recent, read())

    assert count.update(recent, read(**{ROOT: 12}))
    after_thread = count.shown()
    assert count.update(recent, read(main=11, **{ROOT: 12}))

    assert after_thread == RoomCounts(Count(1, 0), {ROOT: Count(1, 1)})
    assert count.shown() == RoomCounts(Count(0, 0), {ROOT: Count(1, 1)})


@pytest.mark.parametrize("change", ["read", "read_old_thread", "removed", "floor"])
def test_a_count_that_cannot_be_brought_up_to_date_stays_unchanged(change: str) -> None:
    notifications, recent = hold(message(11), message(12, ROOT))
    position = read(5)
    count = begin(recent, position)
    before = count.shown()
    if change == "read":
        position = read(11)
    elif change == "read_old_thread":
        position = read(5, **{ROOT: 8})
    elif change == "removed":
        notifications.remove(ROOM, 11)
    else:
        recent.floor = 13

    assert not count.update(recent, position)
    assert count.shown() is before


def test_older_notifications_are_dropped_and_the_floor_rises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hs.services.push.unread.recent_notifications.MAX_ROWS", 4)

    _, recent = hold(*[message(stream_id) for stream_id in range(11, 16)])

    assert recent.floor == 12
    assert [row.stream_id for row in recent.rows] == [13, 14, 15]


def test_rooms_that_are_not_held_are_passed_over() -> None:
    notifications = RecentNotifications()

    notifications.add(message(11))
    notifications.remove(ROOM, 11)

    assert notifications.get(ROOM) is None
