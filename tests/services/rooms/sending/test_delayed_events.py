"""Delayed events are sent once, when they are due, even if processes end in between."""

from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from hs.core.errors import ConsentNotGiven, LimitExceeded, MatrixError
from hs.core.ids import RoomID
from hs.core.requester import Requester, RequiredConsent
from hs.services.rooms.sending import delayed_events
from hs.services.rooms.sending.delayed_event_sender import LOST_AFTER_MS, DelayedSending
from hs.services.rooms.sending.delayed_events import DelayedEventRequest
from hs.settings.sections.rate_limits import Rate
from hs.storage.accounts import users
from hs.storage.accounts.users import UserRecord
from hs.storage.database import Database
from hs.storage.rooms import delayed_events as storage
from tests.support.composition import NO_LIMITS
from tests.support.room_actions import DELAYED_EVENTS, Actions, open_actions
from tests.support.rooms import ALICE, BOB, txn_key
from tests.support.sql.databases import fresh_inline

ME = Requester(ALICE, "DEVICE")


@pytest.fixture
async def acts(database: Database) -> AsyncIterator[Actions]:
    for user_id in (ALICE, BOB):
        await database.write(users.insert_user, UserRecord(user_id, None, 0))
    async with open_actions(database, DELAYED_EVENTS) as opened:
        yield opened


def sender_of(acts: Actions) -> DelayedSending:
    sender = acts.services.sending.sender
    assert sender is not None
    return sender


async def pass_time(acts: Actions, ms: int) -> int:
    acts.world.clock.advance(ms)
    return await sender_of(acts).send_due(acts.world.clock.now_ms() - LOST_AFTER_MS)


def delayed_message(body: str, delay_ms: int, txn_id: str | None = None) -> DelayedEventRequest:
    content = {"msgtype": "m.text", "body": body}
    return DelayedEventRequest("m.room.message", content, delay_ms, txn_id=txn_id)


async def wait_for_scheduled(acts: Actions, count: int) -> None:
    """Wait until at most `count` events are scheduled."""
    with trio.fail_after(60):
        while len(await acts.delayed.scheduled(ME)) > count:  # noqa: ASYNC110  # a row, no event
            await trio.sleep(0.01)


async def bodies(acts: Actions, room_id: RoomID) -> list[Any]:
    events = await acts.events_of(room_id)
    return [event.content.get("body") for event in events if event.type == "m.room.message"]


async def test_event_is_sent_when_it_is_due_and_not_before(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    delay_id = await acts.delayed.schedule(ME, room_id, delayed_message("later", 1000))

    early = await pass_time(acts, 999)
    due = await pass_time(acts, 1)
    again = await pass_time(acts, 60_000)

    assert (early, due, again) == (0, 1, 0)
    assert await bodies(acts, room_id) == ["later"]
    record = await acts.delayed.get(ME, delay_id)
    assert record.status == storage.FINISHED
    assert record.event_id is not None
    assert await acts.delayed.scheduled(ME) == []


async def test_events_of_a_room_are_sent_in_the_order_of_their_due_times(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    for delay_ms in (3000, 1000, 2000):
        await acts.delayed.schedule(ME, room_id, delayed_message(str(delay_ms), delay_ms))

    await pass_time(acts, 10_000)

    assert await bodies(acts, room_id) == ["1000", "2000", "3000"]


async def test_restart_restarts_the_delay(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    delay_id = await acts.delayed.schedule(ME, room_id, delayed_message("bye", 1000))

    for _ in range(5):
        assert await pass_time(acts, 900) == 0
        await acts.delayed.restart(None, delay_id)

    assert await pass_time(acts, 1000) == 1


async def test_cancelled_event_is_not_sent(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    delay_id = await acts.delayed.schedule(ME, room_id, delayed_message("never", 1000))

    await acts.delayed.cancel(ME, delay_id)
    await acts.delayed.cancel(ME, delay_id)
    await pass_time(acts, 5000)

    assert await bodies(acts, room_id) == []
    for action in (acts.delayed.send, acts.delayed.restart):
        with pytest.raises(MatrixError) as refused:
            await action(ME, delay_id)
        assert (refused.value.status, refused.value.errcode) == (409, "M_UNKNOWN")


async def test_event_can_be_sent_before_it_is_due(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    delay_id = await acts.delayed.schedule(ME, room_id, delayed_message("now", 1000))

    await acts.delayed.send(ME, delay_id)
    await acts.delayed.send(ME, delay_id)
    await pass_time(acts, 5000)

    assert await bodies(acts, room_id) == ["now"]
    with pytest.raises(MatrixError, match="already been sent"):
        await acts.delayed.cancel(ME, delay_id)


async def test_event_stays_scheduled_if_sending_it_now_fails(acts: Actions) -> None:
    room_id = await acts.world.create_room(BOB)
    delay_id = await acts.delayed.schedule(ME, room_id, delayed_message("let me in", 1000))

    with pytest.raises(MatrixError) as refused:
        await acts.delayed.send(ME, delay_id)
    assert refused.value.errcode == "M_FORBIDDEN"
    await acts.world.join(room_id, ALICE)
    await pass_time(acts, 1000)

    assert await bodies(acts, room_id) == ["let me in"]


async def test_error_of_a_rejected_event_is_reported(acts: Actions) -> None:
    room_id = await acts.world.create_room(BOB)
    delay_id = await acts.delayed.schedule(ME, room_id, delayed_message("no", 1000))

    await pass_time(acts, 1000)
    await acts.world.join(room_id, ALICE)
    await pass_time(acts, 60_000)

    assert await bodies(acts, room_id) == []
    [record] = await acts.delayed.finished(ME)
    assert record.delay_id == delay_id
    assert b"M_FORBIDDEN" in (record.error or b"")
    await acts.delayed.cancel(ME, delay_id)


async def test_process_killed_after_sending_sends_no_second_event(
    acts: Actions, database: Database
) -> None:
    room_id = await acts.world.create_room(ALICE)
    delay_id = await acts.delayed.schedule(ME, room_id, delayed_message("once", 1000))
    acts.world.clock.advance(1000)
    now_ms = acts.world.clock.now_ms()
    [taken] = await database.write(storage.take_due, now_ms, 0, 10)
    await acts.delayed._send(taken)

    at_once = await pass_time(acts, 1)
    after_a_while = await pass_time(acts, LOST_AFTER_MS)

    assert (at_once, after_a_while) == (0, 1)
    assert await bodies(acts, room_id) == ["once"]
    assert (await acts.delayed.get(ME, delay_id)).status == storage.FINISHED


async def test_event_taken_before_the_clock_was_set_back_is_sent(
    acts: Actions, database: Database
) -> None:
    room_id = await acts.world.create_room(ALICE)
    await acts.delayed.schedule(ME, room_id, delayed_message("once", 1000))
    await database.write(storage.take_due, acts.world.clock.now_ms() + 3_600_000, 0, 10)

    await pass_time(acts, 1)

    assert await bodies(acts, room_id) == ["once"]


async def test_events_due_during_downtime_are_sent_at_startup(database: Database) -> None:
    await database.write(users.insert_user, UserRecord(ALICE, None, 0))
    async with open_actions(database, DELAYED_EVENTS) as acts:
        room_id = await acts.world.create_room(ALICE)
        await acts.delayed.schedule(ME, room_id, delayed_message("after", 1000))

    async with open_actions(database, DELAYED_EVENTS) as acts:
        acts.world.clock.advance(3_600_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(acts.world.process.run_duty, "delayed events")
            await wait_for_scheduled(acts, 0)
            nursery.cancel_scope.cancel()

        rows = [row for _, row in acts.world.seen if row.type == "m.room.message"]
        assert [row.room_id for row in rows] == [room_id]


async def test_sender_wakes_up_for_an_earlier_event(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(acts.world.process.run_duty, "delayed events")
        await acts.delayed.schedule(ME, room_id, delayed_message("in a day", 86_400_000))
        await acts.delayed.schedule(ME, room_id, delayed_message("soon", 1))
        acts.world.clock.advance(10)
        acts.delayed._announce(acts.world.clock.now_ms())
        await wait_for_scheduled(acts, 1)
        nursery.cancel_scope.cancel()

    assert await bodies(acts, room_id) == ["soon"]


async def test_repeated_request_returns_the_same_delay_id(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)

    ids = {
        await acts.delayed.schedule(ME, room_id, delayed_message("x", 1000, "t1")) for _ in range(3)
    }
    other = await acts.delayed.schedule(ME, room_id, delayed_message("x", 1000, "t2"))

    assert len(ids) == 1
    assert other not in ids


async def test_state_event_is_sent_when_due(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    wanted = DelayedEventRequest("m.room.topic", {"topic": "evening"}, 1000, state_key="")
    await acts.delayed.schedule(ME, room_id, wanted)

    await pass_time(acts, 1000)

    assert await acts.state(room_id, "m.room.topic") == {"topic": "evening"}


async def test_state_set_by_another_user_cancels_the_delayed_event(acts: Actions) -> None:
    levels = {"users": {ALICE: 100, BOB: 100}}
    room_id = await acts.world.create_room(ALICE, join=[BOB], power_levels=levels)
    await acts.world.set_state(room_id, BOB, "m.room.topic", {"topic": "before"})
    for key in ("", "other"):
        wanted = DelayedEventRequest("m.room.topic", {"topic": "late"}, 1000, state_key=key)
        await acts.delayed.schedule(ME, room_id, wanted)
    acts.world.clock.advance(1)
    await acts.world.set_state(room_id, BOB, "m.room.topic", {"topic": "bob's"})

    await pass_time(acts, 1000)

    assert await acts.state(room_id, "m.room.topic") == {"topic": "bob's"}
    assert await acts.state(room_id, "m.room.topic", "other") == {"topic": "late"}
    outcomes = [
        (event.state_key, event.event_id is None) for event in await acts.delayed.finished(ME)
    ]
    assert sorted(outcomes) == [("", True), ("other", False)]


async def test_state_set_by_the_same_user_cancels_nothing(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    wanted = DelayedEventRequest("m.room.topic", {"topic": "late"}, 1000, state_key="")
    await acts.delayed.schedule(ME, room_id, wanted)
    acts.world.clock.advance(1)
    await acts.world.set_state(room_id, ALICE, "m.room.topic", {"topic": "soon"})

    await pass_time(acts, 1000)

    assert await acts.state(room_id, "m.room.topic") == {"topic": "late"}


async def test_superseded_event_is_cancelled_at_once(acts: Actions) -> None:
    levels = {"users": {ALICE: 100, BOB: 100}}
    room_id = await acts.world.create_room(ALICE, join=[BOB], power_levels=levels)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(acts.world.process.run_duty, "delayed events")
        wanted = DelayedEventRequest("m.room.topic", {"topic": "late"}, 86_400_000, state_key="")
        await acts.delayed.schedule(ME, room_id, wanted)
        acts.world.clock.advance(1)
        await acts.world.set_state(room_id, BOB, "m.room.topic", {"topic": "bob's"})
        await wait_for_scheduled(acts, 0)
        nursery.cancel_scope.cancel()

    assert await acts.state(room_id, "m.room.topic") == {"topic": "bob's"}


async def test_number_of_scheduled_events_is_limited(
    acts: Actions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delayed_events, "MAX_SCHEDULED", 2)
    room_id = await acts.world.create_room(ALICE)
    for delay_ms in (90_000, 30_000):
        await acts.delayed.schedule(ME, room_id, delayed_message("x", delay_ms))

    with pytest.raises(LimitExceeded) as refused:
        await acts.delayed.schedule(ME, room_id, delayed_message("x", 1000))
    await pass_time(acts, 30_000)
    await acts.delayed.schedule(ME, room_id, delayed_message("x", 1000))

    assert refused.value.extra["retry_after_ms"] == 30_000


async def test_events_of_a_deactivated_user_are_not_sent(acts: Actions, database: Database) -> None:
    room_id = await acts.world.create_room(ALICE)
    await acts.delayed.schedule(ME, room_id, delayed_message("ghost", 1000))
    await database.write(users.deactivate, ALICE, False)

    await pass_time(acts, 1000)

    assert await bodies(acts, room_id) == []


async def test_old_finished_events_are_deleted(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    await acts.delayed.schedule(ME, room_id, delayed_message("old", 1000))
    await pass_time(acts, 1000)
    await acts.delayed.schedule(ME, room_id, delayed_message("waiting", 86_400_000))
    acts.world.clock.advance(8 * 86_400_000)

    assert await sender_of(acts).forget_old() == 1
    assert len(await acts.delayed.scheduled(ME)) == 1


async def test_delay_ids_do_not_collide_with_transaction_ids(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    delay_id = await acts.delayed.schedule(ME, room_id, delayed_message("later", 1000))
    await pass_time(acts, 1000)

    sent = await acts.world.send(room_id, ALICE, txn=txn_key(ALICE, room_id, delay_id))

    assert not sent.existed


async def test_superseded_ban_is_not_sent_by_another_process(
    acts: Actions, database: Database
) -> None:
    room_id = await acts.world.create_room(ALICE, join=[BOB])
    ban = DelayedEventRequest("m.room.member", {"membership": "ban"}, 1000, state_key=BOB)
    delay_id = await acts.delayed.schedule(ME, room_id, ban)
    acts.world.clock.advance(1000)
    [taken] = await database.write(storage.take_due, acts.world.clock.now_ms(), 0, 10)
    sent = await acts.delayed._send(taken)
    await acts.world.set_membership(room_id, ALICE, BOB, "leave")

    await pass_time(acts, LOST_AFTER_MS)

    assert (await acts.state(room_id, "m.room.member", BOB))["membership"] == "leave"
    assert (await acts.delayed.get(ME, delay_id)).event_id == sent


async def test_user_without_consent_cannot_schedule_events(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    due = RequiredConsent("https://example.org/terms", "Agree first")
    undecided = Requester(ALICE, "DEVICE", required_consent=due)
    join = DelayedEventRequest("m.room.member", {"membership": "join"}, 1, state_key=ALICE)

    for wanted in (delayed_message("smuggled", 1), join):
        with pytest.raises(ConsentNotGiven):
            await acts.delayed.schedule(undecided, room_id, wanted)
    redaction = DelayedEventRequest("m.room.redaction", {"redacts": "$event"}, 1)
    await acts.delayed.schedule(undecided, room_id, redaction)

    await pass_time(acts, 1000)
    assert await bodies(acts, room_id) == []


async def test_rate_limited_event_is_sent_later(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limits = attrs.evolve(NO_LIMITS, rc_message=Rate(0.1, 1))
    async with (
        fresh_inline() as database,
        open_actions(database, attrs.evolve(DELAYED_EVENTS, rate_limits=limits)) as acts,
    ):
        await database.write(users.insert_user, UserRecord(ALICE, None, 0))
        room_id = await acts.world.create_room(ALICE)
        await acts.delayed.schedule(ME, room_id, delayed_message("sent", 999))
        await acts.delayed.schedule(ME, room_id, delayed_message("hung up", 1000))

        await pass_time(acts, 1000)
        assert await bodies(acts, room_id) == ["sent"]
        await trio.sleep(10)
        await pass_time(acts, LOST_AFTER_MS)

        assert await bodies(acts, room_id) == ["sent", "hung up"]


async def test_delayed_event_is_sticky_from_when_it_is_sent(acts: Actions) -> None:
    room_id = await acts.world.create_room(ALICE)
    request = attrs.evolve(delayed_message("later", 1000), sticky_ms=60_000)
    await acts.delayed.schedule(ME, room_id, request)

    await pass_time(acts, 1000)

    event = (await acts.events_of(room_id))[-1]
    assert event.pdu["msc4354_sticky"] == {"duration_ms": 60_000}
    stored = await acts.world.events.get_one(event.event_id)
    assert stored is not None
    until_ms = acts.services.core.rooms.sticky.until_ms(stored)
    assert until_ms == acts.world.clock.now_ms() + 60_000
