"""Clients scroll back past what their server has stored of a room."""

from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from hs.core.events import event_types
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID, ServerName, UserID
from hs.core.requester import Requester
from hs.core.streams import EVENTS
from hs.services.federation.history import backfill
from hs.services.federation_client.peer_transport import PeerRequest, PeerResponse
from hs.services.rooms.append.drafts import Draft
from hs.services.rooms.read.timelines import MessagesRequest
from hs.services.rooms.receive.event_receiver import PduOutcome
from hs.storage.database import Database
from hs.storage.rooms import events
from tests.services.federation.shared_rooms import build_remotely, join_through, pass_on, receive
from tests.support.composition import SETTINGS, ComposedProcess, Neighbourhood, worker_settings
from tests.support.federation import (
    FederatedServer,
    PeerNetwork,
    ScriptedPeer,
    open_server,
    open_servers,
)
from tests.support.peers import ADMIN, BERT, TEST_SERVER, History
from tests.support.rooms import member, message
from tests.support.sql.databases import fresh_inline
from tests.support.syncing import Syncing, bodies

NEAR, FAR, THIRD = (ServerName(f"{name}.example") for name in ("near", "far", "third"))
ANN, BEA, CAT = (
    UserID("@ann:far.example"),
    UserID("@bea:near.example"),
    UserID("@cat:third.example"),
)
DAN = UserID("@dan:near.example")


def loads(fragment: Any) -> Any:
    """Return the content of a rendered fragment."""
    return orjson.loads(orjson.dumps(fragment))


async def scroll(
    process: ComposedProcess, room_id: RoomID, limit: int = 30, user_id: UserID = BEA
) -> list[Any]:
    """Read a room from its end to its beginning; return the events."""
    timelines = process.services.reading.timelines
    found: list[Any] = []
    start = None
    for _ in range(100):
        request = MessagesRequest(room_id, "b", start, limit=limit)
        page = await timelines.messages(Requester(user_id, "DEVICE"), request)
        if page.end is None:
            return found
        found.extend(loads(page.chunk))
        start = page.end
    raise AssertionError("the history does not end")


def texts(timeline: Sequence[Any]) -> list[str | None]:
    """Return the texts of all messages."""
    return [
        event["content"].get("body") for event in timeline if event["type"] == event_types.MESSAGE
    ]


def numbers(last: int, first: int = 0) -> list[str]:
    """Return the texts of numbered messages, the latest first."""
    return [str(number) for number in reversed(range(first, last))]


async def say(server: FederatedServer, room_id: RoomID, user_id: UserID, *said: str) -> None:
    """Send messages."""
    for body in said:
        await server.world.send(room_id, user_id, body)


def asked(server: FederatedServer, path: str = "/backfill/") -> int:
    """Return how often a server was asked for history."""
    return sum(path in uri for uri in server.network.uris(server.name))


async def test_history_before_the_join_is_read_in_order(database: Database) -> None:
    network = PeerNetwork()
    async with (
        open_servers(FAR, network=network) as (far,),
        open_server(NEAR, network, database) as near,
    ):
        room_id = await far.world.create_room(ANN)
        await say(far, room_id, ANN, *map(str, range(500)))
        await join_through(far, near, room_id, BEA)
        before = near.process.base.feed.position(EVENTS)

        timeline = await scroll(near.process, room_id)
        requests = asked(far)
        again = await scroll(near.process, room_id, limit=100)

        assert near.process.base.feed.position(EVENTS) == before
        assert asked(far) == requests == 6

    assert texts(timeline) == numbers(500)
    assert timeline[-1]["type"] == event_types.CREATE
    assert [event["event_id"] for event in again] == [event["event_id"] for event in timeline]


async def test_backfilled_events_are_not_new_to_sync() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN)
        for name in ("first", "second"):
            await far.world.set_state(room_id, ANN, event_types.NAME, {"name": name})
        await say(far, room_id, ANN, "a", "b", "c")
        await join_through(far, near, room_id, BEA)
        syncing = Syncing(near.world)
        first = await syncing.sync(BEA)

        await scroll(near.process, room_id)
        later = await syncing.sync(BEA, first["next_batch"])
        other_device = await syncing.sync(BEA, device_id="OTHER")

    assert "rooms" not in later
    timeline = other_device["rooms"]["join"][room_id]["timeline"]
    assert [event["sender"] for event in timeline["events"]] == [BEA]
    assert timeline["limited"]
    assert bodies(first["rooms"]["join"][room_id]) == []
    state = other_device["rooms"]["join"][room_id]["state"]["events"]
    assert {"name": "second"} in [event["content"] for event in state]
    assert {"name": "first"} not in [event["content"] for event in state]


@pytest.mark.parametrize("version", ["1", "6", "12"])
async def test_history_of_every_kind_of_room_version_is_read(version: str) -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN, version=version)
        await say(far, room_id, ANN, "a", "b", "c")
        await join_through(far, near, room_id, BEA)

        timeline = await scroll(near.process, room_id)

    assert texts(timeline) == ["c", "b", "a"]
    assert timeline[-1]["type"] == event_types.CREATE


async def test_history_between_leaving_and_joining_again_is_read() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN)
        await say(far, room_id, ANN, *map(str, range(10)))
        await join_through(far, near, room_id, BEA)
        left = await near.world.leave(room_id, BEA)
        await pass_on(near, far, room_id, left.event_id)
        await say(far, room_id, ANN, *map(str, range(10, 200)))
        await join_through(far, near, room_id, BEA)

        timeline = await scroll(near.process, room_id)

    assert texts(timeline) == numbers(200)


async def test_another_server_is_asked_if_the_first_is_down() -> None:
    async with open_servers(NEAR, FAR, THIRD) as (near, far, third):
        room_id = await far.world.create_room(ANN, join=(UserID("@ben:far.example"),))
        joined = await join_through(far, third, room_id, CAT)
        said = [await far.world.send(room_id, ANN, text) for text in "abc"]
        join = await join_through(far, near, room_id, BEA)
        await pass_on(far, third, room_id, *(each.event_id for each in said), join.event_id)
        near.network.down.add(FAR)

        timeline = await scroll(near.process, room_id)

        assert asked(third) > 0
        assert joined.event_id in [event["event_id"] for event in timeline]
    assert texts(timeline) == ["c", "b", "a"]


async def test_gap_that_nobody_fills_is_asked_for_less_and_less() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN)
        await say(far, room_id, ANN, "a")
        await join_through(far, near, room_id, BEA)
        answer, clock = near.network.answers[FAR], near.world.clock

        async def answer_nothing(_: PeerRequest) -> PeerResponse:
            return PeerResponse(200, {}, b'{"pdus": []}')

        near.network.answers[FAR] = answer_nothing
        counts = []
        for pause_s in (0, 0, backfill.RETRY_S + 1, backfill.RETRY_S + 1, backfill.RETRY_S + 1):
            clock.advance(pause_s * 1000)
            assert texts(await scroll(near.process, room_id)) == []
            counts.append(asked(far))
        near.network.answers[FAR] = answer
        clock.advance(backfill.MAX_RETRY_S * 1000)

        assert texts(await scroll(near.process, room_id)) == ["a"]
    assert counts == [1, 1, 2, 2, 3]


@pytest.mark.parametrize("status", [None, 503])
async def test_gap_is_asked_for_again_soon_if_a_server_was_away(status: int | None) -> None:
    async with open_servers(NEAR, FAR, THIRD) as (near, far, third):
        room_id = await far.world.create_room(ANN, join=(UserID("@ben:far.example"),))
        await join_through(far, third, room_id, CAT)
        await say(far, room_id, ANN, "a")
        await join_through(far, near, room_id, BEA)
        answer, clock = near.network.answers[FAR], near.world.clock

        async def answer_error(_: PeerRequest) -> PeerResponse:
            return PeerResponse(status or 0, {}, b"{}")

        if status is None:
            near.network.down.add(FAR)
        near.network.answers[FAR] = answer_error
        for _ in range(4):
            assert texts(await scroll(near.process, room_id)) == []
            clock.advance(backfill.UNREACHED_S * 1000)
        near.network.answers[FAR] = answer
        near.network.down.clear()

        assert texts(await scroll(near.process, room_id)) == ["a"]


async def test_members_see_only_what_the_history_visibility_allows() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN)
        await say(far, room_id, ANN, "open")
        content = {"history_visibility": "invited"}
        await far.world.set_state(room_id, ANN, event_types.HISTORY_VISIBILITY, content)
        await say(far, room_id, ANN, "hidden")
        await far.world.set_membership(room_id, ANN, BEA, "invite")
        await say(far, room_id, ANN, "invited")
        await join_through(far, near, room_id, BEA)
        join = await build_remotely(far, near, room_id, member(DAN, "join"))
        await receive(far, room_id, join)
        await receive(near, room_id, join)

        seen_by_bea = await scroll(near.process, room_id)
        seen_by_dan = await scroll(near.process, room_id, user_id=DAN)

    assert texts(seen_by_bea)[0] == "invited"
    assert "hidden" not in texts(seen_by_bea)
    assert texts(seen_by_dan) == ["open"]


async def test_relations_and_redactions_of_history_are_known() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN)
        root = await far.world.send(room_id, ANN, "root")
        relation = {"rel_type": "m.thread", "event_id": root.event_id}
        content = {"msgtype": "m.text", "body": "reply", "m.relates_to": relation}
        replies = await far.world.append(
            room_id,
            *(Draft(event_types.MESSAGE, ANN, {**content, "body": text}) for text in "xyz"),
        )
        gone = await far.world.send(room_id, ANN, "gone")
        await far.world.redact(room_id, ANN, gone.event_id)
        await join_through(far, near, room_id, BEA)

        timeline = await scroll(near.process, room_id)

    by_id = {event["event_id"]: event for event in timeline}
    thread = by_id[root.event_id]["unsigned"]["m.relations"]["m.thread"]
    assert thread["count"] == 3
    assert thread["latest_event"]["event_id"] == replies[-1].event_id
    assert by_id[gone.event_id]["content"] == {}
    assert by_id[gone.event_id]["unsigned"]["redacted_because"]["sender"] == ANN


async def test_process_that_does_not_own_the_room_reads_history() -> None:
    network, neighbours = PeerNetwork(), Neighbourhood()
    owner, reader = (
        worker_settings(SETTINGS, name, "main", "reader") for name in ("main", "reader")
    )
    async with (
        open_servers(FAR, network=network) as (far,),
        fresh_inline() as database,
    ):
        async with (
            open_server(NEAR, network, database, settings=owner, neighbours=neighbours) as near,
            open_server(NEAR, network, database, settings=reader, neighbours=neighbours) as second,
        ):
            room_id = await far.world.create_room(ANN)
            await say(far, room_id, ANN, *map(str, range(150)))
            await join_through(far, near, room_id, BEA)

            read_by_second = await scroll(second.process, room_id)
            requests = asked(far)
            read_by_owner = await scroll(near.process, room_id)

            assert asked(far) == requests == 2
    assert texts(read_by_second) == texts(read_by_owner) == numbers(150)


def wrong_answers() -> list[Any]:
    """Return responses to /backfill that fill no gap."""
    other = message(ANN, "other")
    return [
        (500, {"errcode": "M_UNKNOWN", "error": "no"}),
        (200, {}),
        (200, {"pdus": "none"}),
        (200, {"pdus": []}),
        (200, {"pdus": [1, None, [], {"type": "m.room.message"}, {"content": {}}]}),
        (
            200,
            {"pdus": [{"type": other.type, "content": {}, "depth": -1, "prev_events": [[]]}] * 200},
        ),
        (200, b"["),
    ]


@pytest.mark.parametrize("response", wrong_answers())
async def test_wrong_answers_change_nothing(response: Any) -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN)
        await say(far, room_id, ANN, "a")
        await join_through(far, near, room_id, BEA)
        answers = near.network.answers
        real = answers[FAR]
        peer = ScriptedPeer(FAR, near.network, {"GET /_matrix/federation/v1/backfill": response})

        assert texts(await scroll(near.process, room_id)) == []
        assert len(peer.received) <= 2
        answers[FAR] = real
        near.world.clock.advance(backfill.MAX_RETRY_S * 1000)

        assert texts(await scroll(near.process, room_id)) == ["a"]


async def test_events_that_no_stored_event_follows_are_refused() -> None:
    async with open_servers(NEAR, FAR) as (near, far):
        room_id = await far.world.create_room(ANN)
        await say(far, room_id, ANN, "a")
        join = await join_through(far, near, room_id, BEA)
        later = await far.world.send(room_id, ANN, "later")
        stored = await far.world.events.get_one(later.event_id)
        assert stored is not None

        receiver = near.process.services.core.rooms.receiver
        states: dict[EventID, list[EventID]] = {}
        result = await receiver.backfill(room_id, [stored.event.canonical], [], states, [])

        assert [verdict.outcome.value for verdict in result.verdicts] == ["refused"]
        gaps = await near.world.database.read(
            events.backward_extremities_among, list(join.prev_events)
        )
        assert gaps == list(join.prev_events)


async def test_old_event_with_many_references_is_received() -> None:
    history = History("11")
    history.begin()
    assert history.room_id is not None
    assert history.first is not None
    forks = [
        history.add(ADMIN, event_types.MESSAGE, {"body": str(n)}, after=[history.first]).event_id
        for n in range(30)
    ]
    merge = history.add(ADMIN, event_types.MESSAGE, {"body": "merge"}, after=forks)
    join = history.add(BERT, event_types.MEMBER, {"membership": "join"}, BERT)
    before = [history.events[each] for each in history.before(join.prev_events).values()]
    async with open_servers(TEST_SERVER) as (server,):
        for name in ("one.example", "two.example"):
            ScriptedPeer(ServerName(name), server.network)
        receiver = server.process.services.core.rooms.receiver
        pdus = [event.canonical for event in before]
        await receiver.seed_room(history.room_id, "11", pdus, pdus, join.canonical)

        events = [merge, *(history.events[each] for each in forks), *before]
        result = await receiver.backfill(
            history.room_id, [event.canonical for event in events], [], {}, []
        )

    assert {verdict.outcome for verdict in result.verdicts} == {PduOutcome.ACCEPTED}


async def test_gap_is_filled_though_stored_events_in_the_response_follow_other_gaps() -> None:
    history = History("11")
    history.begin()
    history.add(BERT, event_types.MEMBER, {"membership": "join"}, BERT)
    user_id = UserID(f"@bea:{TEST_SERVER}")
    join = history.add(user_id, event_types.MEMBER, {"membership": "join"}, user_id)
    state_ids = list(history.before([join.event_id]).values())
    before = [history.events[each].canonical for each in history.before(join.prev_events).values()]

    def chain(sender: UserID, cited_late: Sequence[EventID]) -> list[Event]:
        found = [join]
        for number in range(120):
            cited = cited_late[number - 110 : number - 109] if number >= 110 else []
            after = [found[-1].event_id, *cited]
            content = {"body": f"{sender} {number}"}
            found.append(history.add(sender, event_types.MESSAGE, content, after=after))
        return found[1:]

    old = [
        history.add(ADMIN, event_types.MESSAGE, {"body": f"old {n}"}, after=[join.event_id])
        for n in range(10)
    ]
    gaps = [each.event_id for each in old]
    stored = chain(ADMIN, gaps)
    missing = chain(BERT, [stored[-1].event_id])
    ends = [stored[-1].event_id, missing[-1].event_id]
    last = history.add(ADMIN, event_types.MESSAGE, {"body": "last"}, after=ends)
    deepest = sorted([*stored, *missing], key=lambda event: event.depth, reverse=True)[:100]
    async with open_servers(TEST_SERVER) as (server,):
        for name in ("one.example", "two.example"):
            peer = ScriptedPeer(ServerName(name), server.network)
            path = "GET /_matrix/federation/v1"
            pdus = [orjson.Fragment(event.canonical) for event in deepest]
            peer.responses[f"{path}/backfill/"] = (200, {"pdus": pdus})
            ids = {"pdu_ids": state_ids, "auth_chain_ids": []}
            peer.responses[f"{path}/state_ids/"] = (200, ids)
        rooms = server.process.services.core.rooms
        assert history.room_id is not None
        await rooms.receiver.seed_room(history.room_id, "11", before, before, join.canonical)
        states = dict.fromkeys([*gaps, ends[1]], state_ids)
        later = [event.canonical for event in [*stored, last]]
        received = await rooms.receiver.receive(history.room_id, later, [], states)
        assert {verdict.outcome for verdict in received.verdicts} == {PduOutcome.ACCEPTED}

        await scroll(server.process, history.room_id, user_id=user_id)

        assert await rooms.events.get_one(ends[1]) is not None
