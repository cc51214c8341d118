"""The date is set ahead or back, while a process serves and while it is down."""

from contextlib import AsyncExitStack

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hs.core.ids import RoomID
from hs.core.requester import Requester
from hs.lib.clock import FixedClock
from hs.settings.sections.rate_limits import InviteRates, Rate
from hs.storage.database import Database
from tests.support.composition import NO_LIMITS, SETTINGS
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.syncing import Syncing, bodies, open_syncing

HOUR_MS = 3_600_000
TO_2050_MS = 26 * 365 * 24 * HOUR_MS
JUMPS = (0, -HOUR_MS, HOUR_MS, TO_2050_MS, -TO_2050_MS)


async def receive(s: Syncing, room_id: RoomID, since: str, text: str) -> tuple[list[str], str]:
    """Let Bob send a message while Alice waits; return the texts that she gets, and her token."""
    answers = []

    async def poll() -> None:
        answers.append(await s.sync(ALICE, since, timeout_ms=30_000))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            await wait_all_tasks_blocked(0.01)
            await s.world.send(room_id, BOB, text)
    return bodies(answers[0]["rooms"]["join"][room_id]), answers[0]["next_batch"]


async def receive_typing(s: Syncing, room_id: RoomID, since: str) -> tuple[list[str], str]:
    """Let Bob begin to type, and then stop; return who types meanwhile, and Alice's token."""
    await s.set_typing(room_id, BOB)
    answer = await s.sync(ALICE, since, timeout_ms=5_000)
    (event,) = answer["rooms"]["join"][room_id]["ephemeral"]["events"]
    await s.set_typing(room_id)
    token = (await s.sync(ALICE, answer["next_batch"], timeout_ms=5_000))["next_batch"]
    return event["content"]["user_ids"], token


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_long_polls_go_on_when_the_date_is_set(
    database: Database, is_restarted: bool
) -> None:
    clock, received, typing = FixedClock(), [], []
    async with AsyncExitStack() as stack:
        s = await stack.enter_async_context(open_syncing(database, clock=clock))
        room_id = await s.world.create_room(ALICE, join=[BOB])
        token = (await s.sync(ALICE))["next_batch"]
        for number, jump_ms in enumerate(JUMPS):
            if is_restarted:
                await stack.aclose()
            clock.jump(jump_ms)
            if is_restarted:
                s = await stack.enter_async_context(open_syncing(database, clock=clock))
            texts, token = await receive(s, room_id, token, f"message {number}")
            received += texts
            users, token = await receive_typing(s, room_id, token)
            typing.append(users)

    assert received == [f"message {number}" for number in range(len(JUMPS))]
    assert typing == [[BOB]] * len(JUMPS)


async def test_invites_are_not_refused_after_the_date_was_set_back(database: Database) -> None:
    rates = InviteRates(per_room=Rate(1, 5), per_user=Rate(1, 5), per_issuer=Rate(1, 5))
    settings = attrs.evolve(SETTINGS, rate_limits=attrs.evolve(NO_LIMITS, rc_invites=rates))
    async with open_syncing(database, settings) as s:
        room_id = await s.world.create_room(ALICE)
        membership = s.services.members.membership

        for user_id in (BOB, CAROL):
            await membership.invite(Requester(ALICE), room_id, user_id)
            s.world.clock.jump(-HOUR_MS)

        assert room_id in (await s.sync(CAROL))["rooms"]["invite"]
