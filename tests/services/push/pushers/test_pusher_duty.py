"""Sending notifications: in order, once, retried after failures, and resumed after a restart."""

from collections.abc import Mapping
from typing import Any

import attrs
import pytest
import trio

from hs.core.ids import EventID, RoomID
from hs.repl.slots.assignment import shard_of
from hs.services.push.pushers.delivery import KEPT_MS
from hs.services.push.pushers.pending_pushes import MAX_HELD, PAGE_SIZE
from hs.storage.database import Database
from hs.storage.push import pushers as storage
from hs.storage.push.pushers import PusherKey
from tests.support.composition import worker_settings
from tests.support.pushing import (
    DELIVERED,
    FAILED,
    GONE,
    REFUSED,
    WITH_EMAIL,
    Answer,
    FakeGateway,
    PushScene,
    open_pushing,
    pushkey_of,
)
from tests.support.rooms import ALICE, BOB, CAROL, message

KEY = PusherKey(BOB, "org.example.app", "key")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hs.services.push.pushers.delivery_attempts.FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("hs.services.push.pushers.delivery_attempts.LONGEST_PAUSE_S", 0.02)


async def create_room(scene: PushScene, *members: Any) -> RoomID:
    return await scene.world.create_room(ALICE, join=[BOB, *members])


async def wait_for(scene: PushScene, *event_ids: EventID, pushkey: str = "key") -> None:
    """Wait until exactly these events were delivered to a pusher, in this order."""
    await scene.gateway.wait_until(lambda: len(scene.gateway.events(pushkey)) >= len(event_ids))
    assert scene.gateway.events(pushkey) == list(event_ids)


async def wait_for_position(database: Database, position: int) -> None:
    """Wait until the position of Bob's pusher is stored."""
    with trio.fail_after(60):
        while True:
            record = await database.read(storage.find, KEY)
            if record is not None and record.position == position:
                return
            await trio.sleep(0.01)


async def test_messages_of_others_are_delivered_in_order(database: Database) -> None:
    async with open_pushing(database) as scene:
        room_id = await create_room(scene)
        before = await scene.say(room_id, ALICE)
        await scene.set_pusher(BOB)

        sent = [await scene.say(room_id, ALICE) for _ in range(3)]
        await wait_for(scene, *sent)
        # By sending a message Bob also reads the others, which are not delivered after that.
        await scene.say(room_id, BOB)
        sent.append(await scene.say(room_id, ALICE))

        assert before not in sent
        await wait_for(scene, *sent)


async def test_message_is_delivered_to_each_pusher_of_a_user(database: Database) -> None:
    async with open_pushing(database) as scene:
        room_id = await create_room(scene)
        await scene.set_pusher(BOB, "first")
        await scene.set_pusher(BOB, "second")

        event_id = await scene.say(room_id, ALICE)

        await wait_for(scene, event_id, pushkey="first")
        await wait_for(scene, event_id, pushkey="second")


async def test_user_with_silencing_rule_is_not_notified(database: Database) -> None:
    async with open_pushing(database) as scene:
        room_id = await create_room(scene, CAROL)
        await scene.set_pusher(BOB)
        await scene.set_pusher(CAROL, "carol")
        rule: dict[str, Any] = {"actions": [], "conditions": []}
        await scene.unread.services.core.rules_writer.put(
            BOB, "override", "silence", rule, None, None
        )

        event_id = await scene.say(room_id, ALICE)

        await wait_for(scene, event_id, pushkey="carol")
        assert scene.gateway.events() == []


async def test_actions_of_the_users_own_rule_are_delivered(database: Database) -> None:
    async with open_pushing(database) as scene:
        room_id = await create_room(scene, CAROL)
        await scene.set_pusher(BOB)
        actions = ["notify", {"set_tweak": "sound", "value": "ding"}]
        rule = {"actions": actions}
        await scene.unread.services.core.rules_writer.put(BOB, "room", room_id, rule, None, None)

        await wait_for(scene, await scene.say(room_id, ALICE))

        [notification] = scene.gateway.delivered
        assert notification["devices"][0]["tweaks"] == {"sound": "ding"}


async def test_invite_is_delivered(database: Database) -> None:
    async with open_pushing(database) as scene:
        await scene.set_pusher(BOB)
        room_id = await scene.world.create_room(ALICE)

        invite = await scene.world.set_membership(room_id, ALICE, BOB, "invite")

        await wait_for(scene, invite.event_id)


async def test_failed_delivery_is_retried(database: Database) -> None:
    async with open_pushing(database) as scene:
        room_id = await create_room(scene)
        await scene.set_pusher(BOB)
        scene.gateway.answers += [FAILED] * 3

        sent = [await scene.say(room_id, ALICE) for _ in range(2)]

        await wait_for(scene, *sent)
        assert len(scene.gateway.sent) == 5


async def test_refused_notification_is_skipped(database: Database) -> None:
    async with open_pushing(database) as scene:
        room_id = await create_room(scene)
        await scene.set_pusher(BOB)
        scene.gateway.answers += [REFUSED] * 3

        sent = [await scene.say(room_id, ALICE) for _ in range(2)]

        await wait_for(scene, sent[1])


async def test_notification_is_skipped_after_a_day_of_failures(database: Database) -> None:
    async with open_pushing(database) as scene:
        room_id = await create_room(scene)
        await scene.set_pusher(BOB)
        scene.gateway.answers += [FAILED] * 10_000
        await scene.say(room_id, ALICE)
        await scene.gateway.wait_until(lambda: len(scene.gateway.sent) >= 2)

        scene.world.clock.advance(KEPT_MS + 1)
        attempts = len(scene.gateway.sent)
        later = await scene.say(room_id, ALICE)
        await scene.gateway.wait_until(lambda: len(scene.gateway.sent) > attempts + 2)
        scene.gateway.answers.clear()

        await wait_for(scene, later)


async def test_rejected_pusher_is_deleted(database: Database) -> None:
    async with open_pushing(database) as scene:
        room_id = await create_room(scene)
        await scene.set_pusher(BOB)
        scene.gateway.answers.append(GONE)

        await scene.say(room_id, ALICE)

        with trio.fail_after(60):
            while await scene.pushers.of_user(BOB):  # noqa: ASYNC110  the database sets no event
                await trio.sleep(0.01)
        assert scene.gateway.delivered == []


async def test_backlog_is_delivered_once_after_a_restart(database: Database) -> None:
    gateway = FakeGateway()
    count = PAGE_SIZE + MAX_HELD + 7
    async with open_pushing(database, gateway=gateway) as scene:
        room_id = await create_room(scene)
        await scene.set_pusher(BOB)
        sent = [await scene.say(room_id, ALICE)]
        await wait_for(scene, *sent)
    async with open_pushing(database, is_sending=False) as scene:
        drafts = [message(ALICE, str(number)) for number in range(count)]
        sent += [sent.event_id for sent in await scene.world.append(room_id, *drafts)]
    async with open_pushing(database, gateway=gateway) as scene:
        sent.append(await scene.say(room_id, ALICE))

        await wait_for(scene, *sent)


async def test_numbers_continue_after_a_restart_with_an_empty_queue(
    database: Database,
) -> None:
    gateway = FakeGateway()
    sent: list[EventID] = []
    room_id = None
    for _ in range(3):
        async with open_pushing(database, gateway=gateway) as scene:
            if room_id is None:
                room_id = await create_room(scene)
                await scene.set_pusher(BOB)
            sent.append(await scene.say(room_id, ALICE))
            await wait_for(scene, *sent)
            await wait_for_position(database, len(sent))
            # The queue is empty from here on, but numbers must not start again.
            await database.write(storage.delete_sent, [BOB])
            assert await database.read(storage.list_queued, BOB, 0, 10) == []


async def test_reenabled_pusher_skips_earlier_messages(
    database: Database,
) -> None:
    async with open_pushing(database) as scene:
        room_id = await create_room(scene)
        await scene.set_pusher(BOB)
        await scene.set_pusher(BOB, "other")
        await scene.set_pusher(BOB, "key", **{"org.matrix.msc3881.enabled": False})
        missed = await scene.say(room_id, ALICE)
        await wait_for(scene, missed, pushkey="other")

        await scene.set_pusher(BOB, "key", **{"org.matrix.msc3881.enabled": True})
        event_id = await scene.say(room_id, ALICE)

        await wait_for(scene, event_id)


async def test_users_of_other_shares_are_not_served(database: Database) -> None:
    shares = ("pusher", "main")
    settings = worker_settings(WITH_EMAIL, "main", "pusher")
    settings = attrs.evolve(settings, workers=attrs.evolve(settings.workers, pushers=shares))
    assert [shares[shard_of(user_id, len(shares))] for user_id in (BOB, CAROL)] == [*shares]
    async with open_pushing(database, settings) as scene:
        room_id = await create_room(scene, CAROL)
        await scene.set_pusher(BOB)
        await scene.set_pusher(CAROL, "carol")

        event_id = await scene.say(room_id, ALICE)

        await wait_for(scene, event_id, pushkey="carol")
        assert scene.gateway.events() == []
        assert len(await database.read(storage.list_queued, BOB, 0, 10)) == 1


async def test_reading_updates_the_badge(database: Database) -> None:
    async with open_pushing(database) as scene:
        room_id = await create_room(scene)
        await scene.set_pusher(BOB)
        event_id = await scene.say(room_id, ALICE)
        await wait_for(scene, event_id)

        await scene.unread.read(BOB, room_id, event_id)

        await scene.gateway.wait_until(lambda: scene.gateway.badges() == [("key", 0)])


async def test_delivery_under_way_is_finished_when_the_duty_stops(database: Database) -> None:
    began, may_end = trio.Event(), trio.Event()

    class Slow(FakeGateway):
        async def answer_to(self, notification: Mapping[str, Any]) -> Answer:
            began.set()
            await may_end.wait()
            return DELIVERED

    gateway = Slow()
    async with open_pushing(database, gateway=gateway, is_sending=False) as scene:
        room_id = await create_room(scene)
        await scene.set_pusher(BOB)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.run_sending)
            event_id = await scene.say(room_id, ALICE)
            await began.wait()
            nursery.cancel_scope.cancel()
            may_end.set()

        record = await database.read(storage.find, KEY)

    assert gateway.events() == [event_id]
    assert record is not None
    assert record.position == 1


@attrs.define(eq=False)
class StuckGateway(FakeGateway):
    """A gateway that fails the first attempt of pusher `stuck` and never answers the second."""

    is_stuck: trio.Event = attrs.Factory(trio.Event)
    _has_failed: bool = False

    async def answer_to(self, notification: Mapping[str, Any]) -> Answer:
        if pushkey_of(notification) != "stuck":
            return DELIVERED
        if not self._has_failed:
            self._has_failed = True
            return FAILED
        self.is_stuck.set()
        await trio.sleep_forever()


async def test_gateway_that_never_answers_delays_no_other(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hs.services.push.pushers.http_pusher.GRACE_S", 0.1)
    monkeypatch.setattr("hs.nursery.wiring.pushers.SENT_AT_ONCE", 1)
    monkeypatch.setattr("hs.nursery.wiring.pushers.SENT_AGAIN_AT_ONCE", 1)
    gateway = StuckGateway()
    async with open_pushing(database, gateway=gateway) as scene:
        room_id = await create_room(scene)
        await scene.set_pusher(BOB, "stuck")
        await scene.say(room_id, ALICE)
        with trio.fail_after(60):
            await gateway.is_stuck.wait()
        await scene.set_pusher(BOB, "key")

        event_id = await scene.say(room_id, ALICE)

        await wait_for(scene, event_id)
