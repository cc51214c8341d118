"""Servers that lie about rooms: in the answers to joins, and about the state at gaps."""

from typing import Any

import orjson
import pytest

from hs.core.errors import Forbidden, MatrixError, RemoteFault
from hs.core.events.event import Event
from hs.core.ids import EventID, RoomID, ServerName
from hs.services.federation.inbound import pdu_queues
from hs.services.rooms.store.stored_event import EventStatus
from hs.storage.database import Database
from tests.services.federation.hostile.conftest import ServerLog
from tests.services.federation.hostile.crafted_events import changed_event, signed_pdu
from tests.services.federation.inbound.inbound_scene import (
    ONE,
    PREFIX,
    THREE,
    TWO,
    Inbound,
    count_rows,
    joined_history,
    open_inbound,
)
from tests.services.federation.joining.rooms_between import (
    ANN,
    BEN,
    FAR,
    NEAR,
    THIRD,
    join,
    membership_at,
)
from tests.support.federation import FederatedServer, PeerNetwork, ScriptedPeer, open_servers
from tests.support.peers import ADMIN, CORA, History
from tests.support.rooms import ALICE

MAKE_JOIN = "GET /_matrix/federation/v1/make_join"
SEND_JOIN = "PUT /_matrix/federation/v2/send_join"
HI = ("m.room.message", {"body": "hi"})
FAKES = 2000


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queues are tried again within milliseconds."""
    monkeypatch.setattr(pdu_queues, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(pdu_queues, "LONGEST_PAUSE_S", 0.05)


async def event_count(server: FederatedServer) -> int:
    return await server.world.database.read(count_rows, "events")


def between(network: PeerNetwork, change: Any) -> None:
    """Let a malicious server change the answers of FAR to joins."""
    honest = network.answers[FAR]

    async def answer(request: Any) -> Any:
        response = await honest(request)
        if "send_join" not in request.uri:
            return response
        content = orjson.loads(response.body)
        change(content)
        return type(response)(response.status, response.headers, orjson.dumps(content))

    network.answers[FAR] = answer


def unsigned_fakes(room_id: RoomID, count: int) -> list[Any]:
    return [
        {
            "type": "m.room.member",
            "room_id": room_id,
            "sender": f"@u{number}:far.example",
            "state_key": f"@u{number}:far.example",
            "content": {"membership": "join"},
            "depth": 3,
            "origin_server_ts": 1,
            "prev_events": [],
            "auth_events": [],
            "hashes": {"sha256": "x"},
            "signatures": {"far.example": {"ed25519:key": "x"}},
        }
        for number in range(count)
    ]


@pytest.mark.parametrize("count", [FAKES, pytest.param(50_000, marks=pytest.mark.long)])
async def test_unsigned_events_in_an_answer_to_a_join_are_left_out(
    count: int, server_log: ServerLog
) -> None:
    network = PeerNetwork()
    async with open_servers(NEAR, FAR, network=network) as (near, far):
        room_id = await far.world.create_room(ANN)
        before = await event_count(far)

        def change(content: Any) -> None:
            content["auth_chain"] += unsigned_fakes(room_id, count)
            content["state"] += [{}, 5, None, [], "x"] * 20

        between(network, change)
        server_log.take()
        await join(near, BEN, room_id, FAR)

        assert await event_count(near) == before + 1  # and the join
        assert await near.world.states.current(room_id) == await far.world.states.current(room_id)
        assert len(server_log.lines()) == 1


async def test_signed_events_that_nothing_cites_are_not_stored(server_log: ServerLog) -> None:
    network = PeerNetwork()
    async with open_servers(NEAR, FAR, network=network) as (near, far):
        room_id = await far.world.create_room(ANN)
        before = await event_count(far)

        def change(content: Any) -> None:
            member = next(each for each in content["state"] if each["type"] == "m.room.member")
            content["auth_chain"] += [
                signed_pdu({**member, "origin_server_ts": number}, "11", FAR)
                for number in range(50)
            ]

        between(network, change)
        await join(near, BEN, room_id, FAR)

        assert await event_count(near) == before + 1


@pytest.mark.parametrize("version", ["1", "11", "12"])
async def test_room_with_events_of_another_room_is_not_joined(version: str) -> None:
    network = PeerNetwork()
    async with open_servers(NEAR, FAR, network=network) as (near, far):
        room_id = await far.world.create_room(ANN, version=version)
        other_id = await far.world.create_room(ANN, version=version)
        ids = (await far.world.states.current(other_id)).values()
        pdus = [stored.event.pdu for stored in (await far.world.events.get(ids)).values()]

        def change(content: Any) -> None:
            content["state"] = content["auth_chain"] = pdus

        between(network, change)
        with pytest.raises((RemoteFault, MatrixError)):
            await join(near, BEN, room_id, FAR)

        assert not await near.world.states.current(room_id)
        assert await event_count(near) == 0


async def test_stored_event_is_not_taken_for_another_with_the_same_id() -> None:
    network = PeerNetwork()
    async with open_servers(NEAR, FAR, network=network) as (near, far):
        first_id = await far.world.create_room(ANN, version="1")
        await join(near, BEN, first_id, FAR)
        topic = await far.world.set_state(first_id, ANN, "m.room.topic", {"topic": "x"})
        receiver = near.process.services.core.rooms.receiver
        stored = await far.world.events.get_one(topic.event_id)
        assert stored is not None
        await receiver.receive(first_id, [stored.event.canonical], [], {})
        room_id = await far.world.create_room(ANN, version="1")

        def change(content: Any) -> None:
            levels = next(each for each in content["state"] if "power_levels" in each["type"])
            fake = {**levels, "type": "m.room.name", "event_id": topic.event_id}
            content["state"].append(signed_pdu(fake, "1", FAR))

        between(network, change)
        await join(near, BEN, room_id, FAR)

        state = await near.world.states.current(room_id)
        assert topic.event_id not in state.values()
        assert ("m.room.name", "") not in state


@pytest.mark.parametrize(
    "lie",
    [
        (403, {"errcode": "M_FORBIDDEN", "error": "No"}),
        (404, {"errcode": "M_NOT_FOUND", "error": ""}),
        (200, {"room_version": "99", "event": {}}),
        (200, {"room_version": [], "event": {}}),
        (200, {"event": []}),
        (400, {"errcode": "M_INCOMPATIBLE_ROOM_VERSION", "error": "", "room_version": "7"}),
        (400, b"[" * 100_000),
        (404, b"[[]," * 2_000_000 + b"[]" + b"]" * 2),
        (500, b""),
        (302, b""),
    ],
)
async def test_lying_server_in_via_prevents_no_join(lie: Any, server_log: ServerLog) -> None:
    network = PeerNetwork()
    async with open_servers(NEAR, FAR, network=network) as (near, far):
        ScriptedPeer(THIRD, network, {MAKE_JOIN: lie, SEND_JOIN: lie})
        room_id = await far.world.create_room(ANN)
        server_log.take()

        await join(near, BEN, room_id, THIRD, FAR)

        assert await membership_at(near, room_id, BEN) == "join"
        assert len(server_log.lines()) <= 2


async def test_servers_that_agree_on_a_refusal_are_believed() -> None:
    network = PeerNetwork()
    names = [ServerName(f"r{number}.example") for number in range(10)]
    refusal = {MAKE_JOIN: (403, {"errcode": "M_FORBIDDEN", "error": "No"})}
    peers = [ScriptedPeer(name, network, refusal) for name in names]
    async with open_servers(NEAR, network=network) as (near,):
        with pytest.raises(Forbidden):
            await join(near, BEN, RoomID("!room:r0.example"), *names)

    assert sum(len(peer.received) for peer in peers) == 3


@pytest.mark.parametrize(
    "answer",
    [
        b'{"state":[' + b"[" * 50_000,
        b'{"state":[' + b"[" * 900 + b"]" * 900 + b'],"auth_chain":[]}',
        b'{"state":[1,null,"x",[],{}],"auth_chain":[1]}',
        b'{"state":[],"auth_chain":[],"event":5}',
        b'{"state":null,"auth_chain":null}',
        b"[200,{}]",
        b"null",
        b"",
        b"\xff",
    ],
)
async def test_malformed_answers_to_joins_store_nothing(
    answer: bytes, server_log: ServerLog
) -> None:
    network = PeerNetwork()
    async with open_servers(NEAR, FAR, network=network) as (near, far):
        room_id = await far.world.create_room(ANN)
        honest = network.answers[FAR]

        async def lie(request: Any) -> Any:
            response = await honest(request)
            if "send_join" in request.uri:
                return type(response)(200, response.headers, answer)
            return response

        network.answers[FAR] = lie
        server_log.take()
        with pytest.raises(RemoteFault):
            await join(near, BEN, room_id, FAR)

        assert await event_count(near) == 0
        assert len(server_log.lines()) <= 2


# The state at gaps


def hide(history: History, count: int) -> Event:
    """Add messages that the server does not receive, and return the last one."""
    return [history.add(CORA, *HI) for _ in range(count)][-1]


def false_levels(history: History, after: list[EventID]) -> Event:
    """Return power levels by which Cora makes herself an administrator."""
    levels = {"users": {ADMIN: 0, CORA: 100}}
    event = history.draft(CORA, "m.room.power_levels", levels, "", after=after)
    history.events[event.event_id] = event
    return event


@pytest.mark.parametrize("version", ["1", "2", "11", "12"])
async def test_false_state_at_a_gap_gives_no_power(
    database: Database, version: str, quick_retries: None
) -> None:
    async with open_inbound(database, joined_history(version)) as inbound:
        history = inbound.history
        fork = history.ends[:]
        true_state = dict(history.before(fork))
        false = false_levels(history, fork)
        last = hide(history, 3)
        state = history.before(fork).set(("m.room.power_levels", ""), false.event_id)
        chain = [event_id for event_id in history.events if event_id not in state.values()]
        inbound.serve_history(THREE)
        inbound.peers[THREE].responses |= {
            f"POST {PREFIX}/get_missing_events/": (200, {"events": []}),
            f"GET {PREFIX}/state_ids/": (
                200,
                {"pdu_ids": list(state.values()), "auth_chain_ids": chain},
            ),
        }
        await inbound.send(last, origin=THREE)
        await inbound.work()
        name = history.draft(CORA, "m.room.name", {"name": "mine"}, "", after=[last.event_id])
        kick = history.draft(
            CORA, "m.room.member", {"membership": "leave"}, ALICE, after=[last.event_id]
        )

        await inbound.send(name, kick, origin=THREE)

        current = dict(await inbound.server.world.states.current(inbound.room_id))
        assert current == true_state
        assert await inbound.status(name) is not EventStatus.ACCEPTED
        assert await inbound.status(kick) is not EventStatus.ACCEPTED


async def test_state_that_omits_a_ban_lets_nobody_in(inbound: Inbound, quick_retries: None) -> None:
    history = inbound.history
    before = history.ends[:]
    old_state = list(history.before(before).values())
    ban = history.add(ADMIN, "m.room.member", {"membership": "ban"}, CORA)
    await inbound.send(ban)
    hidden = history.draft(CORA, *HI, after=before)
    history.events[hidden.event_id] = hidden
    history.states[hidden.event_id] = history.before(before)
    evading = history.draft(CORA, "m.room.topic", {"topic": "x"}, after=[hidden.event_id])
    history.events[evading.event_id] = evading
    inbound.serve_history(THREE)
    inbound.peers[THREE].responses |= {
        f"POST {PREFIX}/get_missing_events/": (200, {"events": []}),
        f"GET {PREFIX}/state_ids/": (200, {"pdu_ids": old_state, "auth_chain_ids": []}),
    }

    await inbound.send(evading, origin=THREE)
    await inbound.work()

    assert await inbound.status(evading) is not EventStatus.ACCEPTED
    state = await inbound.server.world.states.current(inbound.room_id)
    assert state["m.room.member", CORA] == ban.event_id


async def test_empty_state_at_a_gap_resets_nothing(inbound: Inbound, quick_retries: None) -> None:
    history = inbound.history
    before = dict(history.before(history.ends))
    last = hide(history, 3)
    for peer in (ONE, TWO, THREE):
        inbound.peers[peer].responses |= {
            f"POST {PREFIX}/get_missing_events/": (200, {"events": []}),
            f"GET {PREFIX}/state_ids/": (200, {"pdu_ids": [], "auth_chain_ids": []}),
            f"GET {PREFIX}/event/": (404, {"errcode": "M_NOT_FOUND", "error": ""}),
        }

    await inbound.send(last, origin=THREE)
    await inbound.work()

    assert dict(await inbound.server.world.states.current(inbound.room_id)) == before
    assert await inbound.status(last) is not EventStatus.ACCEPTED


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"events": 5, "pdus": 5, "pdu_ids": 5, "auth_chain_ids": 5, "auth_chain": 5},
        {
            "events": [None, 5, [], {}],
            "pdus": [None, 5, [], {}],
            "pdu_ids": [None, 5, [], {}, "$" * 300, "$a\0b", "x"],
            "auth_chain_ids": [[], {}],
            "auth_chain": [{}],
        },
        b'{"events":[' + b"[" * 900 + b"]" * 900 + b'],"pdus":[]}',
        b"\xff\xfe",
    ],
)
async def test_malformed_answers_about_missing_events_cost_a_line(
    inbound: Inbound, quick_retries: None, server_log: ServerLog, answer: Any
) -> None:
    inbound.serve_history(THREE)
    honest = dict(inbound.peers[THREE].responses)
    for part in ("get_missing_events", "event", "state_ids", "state"):
        last = hide(inbound.history, 3)
        asked = next(line for line in honest if f"/{part}/" in line)
        for peer in (ONE, TWO, THREE):
            nothing: dict[str, Any] = {f"POST {PREFIX}/get_missing_events/": (200, {"events": []})}
            inbound.peers[peer].responses = {**honest, **nothing, asked: (200, answer)}
        server_log.take()
        before = len(inbound.uris(THREE))

        await inbound.send(last, origin=THREE)
        await inbound.work()

        assert len(server_log.lines()) <= 2
        assert len(inbound.uris(THREE)) - before < 60


async def test_event_that_was_not_asked_for_is_not_stored(
    inbound: Inbound, quick_retries: None
) -> None:
    history = inbound.history
    last = hide(history, 3)
    other = history.draft(CORA, "m.room.message", {"body": "other"}, after=[])
    other = changed_event(other, THREE, prev_events=list(last.prev_events))
    for peer in (ONE, TWO, THREE):
        inbound.peers[peer].responses |= {
            f"POST {PREFIX}/get_missing_events/": (200, {"events": [other.pdu] * 50}),
            f"GET {PREFIX}/event/": (200, {"pdus": [other.pdu]}),
            f"GET {PREFIX}/state_ids/": (200, {"pdu_ids": [], "auth_chain_ids": []}),
        }

    await inbound.send(last, origin=THREE)
    await inbound.work()

    assert await inbound.status(other) is None
