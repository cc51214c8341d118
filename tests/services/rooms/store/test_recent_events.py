"""Recent events compared with the whole log: answers are complete, or None."""

from hypothesis import example, given
from hypothesis import strategies as st

from hs.core.ids import RoomID
from hs.core.positions import VectorPosition
from hs.core.streams import EVENTS, EventRow
from hs.repl.feed import Batch, Feed
from hs.services.rooms.store.recent_events import ENTRY_BYTES, RecentEvents

ROOMS = ("!a:x", "!b:x", "!c:x", "!d:x")
# The last room passes from one writer to the other and back.
WRITERS = (("!a:x", "w1"), ("!b:x", "w1"), ("!c:x", "w2"), ("!d:x", "w1"), ("!d:x", "w2"))

events = st.lists(st.sampled_from(WRITERS), max_size=40)
others = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=20)


def row(room_id: str, number: int) -> EventRow:
    return EventRow(
        room_id, f"${number}", "m.room.message", "@u:x", None, depth=number, origin_server_ts=0
    )


@example([], [("!d:x", "w1"), ("!d:x", "w2")], 12, 9, True, [(0, 2)])  # passed on
@given(
    events,
    events,
    st.integers(1, 12),
    st.integers(1, 9),
    st.booleans(),
    others,
)
def test_answer_is_complete_or_none(
    before: list[tuple[str, str]],
    after: list[tuple[str, str]],
    total: int,
    per_room: int,
    follows: bool,
    elsewhere: list[tuple[int, int]],
) -> None:
    feed = Feed()
    for writer in ("w1", "w2"):
        feed.start_at(EVENTS, writer, 0)
    log: list[tuple[str, int, str]] = []
    positions: list[VectorPosition] = [feed.position(EVENTS)]
    recent_events: RecentEvents | None = None

    for number, (room_id, writer) in enumerate([*before, ("", ""), *after], start=1):
        if not room_id:
            recent_events = RecentEvents(feed, total * ENTRY_BYTES, per_room, follows=follows)
            continue
        previous = feed.position_of(EVENTS, writer) or 0
        feed.deliver(Batch(EVENTS, writer, previous, number, [(number, row(room_id, number))]))
        log.append((writer, number, room_id))
        positions.append(feed.position(EVENTS))

    assert recent_events is not None
    # A process that receives the batches in another order has other positions.
    positions += [
        positions[w1 % len(positions)].advance("w2", positions[w2 % len(positions)].get("w2"))
        for w1, w2 in elsewhere
    ]
    now = feed.position(EVENTS)
    for position in positions:
        news = [entry for entry in log if not position.covers(entry[0], entry[1])]
        changed = recent_events.rooms_since(position)
        assert changed is None or changed == {room for _, _, room in news}
        for room_id in ROOMS:
            found = recent_events.since(RoomID(room_id), position)
            expected = [number for _, number, room in news if room == room_id]
            assert found is None or [event.stream_id for event in found] == expected
    # They are complete after the current position.
    assert recent_events.rooms_since(now) == set()
