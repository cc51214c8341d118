"""Message search: matching, visibility, order, pagination, groups and context."""

import base64
from contextlib import suppress
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hs.core.errors import InvalidParam, MatrixError
from hs.core.events import event_types
from hs.core.ids import EventID
from hs.core.requester import Requester
from hs.core.streams import BACKFILL
from hs.repl.feed import Batch
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.store.stored_event import EventStatus
from hs.services.search.search_request import MessageSearchRequest, SearchContextRequest
from hs.settings.sections.rooms import RoomSettings
from hs.storage.database import Database, Tx
from tests.support.composition import SETTINGS
from tests.support.reading import readers_of
from tests.support.rooms import ALICE, BOB, CAROL, open_world
from tests.support.searching import Searching, events_of, open_searching, plain

WAIT_S = 30.0


async def send_messages(
    searching: Searching, room_id: Any, sender: Any, *bodies: str
) -> list[EventID]:
    event_ids = []
    for body in bodies:
        searching.world.clock.advance(1)
        event_ids.append((await searching.world.send(room_id, sender, body)).event_id)
    return event_ids


@pytest.mark.parametrize(
    ("text", "term", "is_found"),
    [
        ("The Quick brown fox", "quick", True),
        ("the quick brown fox", "fox QUICK", True),
        ("the quick brown fox", "quick cat", False),
        ("the quick brown fox", '"quick brown"', True),
        ("the quick brown fox", '"brown quick"', False),
        ("the quick brown fox", "quick -cat", True),
        ("the quick brown fox", "quick -brown", False),
        ("two boxes, three parties", "party", True),
        ("un café crème", "cafe", True),
        ("don't: it's a 'trap' \\ & | ! ( ) <-> :*", "trap", True),
        ("anything", "' & | ! \\ : * ( ) NOT AND OR", False),
        ("今日は天気がいいですね", "天気", True),
        ("今日は天気がいいですね", "気天", False),
        ("ИЗВЕСТИЯ и Труд", "труд", True),
        ("foo-bar_baz", "bar", True),
        ("nothing of it", "   ", False),
    ],
)
async def test_words_match(database: Database, text: str, term: str, is_found: bool) -> None:
    async with open_searching(database) as searching:
        room_id = await searching.world.create_room(ALICE)
        (event_id,) = await send_messages(searching, room_id, ALICE, text)

        result_ids = await searching.finds(ALICE, term)

        assert result_ids == ([event_id] if is_found else [])


async def test_names_and_topics_are_searched_by_key(database: Database) -> None:
    async with open_searching(database) as searching:
        room_id = await searching.world.create_room(ALICE)
        set_state = searching.world.set_state
        name = await set_state(room_id, ALICE, "m.room.name", {"name": "Garden"})
        topic = await set_state(room_id, ALICE, "m.room.topic", {"topic": "our garden"})
        (message,) = await send_messages(searching, room_id, ALICE, "garden")

        async def search_by(*keys: str) -> set[str]:
            return set(await searching.finds(ALICE, "garden", keys=keys))

        assert await search_by("content.name") == {name.event_id}
        assert await search_by("content.topic") == {topic.event_id}
        assert await search_by("content.body") == {message}
        assert await search_by("content.other") == set()
        assert set(await searching.finds(ALICE, "garden")) == {
            name.event_id, topic.event_id, message,
        }  # fmt: skip


async def test_topic_is_found_by_its_plain_text_in_either_form(database: Database) -> None:
    async with open_searching(database) as searching:
        html = {"mimetype": "text/html", "body": "<b>roses</b> <i>marked</i>"}
        content = {"topic": "our garden", "m.topic": {"m.text": [html, {"body": "our roses"}]}}
        room_id = await searching.world.create_room(ALICE)
        topic = await searching.world.set_state(room_id, ALICE, "m.room.topic", content)
        invalid_topics: list[Any] = [
            [],
            {"m.text": "roses"},
            {"m.text": [{}, 3, {"body": ["roses"]}]},
        ]
        for invalid_topic in invalid_topics:
            content_with_invalid_topic = {"topic": "none", "m.topic": invalid_topic}
            await searching.world.set_state(
                room_id, ALICE, "m.room.topic", content_with_invalid_topic
            )

        assert await searching.finds(ALICE, "garden", keys=["content.topic"]) == [topic.event_id]
        assert await searching.finds(ALICE, "roses", keys=["content.topic"]) == [topic.event_id]
        assert await searching.finds(ALICE, "marked") == []


async def test_encrypted_rooms_are_not_searched(database: Database) -> None:
    async with open_searching(database) as searching:
        world = searching.world
        algorithm = {"algorithm": "m.megolm.v1.aes-sha2"}
        encryption = Draft(event_types.ENCRYPTION, ALICE, algorithm, state_key="")
        encrypted_room = await world.create_room(ALICE, state=[encryption])
        await send_messages(searching, encrypted_room, ALICE, "plan by mistake")
        later_encrypted_room = await world.create_room(ALICE)
        await send_messages(searching, later_encrypted_room, ALICE, "plan before")
        plain_room = await world.create_room(ALICE)
        (event_id,) = await send_messages(searching, plain_room, ALICE, "plan for all")
        await world.append(plain_room, Draft(event_types.ENCRYPTION, ALICE, algorithm, "other"))
        assert len(await searching.finds(ALICE, "plan")) == 2

        await world.append(later_encrypted_room, encryption)
        await world.set_state(later_encrypted_room, ALICE, "m.room.name", {"name": "plan"})

        assert await searching.finds(ALICE, "plan") == [event_id]
        indexed_rooms = await database.read(_indexed_rooms)
        assert set(indexed_rooms) == {plain_room}


async def _indexed_rooms(tx: Tx) -> list[str]:
    rows = await tx.fetch(
        "SELECT e.room_id FROM search_entries s JOIN events e ON e.stream_id = s.stream_id"
    )
    return [row[0] for row in rows]


async def test_only_current_and_former_rooms_are_searched(database: Database) -> None:
    async with open_searching(database) as searching:
        world = searching.world
        room_id = await world.create_room(ALICE, join=[BOB])
        (before_leave,) = await send_messages(searching, room_id, ALICE, "secret plan")
        await world.leave(room_id, BOB)
        (after_leave,) = await send_messages(searching, room_id, ALICE, "secret change of the plan")

        assert set(await searching.finds(ALICE, "plan")) == {before_leave, after_leave}
        assert await searching.finds(BOB, "plan") == [before_leave]
        assert await searching.finds(CAROL, "plan") == []


async def test_events_before_the_join_are_not_found_if_not_visible(database: Database) -> None:
    async with open_searching(database) as searching:
        closed = Draft(
            "m.room.history_visibility", ALICE, {"history_visibility": "joined"}, state_key=""
        )
        room_id = await searching.world.create_room(ALICE, state=[closed])
        await send_messages(searching, room_id, ALICE, "plan one")
        await searching.world.join(room_id, BOB)
        (later,) = await send_messages(searching, room_id, ALICE, "plan two")

        assert await searching.finds(BOB, "plan") == [later]


async def test_redacted_and_encrypted_events_and_ignored_users_are_not_found(
    database: Database,
) -> None:
    async with open_searching(database) as searching:
        world = searching.world
        room_id = await world.create_room(ALICE, join=[BOB])
        redacted, visible = await send_messages(searching, room_id, ALICE, "plan one", "plan two")
        (from_bob,) = await send_messages(searching, room_id, BOB, "plan three")
        encrypted_content = {
            "algorithm": "m.megolm.v1.aes-sha2",
            "body": "plan",
            "ciphertext": "plan",
        }
        await world.append(room_id, Draft("m.room.encrypted", ALICE, encrypted_content))
        assert set(await searching.finds(ALICE, "plan")) == {redacted, visible, from_bob}

        await world.redact(room_id, ALICE, redacted)

        assert set(await searching.finds(ALICE, "plan")) == {visible, from_bob}
        await readers_of(world).ignore(ALICE, BOB)
        assert await searching.finds(ALICE, "plan") == [visible]


async def test_filter_is_applied(database: Database) -> None:
    async with open_searching(database) as searching:
        world = searching.world
        first_room = await world.create_room(ALICE, join=[BOB])
        second_room = await world.create_room(ALICE, join=[BOB])
        (from_alice,) = await send_messages(searching, first_room, ALICE, "plan")
        (from_bob,) = await send_messages(searching, first_room, BOB, "plan")
        (from_second_room,) = await send_messages(searching, second_room, ALICE, "plan")
        link = {"msgtype": "m.image", "body": "plan", "url": "mxc://x/y"}
        (image,) = await world.append(first_room, Draft("m.room.message", BOB, link))

        async def filter_by(**filter: Any) -> set[str]:
            return set(await searching.finds(ALICE, "plan", filter=filter))

        assert await filter_by(rooms=[first_room]) == {from_alice, from_bob, image.event_id}
        assert await filter_by(not_rooms=[first_room]) == {from_second_room}
        assert await filter_by(senders=[BOB]) == {from_bob, image.event_id}
        assert await filter_by(not_senders=[BOB]) == {from_alice, from_second_room}
        assert await filter_by(types=["m.room.topic"]) == set()
        assert await filter_by(contains_url=True) == {image.event_id}
        assert await filter_by(contains_url=False, rooms=[first_room]) == {from_alice, from_bob}
        assert await filter_by(rooms=["!else:test.example"]) == set()
        assert len(await filter_by(limit=1)) == 1


@pytest.mark.parametrize("order", ["rank", "recent"])
async def test_pagination_returns_all_results_once(database: Database, order: Any) -> None:
    async with open_searching(database) as searching:
        first_room = await searching.world.create_room(ALICE, join=[BOB])
        second_room = await searching.world.create_room(ALICE)
        sent = []
        for number in range(12):
            body = "plan " * (number % 3 + 1) + "word " * (number % 5)
            room_id, sender = (first_room, BOB) if number % 4 == 1 else (second_room, ALICE)
            sent += await send_messages(searching, room_id, sender, body)
        pages: list[list[str]] = []
        scores: list[float] = []
        counts: set[int] = set()
        token = None
        while token is not None or not pages:
            answer = await searching.search(
                ALICE, "plan", {"limit": 5}, order=order, next_batch=token
            )
            pages.append([event["event_id"] for event in events_of(answer)])
            scores += [result["rank"] for result in answer["results"]]
            counts.add(answer["count"])
            token = answer.get("next_batch")

        result_ids = [event_id for page in pages for event_id in page]

        assert sorted(result_ids) == sorted(sent)
        assert counts == {12}
        if order == "recent":
            assert result_ids == sent[::-1]
        else:
            assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("order", ["rank", "recent"])
@pytest.mark.parametrize("key", ["room_id", "sender"])
async def test_each_group_has_its_own_pagination(database: Database, order: Any, key: Any) -> None:
    async with open_searching(database) as searching:
        first_room = await searching.world.create_room(ALICE, join=[BOB])
        second_room = await searching.world.create_room(ALICE)
        groups: dict[str, list[str]] = {}
        for number in range(10):
            room_id, sender = (first_room, BOB) if number % 2 else (second_room, ALICE)
            (event_id,) = await send_messages(
                searching, room_id, sender, f"plan {'x ' * (number % 4)}"
            )
            groups.setdefault(room_id if key == "room_id" else sender, []).append(event_id)
        first = await searching.search(ALICE, "plan", {"limit": 4}, order=order, groups=[key])

        for value, group in first["groups"][key].items():
            result_ids, token = list(group["results"]), group["next_batch"]
            while token is not None:
                page = await searching.search(
                    ALICE, "plan", {"limit": 2}, order=order, groups=[key], next_batch=token
                )
                result_ids += [event["event_id"] for event in events_of(page)]
                assert set(page["groups"][key]) <= {value}
                token = page.get("next_batch")
            assert sorted(result_ids) == sorted(groups[value])
            # Spec: an integer, by which groups can be ordered.
            assert type(group["order"]) is int
        assert set(first["groups"][key]) <= set(groups)


async def test_results_contain_context_profiles_and_state(database: Database) -> None:
    async with open_searching(database) as searching:
        world = searching.world
        room_id = await world.create_room(ALICE)
        content = {"membership": "join", "displayname": "Bob the Builder"}
        await world.append(room_id, Draft(event_types.MEMBER, BOB, content, BOB))
        sent = await send_messages(
            searching, room_id, BOB, "one", "two", "the plan", "three", "four"
        )

        answer = await searching.search(
            ALICE, "plan", context=SearchContextRequest(1, 1, True), include_state=True
        )

        (result,) = answer["results"]
        context = plain(result["context"])
        assert [event["event_id"] for event in context["events_before"]] == [sent[1]]
        assert [event["event_id"] for event in context["events_after"]] == [sent[3]]
        assert context["start"]
        assert context["end"]
        assert context["profile_info"] == {BOB: {"displayname": "Bob the Builder"}}
        state = plain(answer["state"][room_id])
        assert {"m.room.create", "m.room.member"} <= {event["type"] for event in state}
        assert answer["highlights"] == ["plan"]


async def test_predecessors_of_a_room_are_searched(database: Database) -> None:
    async with open_searching(database) as searching:
        world = searching.world
        old_room = await world.create_room(ALICE)
        (from_old_room,) = await send_messages(searching, old_room, ALICE, "plan")
        predecessor = {"predecessor": {"room_id": old_room, "event_id": from_old_room}}
        drafts = [
            Draft(event_types.CREATE, ALICE, predecessor, ""),
            Draft(event_types.MEMBER, ALICE, {"membership": "join"}, ALICE),
        ]
        new_room = (await world.appender.create("11", drafts))[0].room_id
        (from_new_room,) = await send_messages(searching, new_room, ALICE, "plan")

        assert set(await searching.finds(ALICE, "plan", filter={"rooms": [new_room]})) == {
            from_old_room,
            from_new_room,
        }
        assert await searching.finds(ALICE, "plan", filter={"rooms": [old_room]}) == [from_old_room]


async def test_events_that_arrive_during_indexing_are_indexed_next(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_searching(database) as searching, trio.open_nursery() as nursery:
        world, indexer = searching.world, searching.indexer
        progress = world.process.services.search.progress
        room_id = await world.create_room(ALICE)
        put, to_send, all_sent = indexer._put, ["second", "third"], trio.Event()

        async def put_while_sending(*batch: Any) -> None:
            if to_send:
                await world.send(room_id, ALICE, to_send.pop(0))
            else:
                all_sent.set()
            await put(*batch)

        nursery.start_soon(indexer.run)
        await wait_all_tasks_blocked(0.1)
        monkeypatch.setattr(indexer, "_put", put_while_sending)
        world.feed.deliver(Batch(BACKFILL, "main", 0, 1, [], reset=True))
        await world.send(room_id, ALICE, "first")

        with trio.fail_after(WAIT_S):
            await all_sent.wait()
        assert await progress.wait_current(WAIT_S)
        nursery.cancel_scope.cancel()


async def make_backfilled(tx: Tx, event_id: EventID, stream_id: int, status: int) -> None:
    """Turn an event into a backfilled one."""
    statement = "UPDATE events SET stream_id = $2, status = $3 WHERE event_id = $1"
    await tx.execute(statement, event_id, stream_id, status)


async def test_backfilled_event_that_a_slow_writer_commits_late_is_found(
    database: Database,
) -> None:
    async with open_searching(database) as searching:
        world, feed = searching.world, searching.world.feed
        room_id = await world.create_room(ALICE)
        slow = (await world.send(room_id, ALICE, "plan of the slow writer")).event_id
        quick = (await world.send(room_id, ALICE, "plan of the quick one")).event_id
        # The slow writer has a lower position and commits later.
        feed.start_at(BACKFILL, "slow", 0)
        await database.write(make_backfilled, slow, -1, EventStatus.OUTLIER)
        await database.write(make_backfilled, quick, -2, EventStatus.ACCEPTED)
        feed.start_at(BACKFILL, "main", 2)
        world.events.forget(quick)
        world.events.forget(slow)
        assert await searching.finds(ALICE, "plan") == [quick]

        await database.write(make_backfilled, slow, -1, EventStatus.ACCEPTED)
        feed.start_at(BACKFILL, "slow", 1)
        world.events.forget(slow)

        assert set(await searching.finds(ALICE, "plan")) == {slow, quick}


async def test_events_stored_before_indexing_are_found_after_a_restart(
    database: Database,
) -> None:
    async with open_world(database) as world:
        room_id = await world.create_room(ALICE)
        sent = await world.send(room_id, ALICE, "plan")
        redacted = await world.send(room_id, ALICE, "other plan")
        await world.redact(room_id, ALICE, redacted.event_id)
    async with open_searching(database) as searching:
        assert await searching.finds(ALICE, "plan") == [sent.event_id]


async def test_invalid_tokens_are_rejected(database: Database) -> None:
    async with open_searching(database) as searching:
        room_id = await searching.world.create_room(ALICE)
        await send_messages(searching, room_id, ALICE, "plan")
        for token in ("", "x", "!!", "W10", "WyJyZWNlbnQiLDEuMCwxXQ", "ÿ"):
            with pytest.raises(InvalidParam):
                await searching.search(ALICE, "plan", next_batch=token)


@pytest.mark.parametrize("value", [1e308, -1e308, 1e-300, 0.0])
@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 0])
@pytest.mark.parametrize("order", ["rank", "recent"])
async def test_forged_tokens_are_harmless(
    database: Database, order: Any, value: float, number: int
) -> None:
    async with open_searching(database) as searching:
        room_id = await searching.world.create_room(ALICE)
        await send_messages(searching, room_id, ALICE, "plan")
        fields = f'["{order}",{value},{number}]'
        token = base64.urlsafe_b64encode(fields.encode()).decode()

        with suppress(InvalidParam):
            answer = await searching.search(ALICE, "plan", order=order, next_batch=token)
            assert len(answer["results"]) in (0, 1)


async def test_search_can_be_disabled(database: Database) -> None:
    settings = attrs.evolve(SETTINGS, rooms=RoomSettings(enable_search=False))
    async with open_world(database, settings) as world:
        search = world.process.services.search
        with pytest.raises(MatrixError) as error:
            await search.messages.search(Requester(ALICE), MessageSearchRequest("plan"))

        assert search.indexer is None

        assert (error.value.status, error.value.errcode) == (400, "M_UNKNOWN")


async def test_count_does_not_reveal_invisible_events(database: Database) -> None:
    async with open_searching(database) as searching:
        world = searching.world
        room_id = await world.create_room(ALICE, join=[BOB])
        await send_messages(searching, room_id, BOB, "plan one", "plan two")
        await world.set_membership(room_id, ALICE, BOB, "ban")
        await send_messages(searching, room_id, ALICE, "plan three", "plan four", "merger")
        closed = Draft(
            "m.room.history_visibility", ALICE, {"history_visibility": "joined"}, state_key=""
        )
        other_room = await world.create_room(ALICE, state=[closed])
        await send_messages(searching, other_room, ALICE, "merger plan")
        await world.join(other_room, BOB)

        merger = await searching.search(BOB, "merger")
        unlimited = await searching.search(BOB, "plan")
        page = await searching.search(BOB, "plan", {"limit": 1})
        next_page = await searching.search(BOB, "plan", {"limit": 1}, next_batch=page["next_batch"])

        assert (merger["count"], unlimited["count"]) == (0, 2)
        assert (page["count"], next_page["count"]) == (1, 1)
        assert (await searching.search(ALICE, "plan", {"limit": 1}))["count"] == 4
