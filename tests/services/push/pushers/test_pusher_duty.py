"""Sending notifications: in order, once, again when it failed, and on after a restart."""

from typing import Any

import attrs
import pytest
import trio

from hs.core.events import event_types
from hs.core.ids import EventID, RoomID
from hs.services.push.pushers.delivery import KEPT_MS, Push, Pusher, Verdict
from hs.services.push.pushers.http_pusher import MAX_HELD, READ_AT_ONCE
from hs.services.rooms.append.drafts import Draft
from hs.storage.database import Database
from hs.storage.push import pushers as storage
from hs.storage.push.pushers import PusherKey
from tests.support.pushing import KeptDeliveries, PushScene, open_pushing
from tests.support.rooms import ALICE, BOB, CAROL, World, open_world

KEY = PusherKey(BOB, "org.example.app", "key")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hs.services.push.pushers.http_pusher.FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("hs.services.push.pushers.http_pusher.LONGEST_PAUSE_S", 0.02)


async def room_of(world: World, *others: Any) -> RoomID:
    return await world.create_room(ALICE, join=[BOB, *others])


async def arrived(scene: PushScene, *event_ids: EventID, pushkey: str = "key") -> None:
    """Wait until a pusher got these events, and nothing else, in this order."""
    await scene.delivered.wait_until(lambda: len(scene.delivered.events(pushkey)) >= len(event_ids))
    assert scene.delivered.events(pushkey) == list(event_ids)


async def noted(database: Database, position: int) -> None:
    """Wait until the database holds how far Bob's pusher has come."""
    with trio.fail_after(60):
        while True:
            record = await database.read(storage.find, KEY)
            if record is not None and record.position == position:
                return
            await trio.sleep(0.01)


async def test_messages_arrive_in_order(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world) as scene:
        room_id = await room_of(world)
        before = await scene.say(room_id, ALICE)
        await scene.set_pusher(BOB)

        sent = [await scene.say(room_id, ALICE) for _ in range(3)]
        await scene.say(room_id, BOB)

        assert before not in sent
        await arrived(scene, *sent)


async def test_each_pusher_of_a_user_gets_each_message(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world) as scene:
        room_id = await room_of(world)
        await scene.set_pusher(BOB, "first")
        await scene.set_pusher(BOB, "second")

        event_id = await scene.say(room_id, ALICE)

        await arrived(scene, event_id, pushkey="first")
        await arrived(scene, event_id, pushkey="second")


async def test_only_who_is_notified_gets_something(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world) as scene:
        room_id = await room_of(world, CAROL)
        await scene.set_pusher(BOB)
        await scene.set_pusher(CAROL, "carol")
        rule: dict[str, Any] = {"actions": [], "conditions": []}
        await scene.unread.rules.writer.put(BOB, "override", "silence", rule, None, None)

        event_id = await scene.say(room_id, ALICE)

        await arrived(scene, event_id, pushkey="carol")
        assert scene.delivered.events() == []


async def test_what_a_users_own_rule_says_is_told(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world) as scene:
        room_id = await room_of(world, CAROL)
        await scene.set_pusher(BOB)
        actions = ["notify", {"set_tweak": "sound", "value": "ding"}]
        rule = {"actions": actions}
        await scene.unread.rules.writer.put(BOB, "room", room_id, rule, None, None)

        await arrived(scene, await scene.say(room_id, ALICE))

        assert scene.delivered.actions == [
            '["notify",{"set_tweak":"sound","value":"ding"}]',
        ]


async def test_invites_are_told(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world) as scene:
        await scene.set_pusher(BOB)
        room_id = await world.create_room(ALICE)

        invite = await world.set_membership(room_id, ALICE, BOB, "invite")

        await arrived(scene, invite.event_id)


async def test_an_attempt_that_failed_is_made_again(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world) as scene:
        room_id = await room_of(world)
        await scene.set_pusher(BOB)
        scene.delivered.verdicts += [Verdict.LATER] * 3

        sent = [await scene.say(room_id, ALICE) for _ in range(2)]

        await arrived(scene, *sent)
        assert scene.delivered.attempts == 5


async def test_what_a_gateway_refuses_does_not_stop_the_rest(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world) as scene:
        room_id = await room_of(world)
        await scene.set_pusher(BOB)
        scene.delivered.verdicts += [Verdict.REFUSED] * 3

        sent = [await scene.say(room_id, ALICE) for _ in range(2)]

        await arrived(scene, sent[1])


async def test_after_a_day_a_notification_is_given_up(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world) as scene:
        room_id = await room_of(world)
        await scene.set_pusher(BOB)
        scene.delivered.verdicts += [Verdict.LATER] * 10_000
        await scene.say(room_id, ALICE)
        await scene.delivered.wait_until(lambda: scene.delivered.attempts >= 2)

        world.clock.advance(KEPT_MS + 1)
        attempts = scene.delivered.attempts
        later = await scene.say(room_id, ALICE)
        await scene.delivered.wait_until(lambda: scene.delivered.attempts > attempts + 2)
        scene.delivered.verdicts.clear()

        await arrived(scene, later)


async def test_a_rejected_pusher_is_gone(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world) as scene:
        room_id = await room_of(world)
        await scene.set_pusher(BOB)
        scene.delivered.verdicts.append(Verdict.GONE)

        await scene.say(room_id, ALICE)

        with trio.fail_after(60):
            while await scene.pushers.of_user(BOB):  # noqa: ASYNC110  it is in the database
                await trio.sleep(0.01)
        assert scene.delivered.told == []


async def test_a_backlog_is_sent_after_a_restart_and_nothing_twice(database: Database) -> None:
    delivered = KeptDeliveries()
    count = READ_AT_ONCE + MAX_HELD + 7
    async with open_world(database) as world:
        async with open_pushing(world, delivered=delivered) as scene:
            room_id = await room_of(world)
            await scene.set_pusher(BOB)
            sent = [await scene.say(room_id, ALICE)]
            await arrived(scene, *sent)
    async with open_world(database) as world:
        async with open_pushing(world, delivered=delivered, is_sending=False) as scene:
            drafts = [
                Draft(event_types.MESSAGE, ALICE, {"msgtype": "m.text", "body": str(number)})
                for number in range(count)
            ]
            sent += [one.event_id for one in await world.append(room_id, *drafts)]
    async with open_world(database) as world:
        async with open_pushing(world, delivered=delivered) as scene:
            sent.append(await scene.say(room_id, ALICE))

            await arrived(scene, *sent)


async def test_what_was_evaluated_before_is_numbered_on_after_a_restart(
    database: Database,
) -> None:
    delivered = KeptDeliveries()
    sent: list[EventID] = []
    room_id = None
    for _ in range(3):
        async with open_world(database) as world:
            async with open_pushing(world, delivered=delivered) as scene:
                if room_id is None:
                    room_id = await room_of(world)
                    await scene.set_pusher(BOB)
                sent.append(await scene.say(room_id, ALICE))
                await arrived(scene, *sent)
                await noted(database, len(sent))
                # All that is done is forgotten, which must not begin the numbers anew.
                await database.write(storage.prune_done, [BOB])
                assert await database.read(storage.queued, BOB, 0, 10) == []


async def test_a_pusher_that_comes_back_misses_what_happened_meanwhile(
    database: Database,
) -> None:
    async with open_world(database) as world, open_pushing(world) as scene:
        room_id = await room_of(world)
        await scene.set_pusher(BOB)
        await scene.set_pusher(BOB, "other")
        await scene.set_pusher(BOB, "key", **{"org.matrix.msc3881.enabled": False})
        missed = await scene.say(room_id, ALICE)
        await arrived(scene, missed, pushkey="other")

        await scene.set_pusher(BOB, "key", **{"org.matrix.msc3881.enabled": True})
        event_id = await scene.say(room_id, ALICE)

        await arrived(scene, event_id)


async def test_users_of_others_are_left_alone(database: Database) -> None:
    async with (
        open_world(database) as world,
        open_pushing(world, is_ours=lambda user_id: user_id == CAROL) as scene,
    ):
        room_id = await room_of(world, CAROL)
        await scene.set_pusher(BOB)
        await scene.set_pusher(CAROL, "carol")

        event_id = await scene.say(room_id, ALICE)

        await arrived(scene, event_id, pushkey="carol")
        assert scene.delivered.events() == []
        assert len(await database.read(storage.queued, BOB, 0, 10)) == 1


async def test_reading_has_the_number_on_icons_told_anew(database: Database) -> None:
    async with open_world(database) as world, open_pushing(world) as scene:
        room_id = await room_of(world)
        await scene.set_pusher(BOB)
        event_id = await scene.say(room_id, ALICE)
        await arrived(scene, event_id)

        await scene.unread.read(BOB, room_id, event_id)

        await scene.delivered.wait_until(lambda: scene.delivered.badges == ["key"])


async def test_the_sending_ends_with_what_it_has_begun(database: Database) -> None:
    began, may_end = trio.Event(), trio.Event()

    class Slow(KeptDeliveries):
        async def deliver(self, pusher: Any, push: Any) -> Verdict:
            began.set()
            await may_end.wait()
            return await super().deliver(pusher, push)

    delivered = Slow()
    async with open_world(database) as world:
        async with open_pushing(world, delivered=delivered, is_sending=False) as scene:
            room_id = await room_of(world)
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
class TarPit(KeptDeliveries):
    """A gateway that refuses the first attempt for `stuck`, and takes for ever with the next."""

    stuck: str = "stuck"
    caught: trio.Event = attrs.Factory(trio.Event)
    _failed: bool = False

    async def deliver(self, pusher: Pusher, push: Push) -> Verdict:
        if pusher.key.pushkey != self.stuck:
            return await KeptDeliveries.deliver(self, pusher, push)
        if not self._failed:
            self._failed = True
            return Verdict.LATER
        self.caught.set()
        await trio.sleep_forever()


async def test_a_gateway_that_never_answers_holds_up_no_other(database: Database) -> None:
    pit = TarPit()
    async with (
        open_world(database) as world,
        open_pushing(world, delivered=pit, at_once=1) as scene,
    ):
        room_id = await room_of(world)
        await scene.set_pusher(BOB, "stuck")
        await scene.say(room_id, ALICE)
        with trio.fail_after(60):
            await pit.caught.wait()
        await scene.set_pusher(BOB, "key")

        event_id = await scene.say(room_id, ALICE)

        await arrived(scene, event_id)
