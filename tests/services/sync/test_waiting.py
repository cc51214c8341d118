"""Long polls: which changes wake them, which do not, and how they end."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hs.core.errors import BadJson, InvalidParam, NotFound
from hs.services.rooms.append.drafts import Draft
from hs.storage import stream_log
from hs.storage.database import Database
from tests.support.composition import Neighbourhood
from tests.support.rooms import ALICE, BOB, CAROL, message
from tests.support.syncing import Syncing, bodies, main_and_reader, mention, news, open_syncing

LONG_MS = 60_000


class Poll:
    """A running long poll."""

    def __init__(self) -> None:
        self.answer: dict[str, Any] | None = None
        self.done = trio.Event()

    async def run(self, request: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        self.answer = await request()
        self.done.set()

    async def result(self) -> dict[str, Any]:
        with trio.fail_after(60):
            await self.done.wait()
        assert self.answer is not None
        return self.answer


async def polling(s: Syncing, nursery: trio.Nursery, since: str, **more: Any) -> Poll:
    poll = Poll()
    nursery.start_soon(poll.run, lambda: s.sync(ALICE, since, timeout_ms=LONG_MS, **more))
    with trio.fail_after(60):
        while not poll.done.is_set() and not _is_waiting(s):  # noqa: ASYNC110 - no event
            await trio.sleep(0.001)
    return poll


def _is_waiting(s: Syncing) -> bool:
    return any(watch.waiting for watch in s.notifier._has_watch.values())


async def test_message_wakes_members_only(database: Database) -> None:
    async with open_syncing(database) as s, trio.open_nursery() as nursery:
        room_id = await s.world.create_room(ALICE)
        elsewhere = await s.world.create_room(BOB)
        since = (await s.sync(ALICE))["next_batch"]
        poll = await polling(s, nursery, since)

        await s.world.send(elsewhere, BOB)
        await trio.lowlevel.checkpoint()
        assert poll.answer is None
        await s.world.send(room_id, ALICE, "wake up")

        assert bodies((await poll.result())["rooms"]["join"][room_id]) == ["wake up"]


async def test_invite_and_join_wake_a_user_without_rooms(database: Database) -> None:
    async with open_syncing(database) as s, trio.open_nursery() as nursery:
        poll = await polling(s, nursery, (await s.sync(ALICE))["next_batch"])

        room_id = await s.world.create_room(BOB, invite=[ALICE])

        answer = await poll.result()
        assert list(answer["rooms"]["invite"]) == [room_id]
        poll = await polling(s, nursery, answer["next_batch"])
        await s.world.join(room_id, ALICE)
        answer = await poll.result()
        poll = await polling(s, nursery, answer["next_batch"])
        await s.world.send(room_id, BOB, "in")
        assert bodies((await poll.result())["rooms"]["join"][room_id]) == ["in"]


async def test_receipts_typing_account_data_push_rules_and_presence_wake(
    database: Database,
) -> None:
    async with open_syncing(database) as s, trio.open_nursery() as nursery:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        sent = await s.world.send(room_id, BOB)
        await s.sync(BOB, set_presence="offline")
        since = (await s.sync(ALICE))["next_batch"]

        poll = await polling(s, nursery, since)
        await s.read_up_to(room_id, BOB, sent.event_id)
        answer = await poll.result()
        (receipt,) = answer["rooms"]["join"][room_id]["ephemeral"]["events"]
        assert receipt["type"] == "m.receipt"
        assert BOB in receipt["content"][sent.event_id]["m.read"]

        poll = await polling(s, nursery, answer["next_batch"])
        await s.set_typing(room_id, BOB)
        answer = await poll.result()
        (typing,) = answer["rooms"]["join"][room_id]["ephemeral"]["events"]
        assert typing == {"type": "m.typing", "content": {"user_ids": [BOB]}}

        poll = await polling(s, nursery, answer["next_batch"])
        await s.set_typing(room_id)
        answer = await poll.result()
        (typing,) = answer["rooms"]["join"][room_id]["ephemeral"]["events"]
        assert typing["content"] == {"user_ids": []}

        poll = await polling(s, nursery, answer["next_batch"])
        await s.set_account_data(ALICE, "m.tag", {"tags": {}}, room_id)
        answer = await poll.result()
        assert answer["rooms"]["join"][room_id]["account_data"]["events"] == [
            {"type": "m.tag", "content": {"tags": {}}}
        ]

        poll = await polling(s, nursery, answer["next_batch"])
        await s.set_account_data(ALICE, "x", {"a": 1})
        answer = await poll.result()
        assert answer["account_data"]["events"] == [{"type": "x", "content": {"a": 1}}]

        poll = await polling(s, nursery, answer["next_batch"])
        await s.change_rules(ALICE)
        answer = await poll.result()
        assert [event["type"] for event in answer["account_data"]["events"]] == ["m.push_rules"]

        poll = await polling(s, nursery, answer["next_batch"])
        await s.set_presence(BOB, "online")
        answer = await poll.result()
        assert [event["sender"] for event in answer["presence"]["events"]] == [BOB]
        assert set(news(answer)) == {"presence"}


async def test_presence_of_a_user_who_syncs_elsewhere_wakes_users_who_share_a_room(
    database: Database,
) -> None:
    async with open_syncing(database) as s, trio.open_nursery() as nursery:
        await s.world.create_room(ALICE, join=[BOB])
        poll = await polling(s, nursery, (await s.sync(ALICE))["next_batch"])

        await s.set_presence(BOB, "online")
        await s.services.sync.remote_presence.wake()

        answer = await poll.result()
        assert [event["sender"] for event in answer["presence"]["events"]] == [BOB]


async def test_end_of_typing_after_a_restart_is_sent(database: Database) -> None:
    neighbours, (main, reader) = Neighbourhood(), main_and_reader()
    async with open_syncing(database, main, neighbours=neighbours) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        async with open_syncing(database, reader, neighbours=neighbours) as first:
            await s.set_typing(room_id, BOB)
            since = (await first.sync(ALICE))["next_batch"]
        await s.set_typing(await s.world.create_room(BOB), BOB)
        async with open_syncing(database, reader, neighbours=neighbours) as restarted:
            await s.set_typing(room_id)
            answer = await restarted.sync(ALICE, since)

        [typing] = answer["rooms"]["join"][room_id]["ephemeral"]["events"]
        assert typing == {"type": "m.typing", "content": {"user_ids": []}}


async def test_process_that_starts_sends_the_end_of_typing_in_the_meantime(
    database: Database,
) -> None:
    neighbours, (main, reader) = Neighbourhood(), main_and_reader()
    async with open_syncing(database, main, neighbours=neighbours) as s:
        room_id, other = [await s.world.create_room(ALICE, join=[BOB]) for _ in range(2)]
        await s.set_typing(other, BOB)
        await s.set_typing(other)
        await s.set_typing(room_id, BOB)
        since = (await s.sync(ALICE))["next_batch"]
        await s.set_typing(room_id)

        # The writer remembers the last change of each room in this epoch.
        async with open_syncing(database, reader, neighbours=neighbours) as started:
            answer = await started.sync(ALICE, since)

        assert list(answer["rooms"]["join"]) == [room_id]
        [typing] = answer["rooms"]["join"][room_id]["ephemeral"]["events"]
        assert typing == {"type": "m.typing", "content": {"user_ids": []}}


async def test_private_data_of_other_users_does_not_wake(database: Database) -> None:
    async with open_syncing(database) as s, trio.open_nursery() as nursery:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        sent = await s.world.send(room_id, BOB)
        since = (await s.sync(ALICE))["next_batch"]
        poll = await polling(s, nursery, since)

        await s.read_up_to(room_id, BOB, sent.event_id, "m.read.private")
        await s.set_account_data(BOB, "x", {})
        await s.change_rules(BOB)
        for _ in range(5):
            await trio.lowlevel.checkpoint()

        assert poll.answer is None
        await s.read_up_to(room_id, ALICE, sent.event_id, "m.read.private")
        read_ms = s.world.clock.now_ms()
        (event,) = (await poll.result())["rooms"]["join"][room_id]["ephemeral"]["events"]
        assert event["content"] == {sent.event_id: {"m.read.private": {ALICE: {"ts": read_ms}}}}


async def test_changes_that_the_filter_excludes_do_not_end_a_long_poll(database: Database) -> None:
    async with open_syncing(database) as s, trio.open_nursery() as nursery:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        narrow = {
            "presence": {"types": []},
            "account_data": {"not_types": ["x"]},
            "room": {
                "ephemeral": {"types": []},
                "account_data": {"types": []},
                "timeline": {"not_senders": [BOB]},
            },
        }
        since = (await s.sync(ALICE))["next_batch"]
        poll = await polling(s, nursery, since, filter=narrow)

        sent = await s.world.send(room_id, BOB)
        await s.read_up_to(room_id, BOB, sent.event_id)
        await s.set_typing(room_id, BOB)
        await s.set_presence(BOB, "online")
        await s.set_account_data(ALICE, "x", {})
        for _ in range(20):
            await trio.lowlevel.checkpoint()

        assert poll.answer is None
        await s.world.send(room_id, ALICE, "mine")
        assert bodies((await poll.result())["rooms"]["join"][room_id]) == ["mine"]


async def test_long_poll_ends_at_its_timeout_with_a_later_token(database: Database) -> None:
    async with open_syncing(database) as s:
        await s.world.create_room(ALICE)
        since = (await s.sync(ALICE))["next_batch"]
        await s.world.create_room(BOB)

        answer = await s.sync(ALICE, since, timeout_ms=20)

        assert news(answer) == {}
        assert answer["next_batch"] != since


async def test_long_polls_end_with_their_own_token_when_the_process_leaves(
    database: Database,
) -> None:
    async with open_syncing(database) as s, trio.open_nursery() as nursery:
        await s.world.create_room(ALICE)
        since = (await s.sync(ALICE))["next_batch"]
        started = trio.Event()
        nursery.start_soon(s.notifier.leave_on, started)
        poll = await polling(s, nursery, since)

        started.set()

        assert await poll.result() == {"next_batch": since}
        assert await s.sync(ALICE, since, timeout_ms=LONG_MS) == {"next_batch": since}


async def test_cancelled_long_poll_releases_its_watch(database: Database) -> None:
    async with open_syncing(database) as s:
        await s.world.create_room(ALICE)
        since = (await s.sync(ALICE))["next_batch"]
        async with trio.open_nursery() as nursery:
            await polling(s, nursery, since)
            nursery.cancel_scope.cancel()

        (watch,) = s.notifier._has_watch.values()
        assert (watch.uses, watch.waiting) == (0, [])


async def test_first_sync_has_account_data_presence_and_ephemeral_events(
    database: Database,
) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        sent = await s.world.send(room_id, BOB)
        await s.world.append(room_id, message(BOB), mention(BOB, ALICE))
        await s.set_account_data(ALICE, "x", {"a": 1})
        await s.set_account_data(ALICE, "m.tag", {"tags": {"u.x": {}}}, room_id)
        await s.set_account_data(BOB, "y", {})
        await s.read_up_to(room_id, BOB, sent.event_id)
        await s.set_typing(room_id, BOB)
        await s.set_presence(BOB, "online")

        answer = await s.sync(ALICE, set_presence="unavailable")

        assert [event["type"] for event in answer["account_data"]["events"]] == [
            "x",
            "m.push_rules",
        ]
        assert [event["sender"] for event in answer["presence"]["events"]] == [BOB, ALICE]
        room = answer["rooms"]["join"][room_id]
        assert [event["type"] for event in room["ephemeral"]["events"]] == ["m.receipt", "m.typing"]
        assert [event["type"] for event in room["account_data"]["events"]] == ["m.tag"]
        assert room["unread_notifications"] == {"notification_count": 3, "highlight_count": 1}
        assert await s.presence_of(ALICE) == "unavailable"
        assert "rooms" not in await s.sync(ALICE, answer["next_batch"])


async def test_newly_joined_room_has_receipts_account_data_and_presence(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(BOB)
        sent = await s.world.send(room_id, BOB)
        await s.read_up_to(room_id, BOB, sent.event_id)
        await s.set_presence(BOB, "online")
        await s.set_account_data(ALICE, "m.tag", {"tags": {}}, room_id)
        since = (await s.sync(ALICE))["next_batch"]
        await s.world.join(room_id, ALICE)

        answer = await s.sync(ALICE, since)

        room = answer["rooms"]["join"][room_id]
        assert [event["type"] for event in room["ephemeral"]["events"]] == ["m.receipt"]
        assert [event["type"] for event in room["account_data"]["events"]] == ["m.tag"]
        assert [event["sender"] for event in answer["presence"]["events"]] == [BOB]
        await s.set_presence(CAROL, "online")
        later = (await s.sync(ALICE, answer["next_batch"]))["next_batch"]
        await s.world.join(room_id, CAROL)
        answer = await s.sync(ALICE, later)
        assert [event["sender"] for event in answer["presence"]["events"]] == [CAROL]


@pytest.mark.parametrize(
    "flag", ["unread_thread_notifications", "org.matrix.msc3773.unread_thread_notifications"]
)
async def test_threads_are_counted_separately_if_the_filter_says_so(
    database: Database, flag: str
) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE, join=[BOB])
        root_id = (await s.world.send(room_id, ALICE, "root")).event_id
        in_thread = {"m.relates_to": {"rel_type": "m.thread", "event_id": root_id}}
        reply = Draft("m.room.message", BOB, {"body": "reply", **in_thread})
        await s.world.append(room_id, reply, mention(BOB, ALICE, **in_thread))

        total = (await s.sync(ALICE))["rooms"]["join"][room_id]
        separate = await s.sync(ALICE, filter={"room": {"timeline": {flag: True}}})

        assert total["unread_notifications"] == {"notification_count": 2, "highlight_count": 1}
        room = separate["rooms"]["join"][room_id]
        assert room["unread_notifications"] == {"notification_count": 0, "highlight_count": 0}
        assert room["unread_thread_notifications"] == {
            root_id: {"notification_count": 2, "highlight_count": 1}
        }


async def test_stored_filters_are_found_and_malformed_ones_refused(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE)
        filters = s.services.core.accounts.filters
        filter_id = await filters.add(ALICE, {"room": {"timeline": {"limit": 1}}})

        room = (await s.sync(ALICE, filter=filter_id))["rooms"]["join"][room_id]

        assert len(room["timeline"]["events"]) == 1
        with pytest.raises(NotFound):
            await s.sync(ALICE, filter=f"{int(filter_id) + 1}")
        for text in ("{", '{"room":1}', '{"room":{"timeline":{"limit":"x"}}}'):
            with pytest.raises(BadJson):
                await s.sync(ALICE, filter=text)
        with pytest.raises(InvalidParam):
            await s.sync(ALICE, "nonsense")


async def test_event_fields_and_federation_format(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE)
        await s.world.send(room_id, ALICE, "x")
        fields = {"event_fields": ["content.body"], "room": {"timeline": {"limit": 1}}}
        federation = {"event_format": "federation", "room": {"timeline": {"limit": 1}}}

        selected = (await s.sync(ALICE, filter=fields))["rooms"]["join"][room_id]
        pdu = (await s.sync(ALICE, filter=federation))["rooms"]["join"][room_id]

        assert selected["timeline"]["events"] == [{"content": {"body": "x"}}]
        assert "auth_events" in pdu["timeline"]["events"][0]


async def test_equal_first_syncs_are_computed_together_but_never_stale(database: Database) -> None:
    async with open_syncing(database) as s:
        room_id = await s.world.create_room(ALICE)
        answers: list[dict[str, Any]] = []

        async def sync() -> None:
            answers.append(await s.sync(ALICE))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(sync)
        await s.world.send(room_id, ALICE, "new")
        fresh = await s.sync(ALICE)

        assert answers[0] == answers[1] == answers[2]
        assert bodies(fresh["rooms"]["join"][room_id]) == ["new"]


async def test_token_ahead_of_this_process_but_not_of_the_database_is_returned_unchanged(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hs.services.sync.sync_service.CATCH_UP_S", 0.01)
    main, _ = main_and_reader()
    async with open_syncing(database, main, neighbours=Neighbourhood()) as s:
        await s.world.create_room(ALICE)
        await s.sync(ALICE)
        ahead = "s999999_0_.0_.0_0_0_0_0"
        await database.write(stream_log.take_over, "events", "elsewhere", "life")
        await database.write(stream_log.set_position, "events", "elsewhere", "life", 999_999)

        assert await s.sync(ALICE, ahead) == {"next_batch": ahead}
        await wait_all_tasks_blocked()
