"""Row: evaluating a message in a room whose members each have a push rule of their own."""

from itertools import count

import pytest

from hs.core.push.rules import PushRule, RuleKind, UserRules
from hs.core.push.wire import encode_user_rules
from hs.core.streams import PUSH_RULES, PushRulesRow
from hs.repl.feed import Batch
from hs.services.push.evaluation.event_results import EventResults
from hs.storage.database import Database
from tests.growth.shapes import add_members, users
from tests.growth.table import Growth
from tests.support.rooms import ALICE, World, open_world

pytestmark = pytest.mark.growth


def mute_rooms(world: World, count: int) -> None:
    """Let each of many users mute a room of their own."""
    for number, user_id in enumerate(users(count)):
        rule = PushRule(RuleKind.ROOM, f"!muted{number}:test.example", ())
        row = PushRulesRow(user_id, encode_user_rules(UserRules((rule,))))
        before = world.feed.position_of(PUSH_RULES, "main") or 0
        world.feed.deliver(Batch(PUSH_RULES, "main", before, before + 1, [(before + 1, row)]))


@pytest.mark.parametrize("size", [10, 100, 1_000])
async def test_message_where_each_member_has_a_rule(
    database: Database, growth: Growth, size: int
) -> None:
    async with open_world(database) as world:
        duty = world.process.services.push.evaluation
        assert duty is not None
        await duty.flush()
        mute_rooms(world, size)
        room_id = await world.create_room(ALICE)
        await add_members(world, room_id, users(size))
        await world.send(room_id, ALICE)
        _, row = world.seen[-1]
        numbers = count(10**6)

        async def evaluate() -> None:
            results = EventResults()
            await duty._rows.evaluate(results, next(numbers), row)
            assert [unread.notify for unread in results.unread] == [True]
            assert not results.exceptions

        await growth.measure("send, a rule each", database.engine, size, evaluate, repeat=20)
