"""Sending notifications: in order, once, retried after failures, and resumed after a restart."""

from typing import Any

import attrs
import pytest
import trio

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID
from hs.services.push.pushers.delivery import KEPT_MS, DeliveryResult, Push, Pusher
from hs.services.push.pushers.http_pusher import MAX_HELD, PAGE_SIZE
from hs.services.rooms.append.drafts import Draft
from hs.storage.database import Database
from hs.storage.push import pushers as storage
from hs.storage.push.pushers import PusherKey
from tests.support.pushing import PushScene, RecordingDelivery, open_pushing
from tests.support.rooms import ALICE, BOB, CAROL, World, open_world

KEY = PusherKey(BOB, "org.example.app", "key")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hs.services.push.pushers.http_pusher.FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("hs.services.push.pushers.http_pusher.LONGEST_PAUSE_S", 0.02)


async def create_room(world: World, *members: Any) -> RoomID:
    return await world.create_room(ALICE, join=[BOB, *members])


async def wait_for(scene: PushScene, *event_ids: EventID, pushkey: str = "key") -> None:
    """Wait until exactly these events were delivered to a pusher, in this order."""
    await scene.delivered.wait_until(lambda: len(scene.delivered.events(pushkey)) >= len(event_ids))
    assert scene.delivered.events(pushkey) == list(event_ids)


async def wait_for_position(database: Database, position: int) -> None:
    """Wait until the position of Bob's pusher is stored."""
    with trio.fail_after(60):
        while True:
            record = await database.read(storage.find, KEY)
            if record is not None and record.position == position:
                return
            await trio.sleep(0.01)


async def test_messages_of_others_are_delivered_in_order(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world) as scene:
        room_id = await create_room(world)
        before = await scene.say(room_id, ALICE)
        await scene.set_pusher(BOB)

        sent = [await scene.say(room_id, ALICE) for _ in range(3)]
        await scene.say(room_id, BOB)

        assert before not in sent
        await wait_for(scene, *sent)


async def test_message_is_delivered_to_each_pusher_of_a_user(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world) as scene:
        room_id = await create_room(world)
        await scene.set_pusher(BOB, "first")
        await scene.set_pusher(BOB, "second")

        event_id = await scene.say(room_id, ALICE)

        await wait_for(scene, event_id, pushkey="first")
        await wait_for(scene, event_id, pushkey="second")


async def test_user_with_silencing_rule_is_not_notified(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world) as scene:
        room_id = await create_room(world, CAROL)
        await scene.set_pusher(BOB)
        await scene.set_pusher(CAROL, "carol")
        rule: dict[str, Any] = {"actions": [], "conditions": []}
        await scene.unread.rules.writer.put(BOB, "override", "silence", rule, None, None)

        event_id = await scene.say(room_id, ALICE)

        await wait_for(scene, event_id, pushkey="carol")
        assert scene.delivered.events() == []


async def test_actions_of_the_users_own_rule_are_delivered(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world) as scene:
        room_id = await create_room(world, CAROL)
        await scene.set_pusher(BOB)
        actions = ["notify", {"set_tweak": "sound", "value": "ding"}]
        rule = {"actions": actions}
        await scene.unread.rules.writer.put(BOB, "room", room_id, rule, None, None)

        await wait_for(scene, await scene.say(room_id, ALICE))

        assert scene.delivered.actions == [
            '["notify",{"set_tweak":"sound","value":"ding"}]',
        ]


async def test_invite_is_delivered(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world) as scene:
        await scene.set_pusher(BOB)
        room_id = await world.create_room(ALICE)

        invite = await world.set_membership(room_id, ALICE, BOB, "invite")

        await wait_for(scene, invite.event_id)


async def test_failed_delivery_is_retried(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world) as scene:
        room_id = await create_room(world)
        await scene.set_pusher(BOB)
        scene.delivered.results += [DeliveryResult.FAILED] * 3

        sent = [await scene.say(room_id, ALICE) for _ in range(2)]

        await wait_for(scene, *sent)
        assert scene.delivered.attempts == 5


async def test_refused_notification_is_skipped(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world) as scene:
        room_id = await create_room(world)
        await scene.set_pusher(BOB)
        scene.delivered.results += [DeliveryResult.REFUSED] * 3

        sent = [await scene.say(room_id, ALICE) for _ in range(2)]

        await wait_for(scene, sent[1])


async def test_notification_is_skipped_after_a_day_of_failures(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world) as scene:
        room_id = await create_room(world)
        await scene.set_pusher(BOB)
        scene.delivered.results += [DeliveryResult.FAILED] * 10_000
        await scene.say(room_id, ALICE)
        await scene.delivered.wait_until(lambda: scene.delivered.attempts >= 2)

        world.clock.advance(KEPT_MS + 1)
        attempts = scene.delivered.attempts
        later = await scene.say(room_id, ALICE)
        await scene.delivered.wait_until(lambda: scene.delivered.attempts > attempts + 2)
        scene.delivered.results.clear()

        await wait_for(scene, later)


async def test_rejected_pusher_is_deleted(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world) as scene:
        room_id = await create_room(world)
        await scene.set_pusher(BOB)
        scene.delivered.results.append(DeliveryResult.GONE)

        await scene.say(room_id, ALICE)

        with trio.fail_after(60):
            while await scene.pushers.of_user(BOB):  # noqa: ASYNC110  the database sets no event
                await trio.sleep(0.01)
        assert scene.delivered.delivered_events == []


async def test_backlog_is_delivered_once_after_a_restart(database: Database) -> None:
    delivered = RecordingDelivery()
    count = PAGE_SIZE + MAX_HELD + 7
    async with open_world(database) as world:
        async with open_pushing(world, delivered=delivered) as scene:
            room_id = await create_room(world)
            await scene.set_pusher(BOB)
            sent = [await scene.say(room_id, ALICE)]
            await wait_for(scene, *sent)
    async with open_world(database) as world:
        async with open_pushing(world, delivered=delivered, is_sending=False) as scene:
            drafts = [
                Draft(event_types.MESSAGE, ALICE, {"msgtype": "m.text", "body": str(number)})
                for number in range(count)
            ]
            sent += [sent.event_id for sent in await world.append(room_id, *drafts)]
    async with open_world(database) as world:
        async with open_pushing(world, delivered=delivered) as scene:
            sent.append(await scene.say(room_id, ALICE))

            await wait_for(scene, *sent)


async def test_numbers_continue_after_a_restart_with_an_empty_queue(
    database: Database,
) -> None:
    delivered = RecordingDelivery()
    sent: list[EventID] = []
    room_id = None
    for _ in range(3):
        async with open_world(database) as world:
            async with open_pushing(world, delivered=delivered) as scene:
                if room_id is None:
                    room_id = await create_room(world)
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
    async with open_world(database) as world, open_pushing(world) as scene:
        room_id = await create_room(world)
        await scene.set_pusher(BOB)
        await scene.set_pusher(BOB, "other")
        await scene.set_pusher(BOB, "key", **{"org.matrix.msc3881.enabled": False})
        missed = await scene.say(room_id, ALICE)
        await wait_for(scene, missed, pushkey="other")

        await scene.set_pusher(BOB, "key", **{"org.matrix.msc3881.enabled": True})
        event_id = await scene.say(room_id, ALICE)

        await wait_for(scene, event_id)


async def test_users_of_other_shares_are_not_served(database: Database) -> None:
    async with (
        open_world(database) as world,
        open_pushing(world, is_ours=lambda user_id: user_id == CAROL) as scene,
    ):
        room_id = await create_room(world, CAROL)
        await scene.set_pusher(BOB)
        await scene.set_pusher(CAROL, "carol")

        event_id = await scene.say(room_id, ALICE)

        await wait_for(scene, event_id, pushkey="carol")
        assert scene.delivered.events() == []
        assert len(await database.read(storage.list_queued, BOB, 0, 10)) == 1


async def test_reading_updates_the_badge(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world) as scene:
        room_id = await create_room(world)
        await scene.set_pusher(BOB)
        event_id = await scene.say(room_id, ALICE)
        await wait_for(scene, event_id)

        await scene.unread.read(BOB, room_id, event_id)

        await scene.delivered.wait_until(lambda: scene.delivered.badges == ["key"])


async def test_delivery_under_way_is_finished_when_the_duty_stops(database: Database) -> None:
    began, may_end = trio.Event(), trio.Event()

    class Slow(RecordingDelivery):
        async def deliver(self, pusher: Any, push: Any) -> DeliveryResult:
            began.set()
            await may_end.wait()
            return await super().deliver(pusher, push)

    delivered = Slow()
    async with open_world(database) as world:
        async with open_pushing(world, delivered=delivered, is_sending=False) as scene:
            room_id = await create_room(world)
            await scene.set_pusher(BOB)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(scene.sending.run)
                event_id = await scene.say(room_id, ALICE)
                await began.wait()
                nursery.cancel_scope.cancel()
                may_end.set()

            record = await database.read(storage.find, KEY)

    assert delivered.events() == [event_id]
    assert record is not None
    assert record.position == 1


@attrs.define(eq=False)
class StuckGateway(RecordingDelivery):
    """A gateway that fails the first attempt of pusher `stuck` and never answers the second."""

    stuck: str = "stuck"
    is_stuck: trio.Event = attrs.Factory(trio.Event)
    _failed: bool = False

    async def deliver(self, pusher: Pusher, push: Push) -> DeliveryResult:
        if pusher.key.pushkey != self.stuck:
            return await RecordingDelivery.deliver(self, pusher, push)
        if not self._failed:
            self._failed = True
            return DeliveryResult.FAILED
        self.is_stuck.set()
        await trio.sleep_forever()


async def test_gateway_that_never_answers_delays_no_other(database: Database) -> None:
    gateway = StuckGateway()
    async with (
        open_world(database) as world,
        open_pushing(world, delivered=gateway, at_once=1) as scene,
    ):
        room_id = await create_room(world)
        await scene.set_pusher(BOB, "stuck")
        await scene.say(room_id, ALICE)
        with trio.fail_after(60):
            await gateway.is_stuck.wait()
        await scene.set_pusher(BOB, "key")

        event_id = await scene.say(room_id, ALICE)

        await wait_for(scene, event_id)
