"""The rooms whose counts changed: found by positions of events, and not known of earlier ones."""

import pytest

from hs.core.ids import RoomID
from hs.core.positions import VectorPosition
from hs.core.streams import Unread, UnreadRow
from hs.services.push.unread.count_changes import CountChanges

ONE, TWO, THREE = RoomID("!one"), RoomID("!two"), RoomID("!three")


def message(writer: str, upto: int, room_id: RoomID) -> UnreadRow:
    """Return the row of a message before others that notify nobody."""
    unread = Unread(
        stream_id=upto - 1,
        room_id=room_id,
        event_id=f"${upto}",
        thread_id="main",
        sender="@alice:test",
        notify=True,
        highlight=False,
    )
    return UnreadRow(writer, upto, unread=(unread,))


def begun(position: int) -> CountChanges:
    changes = CountChanges()
    changes.begin(VectorPosition(position))
    return changes


def test_rooms_are_found_by_the_position_of_each_writer() -> None:
    changes = begun(10)
    changes.add(message("v", 12, ONE))
    changes.add(message("w", 11, TWO))
    changes.add(UnreadRow("v", 15))

    assert changes.since(VectorPosition(10)) == {ONE, TWO}
    assert changes.since(VectorPosition(11)) == {ONE}
    assert changes.since(VectorPosition(10).advance("v", 12)) == {TWO}
    assert changes.since(VectorPosition(12)) == set()


def test_reading_by_sending_and_redactions_change_counts() -> None:
    changes = begun(10)
    changes.add(UnreadRow("w", 11, marks=(("@bob:test", ONE, "main", 11),)))
    changes.add(UnreadRow("w", 12, removed=((TWO, 5),)))

    assert changes.since(VectorPosition(10)) == {ONE, TWO}


def test_changes_before_the_beginning_are_not_known() -> None:
    changes = CountChanges()
    changes.add(message("w", 11, ONE))
    before = changes.since(VectorPosition(20))
    changes.begin(VectorPosition(11))
    changes.begin(VectorPosition(30))
    changes.add(message("w", 12, TWO))

    assert before is None
    assert changes.since(VectorPosition(10)) is None
    assert changes.since(VectorPosition(11)) == {TWO}
    changes.clear()
    assert changes.since(VectorPosition(11)) is None


def test_of_many_rooms_the_latest_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hs.services.push.unread.count_changes.MAX_ROOMS", 2)
    changes = begun(10)
    for upto, room_id in ((11, ONE), (12, TWO), (13, ONE), (14, THREE)):
        changes.add(message("w", upto, room_id))

    assert changes.since(VectorPosition(11)) is None
    assert changes.since(VectorPosition(12)) == {ONE, THREE}
