"""Thread subscriptions: explicit, automatic, undone, and sent to clients once."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from hs.core.errors import MatrixError, NotFound, TooLarge
from hs.core.ids import EventID, RoomID
from hs.core.requester import Requester
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.threads import thread_subscriptions
from hs.services.rooms.threads.thread_subscriptions import ThreadSubscriptions
from hs.services.sync.sliding.thread_extension import THREADS_EXTENSION
from hs.settings.sections.proposals import Experiments, ProposalSettings
from hs.storage.database import Database
from tests.support.composition import SETTINGS
from tests.support.rooms import ALICE, BOB, CAROL
from tests.support.sliding import Sliding, open_sliding

ME = Requester(ALICE, "DEVICE")
WITH_THREADS = ProposalSettings(experimental_features=Experiments(thread_subscriptions=True))
ASKED = {"threads": {"enabled": True, "limit": 2}}


@attrs.frozen(eq=False)
class Threads:
    """Sliding sync with a room and a thread, and subscriptions."""

    sliding: Sliding
    room_id: RoomID
    root_id: EventID

    @property
    def service(self) -> ThreadSubscriptions:
        subscriptions = self.sliding.services.threads.subscriptions
        assert subscriptions is not None
        return subscriptions

    async def reply(self, root_id: EventID | None = None) -> EventID:
        relates = {"rel_type": "m.thread", "event_id": root_id or self.root_id}
        content = {"body": "reply", "m.relates_to": relates}
        world = self.sliding.world
        draft = Draft("m.room.message", BOB, content)
        world.clock.advance(1)
        return (await world.append(self.room_id, draft))[0].event_id

    async def root(self) -> EventID:
        self.sliding.world.clock.advance(1)
        return (await self.sliding.world.send(self.room_id, BOB, "root")).event_id

    async def sync(self, pos: str | None = None, timeout_ms: int = 0) -> tuple[Any, str]:
        answer = await self.sliding.sync(ALICE, pos, extensions=ASKED, timeout_ms=timeout_ms)
        return answer["extensions"].get(THREADS_EXTENSION), answer["pos"]


@pytest.fixture
async def threads(database: Database) -> AsyncIterator[Threads]:
    async with open_sliding(database, attrs.evolve(SETTINGS, proposals=WITH_THREADS)) as sliding:
        room_id = await sliding.world.create_room(ALICE, join=[BOB])
        root_id = (await sliding.world.send(room_id, BOB, "root")).event_id
        yield Threads(sliding, room_id, root_id)


async def test_explicit_subscription_replaces_an_automatic_one(threads: Threads) -> None:
    cause = await threads.reply()
    place = (ME, threads.room_id, threads.root_id)

    await threads.service.subscribe(*place, cause)
    first = await threads.service.is_automatic(*place)
    await threads.service.subscribe(*place, None)
    await threads.service.subscribe(*place, cause)

    assert first is True
    assert await threads.service.is_automatic(*place) is False


async def test_events_before_an_unsubscription_cannot_cause_a_subscription(
    threads: Threads,
) -> None:
    cause = await threads.reply()
    place = (ME, threads.room_id, threads.root_id)
    await threads.service.subscribe(*place, cause)
    await threads.service.unsubscribe(*place)
    await threads.service.unsubscribe(*place)

    with pytest.raises(NotFound):
        await threads.service.is_automatic(*place)
    with pytest.raises(MatrixError) as refused:
        await threads.service.subscribe(*place, cause)
    await threads.service.subscribe(*place, await threads.reply())

    assert refused.value.status == 409
    assert refused.value.errcode == "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION"
    assert await threads.service.is_automatic(*place) is True


async def test_event_outside_the_thread_cannot_cause_a_subscription(threads: Threads) -> None:
    other = await threads.reply(await threads.root())

    with pytest.raises(MatrixError) as refused:
        await threads.service.subscribe(ME, threads.room_id, threads.root_id, other)

    assert (refused.value.status, refused.value.errcode) == (
        400,
        "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD",
    )


async def test_invisible_threads_are_not_found(threads: Threads) -> None:
    carol = Requester(CAROL, "DEVICE")
    calls: list[Callable[[], Any]] = [
        lambda: threads.service.subscribe(carol, threads.room_id, threads.root_id, None),
        lambda: threads.service.unsubscribe(carol, threads.room_id, threads.root_id),
        lambda: threads.service.is_automatic(ME, threads.room_id, EventID("$unknown")),
    ]

    for call in calls:
        with pytest.raises(NotFound):
            await call()


async def test_changes_are_sent_once(threads: Threads) -> None:
    nothing, pos = await threads.sync()
    await threads.service.subscribe(ME, threads.room_id, threads.root_id, None)

    subscribed, pos = await threads.sync(pos)
    again, pos = await threads.sync(pos)
    await threads.service.unsubscribe(ME, threads.room_id, threads.root_id)
    unsubscribed, pos = await threads.sync(pos)
    first, _ = await threads.sync()

    assert (nothing, again, first) == (None, None, None)
    subscription = subscribed["subscribed"][threads.room_id][threads.root_id]
    assert subscription["automatic"] is False
    unsubscription = unsubscribed["unsubscribed"][threads.room_id][threads.root_id]
    assert unsubscription["bump_stamp"] > subscription["bump_stamp"]


async def test_change_wakes_a_long_poll(threads: Threads) -> None:
    _, pos = await threads.sync()
    responses: list[Any] = []

    async def wait() -> None:
        responses.append((await threads.sync(pos, timeout_ms=60_000))[0])

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await threads.service.subscribe(ME, threads.room_id, threads.root_id, None)

    assert list(responses[0]["subscribed"]) == [threads.room_id]


async def test_changes_beyond_the_limit_are_paginated_backwards(threads: Threads) -> None:
    roots = [await threads.root() for _ in range(7)]
    _, pos = await threads.sync()
    for root_id in roots:
        await threads.service.subscribe(ME, threads.room_id, root_id, None)

    response, _ = await threads.sync(pos)
    received = set(response["subscribed"][threads.room_id])
    token = response["prev_batch"]
    while token is not None:
        page = await threads.service.page(ME, token, pos, 3)
        root_ids = {change.root_id for change in page.changes}
        assert not received & root_ids
        received |= root_ids
        token = page.end

    assert received == set(roots)


async def test_subscriptions_of_a_user_are_limited(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_subscriptions, "MAX_SUBSCRIPTIONS", 2)
    roots = [threads.root_id, await threads.root(), await threads.root()]
    for root_id in roots[:2]:
        await threads.service.subscribe(ME, threads.room_id, root_id, None)

    with pytest.raises(TooLarge):
        await threads.service.subscribe(ME, threads.room_id, roots[2], None)
    await threads.service.unsubscribe(ME, threads.room_id, roots[0])
    await threads.service.subscribe(ME, threads.room_id, roots[0], None)
