"""Events that cite unknown events: queued, completed from other servers, or given up."""

from typing import Any
from urllib.parse import quote

import orjson
import pytest
import trio

from hs.core.errors import RemoteFault
from hs.core.events.event import Event
from hs.core.ids import RoomID
from hs.services.federation.inbound import pdu_queues
from hs.services.federation_client.peer_transport import PeerRequest, PeerResponse
from hs.services.rooms.store.stored_event import EventStatus
from hs.storage.database import Database, Tx
from hs.storage.rooms import events as event_rows
from tests.services.federation.inbound.inbound_scene import (
    ONE,
    PREFIX,
    QUEUES,
    THREE,
    TWO,
    Inbound,
    joined_history,
    open_inbound,
)
from tests.support.peers import ADMIN, BERT, CORA, History
from tests.support.rooms import ALICE

HI = ("m.room.message", {"body": "hi"})


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queues are tried again within milliseconds."""
    monkeypatch.setattr(pdu_queues, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(pdu_queues, "LONGEST_PAUSE_S", 0.05)


async def backward_extremities(tx: Tx, event_ids: list[str]) -> list[str]:
    """Return those of the events that are gaps."""
    return await event_rows.backward_extremities_among(tx, event_ids)


def say(history: History, count: int) -> list[Event]:
    """Add messages to a room."""
    return [history.add(CORA, *HI) for _ in range(count)]


async def statuses(inbound: Inbound, events: list[Event]) -> set[EventStatus | None]:
    """Return the different statuses of events."""
    return {await inbound.status(event) for event in events}


@pytest.mark.parametrize("version", ["1", "11", "12"])
async def test_missing_events_are_fetched_from_the_origin(database: Database, version: str) -> None:
    async with open_inbound(database, joined_history(version)) as inbound:
        events = say(inbound.history, 30)
        inbound.serve_history()

        assert await inbound.send(events[-1]) == {events[-1].event_id: {}}
        assert await inbound.waiting() == 1
        await inbound.work()

        assert await statuses(inbound, events) == {EventStatus.ACCEPTED}
        assert inbound.uris(TWO) == inbound.uris(THREE) == []
        assert {uri.split("/")[4] for uri in inbound.uris()} == {"get_missing_events"}


async def test_gap_is_bridged_by_the_state_at_its_end(inbound: Inbound) -> None:
    history = inbound.history
    history.add(ADMIN, "m.room.topic", {"topic": "missed"}, "")
    missed = say(history, 300)
    last = history.add(ADMIN, "m.room.name", {"name": "x"}, "")
    inbound.serve_history()

    await inbound.send(last)
    await inbound.work()

    assert await inbound.status(last) is EventStatus.ACCEPTED
    assert await inbound.status(missed[0]) is None
    state = await inbound.server.world.states.current(inbound.room_id)
    assert dict(state) == dict(history.before([last.event_id]))
    received = [event for event in missed if await inbound.status(event) is not None]
    gap = received[0].prev_events[0]
    found = await inbound.server.world.database.read(backward_extremities, [gap])
    assert found == [gap]


async def test_state_at_a_gap_with_many_unknown_events_is_fetched_whole(inbound: Inbound) -> None:
    history = inbound.history
    for number in range(150):
        history.add(ADMIN, "x.entry", {"n": number}, str(number))
    say(history, 250)
    last = history.add(CORA, *HI)
    inbound.serve_history()

    await inbound.send(last)
    await inbound.work()

    state = await inbound.server.world.states.current(inbound.room_id)
    assert dict(state) == dict(history.before([last.event_id]))
    assert any("/state/" in uri for uri in inbound.uris())


async def test_given_state_is_resolved_with_the_state_of_known_branches(inbound: Inbound) -> None:
    history = inbound.history
    fork = history.ends[:]
    levels = history.states[fork[0]]["m.room.power_levels", ""]
    name = history.add(ADMIN, "m.room.name", {"name": "x"}, "")
    await inbound.send(name)
    hidden = history.add(ADMIN, "m.room.topic", {"topic": "missed"}, "", after=fork)
    merge = history.add(CORA, *HI, after=[name.event_id, hidden.event_id])
    last = history.add(CORA, *HI)
    false_levels = {"users": {CORA: 100}}
    false = history.draft(CORA, "m.room.power_levels", false_levels, "", after=fork)
    history.events[false.event_id] = false
    state = [*history.before(fork).set(("m.room.power_levels", ""), false.event_id).values()]
    inbound.serve_history()
    inbound.peers[ONE].responses |= {
        f"POST {PREFIX}/get_missing_events/": (200, {"events": [merge.pdu]}),
        f"GET {PREFIX}/state_ids/": (200, {"pdu_ids": state, "auth_chain_ids": []}),
    }

    await inbound.send(last)
    await inbound.work()

    assert await statuses(inbound, [merge, last]) == {EventStatus.ACCEPTED}
    assert await inbound.status(false) is EventStatus.REJECTED
    current = await inbound.server.world.states.current(inbound.room_id)
    assert current["m.room.power_levels", ""] == levels
    assert current["m.room.name", ""] == name.event_id
    assert current["m.room.topic", ""] == hidden.event_id


async def test_server_that_has_rejected_the_missing_event_gives_the_state_without_it(
    inbound: Inbound,
) -> None:
    history = inbound.history
    before = history.ends[:]
    topic = history.draft(CORA, "m.room.topic", {"topic": "false"}, "")
    history.keep(topic, rejected=True)
    say(history, 1)
    last = say(history, 1)[0]
    inbound.serve_history()
    honest = inbound.peers[ONE].responses[f"GET {PREFIX}/state_ids/"]

    def without_rejected(request: PeerRequest) -> Any:
        if quote(topic.event_id, safe="") in request.uri:
            return 404, {"errcode": "M_NOT_FOUND", "error": ""}
        return honest(request)

    middle = history.events[last.prev_events[0]]
    inbound.peers[ONE].responses |= {
        f"POST {PREFIX}/get_missing_events/": (200, {"events": [middle.pdu]}),
        f"GET {PREFIX}/state_ids/": without_rejected,
    }

    await inbound.send(last)
    await inbound.work()

    assert await statuses(inbound, [middle, last]) == {EventStatus.ACCEPTED}
    state = await inbound.server.world.states.current(inbound.room_id)
    assert dict(state) == dict(history.states[before[0]])


async def test_other_servers_are_asked_if_the_origin_does_not_answer(inbound: Inbound) -> None:
    events = say(inbound.history, 5)
    inbound.serve_history(TWO)

    await inbound.send(events[-1])
    await inbound.work()

    assert await statuses(inbound, events) == {EventStatus.ACCEPTED}


async def test_missing_auth_events_are_fetched(inbound: Inbound) -> None:
    history = inbound.history
    before = history.ends[:]
    hidden = history.add(ADMIN, "m.room.power_levels", {"users": {ADMIN: 100, CORA: 50}}, "")
    event = history.draft(
        CORA,
        *HI,
        after=before,
        auth_events=[
            hidden.event_id,
            history.states[before[0]]["m.room.create", ""],
            history.states[before[0]]["m.room.member", CORA],
        ],
    )
    history.events[event.event_id] = event
    inbound.serve_history()

    await inbound.send(event)
    await inbound.work()

    assert await inbound.status(event) is EventStatus.ACCEPTED
    assert await inbound.status(hidden) is EventStatus.OUTLIER


async def test_other_events_of_the_room_are_appended_while_some_wait(inbound: Inbound) -> None:
    history = inbound.history
    ends = history.ends[:]
    waiting = say(history, 2)[1]
    direct = history.add(BERT, *HI, after=ends)

    await inbound.send(waiting)
    await inbound.send(direct, origin=TWO)

    assert await inbound.status(direct) is EventStatus.ACCEPTED
    assert await inbound.waiting() == 1


async def test_waiting_event_is_appended_when_what_it_cites_arrives(
    inbound: Inbound,
) -> None:
    first, second = say(inbound.history, 2)
    await inbound.send(second)

    async with inbound.server.process.duties(QUEUES):
        await inbound.wait_until(lambda: _has_asked(inbound))
        await inbound.send(first, origin=TWO)
        await inbound.wait_until(inbound.is_idle, 4)

    assert await statuses(inbound, [first, second]) == {EventStatus.ACCEPTED}


async def _has_asked(inbound: Inbound) -> bool:
    return bool(inbound.uris(TWO))


async def test_events_survive_a_restart_between_staging_and_processing(database: Database) -> None:
    async with open_inbound(database) as before:
        events = say(before.history, 4)
        await before.send(events[-1])
    async with open_inbound(database, before.history, is_new=False) as after:
        after.serve_history()
        await after.work()

        assert await statuses(after, events) == {EventStatus.ACCEPTED}


async def test_events_that_are_stored_but_still_queued_are_only_dequeued(
    database: Database,
) -> None:
    async with open_inbound(database) as before:
        first, second = say(before.history, 2)
        await before.send(second)
        receiver = before.server.process.services.core.rooms.receiver
        await receiver.receive(before.room_id, [first.canonical, second.canonical], [], {})
    async with open_inbound(database, before.history, is_new=False) as after:
        await after.work()

        assert after.uris() == []


async def test_events_are_given_up_when_nobody_has_what_they_cite(
    inbound: Inbound, quick_retries: None, caplog: pytest.LogCaptureFixture
) -> None:
    history = inbound.history
    lost = say(history, 2)[1]
    await inbound.send(lost)

    await inbound.work()
    later = history.add(CORA, *HI)
    inbound.serve_history()
    await inbound.send(later)
    await inbound.work()

    assert caplog.text.count("could not be fetched") == 1
    assert await statuses(inbound, [lost, later]) == {EventStatus.ACCEPTED}


@pytest.mark.parametrize("is_malformed", [False, True])
async def test_events_that_cite_what_their_server_lacks_are_deleted_at_once(
    inbound: Inbound, is_malformed: bool
) -> None:
    history = inbound.history
    ends = history.ends[:]
    missing, unfounded = say(history, 2)
    other = history.add(BERT, *HI, after=ends)
    events = [{**missing.pdu, "x": 1.5}] if is_malformed else []
    answer = (200, {"events": events})
    inbound.peers[ONE].responses[f"POST {PREFIX}/get_missing_events/"] = answer

    async with inbound.server.process.duties(QUEUES):
        await inbound.send(unfounded, other)
        await inbound.wait_until(inbound.is_idle, 1)

    assert await inbound.status(unfounded) is None
    assert await inbound.status(other) is EventStatus.ACCEPTED
    assert [uri.split("/")[4] for uri in inbound.uris()] == ["get_missing_events"]
    assert inbound.uris(TWO) == inbound.uris(THREE) == []


async def test_events_that_were_deleted_are_fetched_for_later_ones(inbound: Inbound) -> None:
    history = inbound.history
    events = say(history, 2)
    inbound.peers[ONE].responses[f"POST {PREFIX}/get_missing_events/"] = (200, {"events": []})
    await inbound.send(events[1])
    await inbound.work()
    events += say(history, 1)
    inbound.serve_history()

    await inbound.send(events[2])
    await inbound.work()

    assert await statuses(inbound, events) == {EventStatus.ACCEPTED}


async def test_full_queue_makes_the_origin_come_back(
    inbound: Inbound, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pdu_queues, "MAX_QUEUED", 3)
    events = say(inbound.history, 6)
    await inbound.send(*events[1:3])

    with pytest.raises(RemoteFault) as caught:
        await inbound.send(*events[3:6])
    await inbound.send(events[3], origin=TWO)

    assert caught.value.error is not None
    assert (caught.value.error.status, caught.value.error.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert await inbound.waiting() == 3


async def test_queue_of_a_room_that_the_server_has_left_is_deleted(inbound: Inbound) -> None:
    await inbound.send(say(inbound.history, 2)[1])
    await inbound.server.world.set_membership(inbound.room_id, ALICE, ALICE, "leave")

    await inbound.work()

    assert inbound.uris() == []


async def test_events_of_another_room_are_not_accepted_as_missing_events(
    inbound: Inbound, quick_retries: None
) -> None:
    history = inbound.history
    other = joined_history()
    other.room_id = RoomID("!other:one.example")
    event = say(history, 2)[1]
    foreign = say(other, 3)
    answer = (200, {"events": [each.pdu for each in foreign]})
    inbound.peers[ONE].responses[f"POST {PREFIX}/get_missing_events/"] = answer

    await inbound.send(event)
    await inbound.work()

    assert await statuses(inbound, [event, *foreign]) == {None}


async def test_endless_chain_costs_bounded_requests(inbound: Inbound, quick_retries: None) -> None:
    history = inbound.history
    chain = say(history, 3000)

    def endless(request: PeerRequest) -> tuple[int, Any]:
        latest = orjson.loads(request.body or b"")["latest_events"]
        at = [event.event_id for event in chain].index(latest[0])
        return 200, {"events": [event.pdu for event in chain[max(0, at - 50) : at]]}

    inbound.peers[ONE].responses[f"POST {PREFIX}/get_missing_events/"] = endless

    await inbound.send(chain[-1])
    await inbound.work()

    asked = [uri for uri in inbound.uris() if "get_missing_events" in uri]
    assert len(asked) <= 4 * pdu_queues.MAX_FAILURES
    assert await inbound.status(chain[-1]) is None


async def test_fifty_thousand_false_auth_events_cost_bounded_requests(
    inbound: Inbound, quick_retries: None
) -> None:
    history = inbound.history
    say(history, 300)
    event = history.add(CORA, *HI)
    inbound.serve_history(ONE)
    false_ids = [f"${number:043}" for number in range(50_000)]
    state = list(history.before(event.prev_events).values())
    inbound.peers[ONE].responses[f"GET {PREFIX}/state_ids/"] = (
        200,
        {"pdu_ids": state, "auth_chain_ids": false_ids},
    )

    await inbound.send(event)
    await inbound.work()

    assert await inbound.status(event) is None
    assert len(inbound.uris()) < 20 * pdu_queues.MAX_FAILURES


async def test_events_with_wrong_ids_are_not_taken_for_those_asked_for(
    inbound: Inbound, quick_retries: None
) -> None:
    history = inbound.history
    say(history, 300)
    event = history.add(CORA, *HI)
    other = history.add(ADMIN, "m.room.topic", {"topic": "false"}, "")
    inbound.serve_history(ONE)
    inbound.peers[ONE].responses[f"GET {PREFIX}/event/"] = (200, {"pdus": [other.pdu]})
    state = [*history.before(event.prev_events).values(), "$" + "a" * 43]
    inbound.peers[ONE].responses[f"GET {PREFIX}/state_ids/"] = (
        200,
        {"pdu_ids": state, "auth_chain_ids": []},
    )

    await inbound.send(event)
    await inbound.work()

    assert await statuses(inbound, [event, other]) == {None}


async def test_cycle_of_events_is_given_up(database: Database, quick_retries: None) -> None:
    async with open_inbound(database, joined_history("1")) as inbound:
        history = inbound.history
        first = history.add(CORA, *HI)
        second = history.add(CORA, *HI)
        cyclic = history.draft(CORA, *HI, after=[second.event_id])
        answer = (200, {"events": [{**cyclic.pdu, "event_id": first.event_id}]})
        inbound.peers[ONE].responses[f"POST {PREFIX}/get_missing_events/"] = answer

        await inbound.send(second)
        await inbound.work()

        assert await inbound.status(second) is None


async def test_events_of_an_origin_are_limited_over_all_rooms(
    inbound: Inbound, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pdu_queues, "MAX_QUEUED_OF_ORIGIN", 2)
    events = say(inbound.history, 5)
    await inbound.send(*events[1:3])

    with pytest.raises(RemoteFault) as caught:
        await inbound.send(events[4])
    await inbound.send(events[4], origin=TWO)

    assert caught.value.error is not None
    assert caught.value.error.status == 429


async def test_server_that_does_not_answer_delays_no_others(inbound: Inbound) -> None:
    history = inbound.history
    ends = history.ends[:]
    stuck = say(history, 2)[1]
    hidden = history.add(BERT, *HI, after=ends)
    good = history.add(BERT, *HI, after=[hidden.event_id])
    inbound.serve_history(TWO)
    await inbound.send(stuck, origin=ONE)
    asked = trio.Event()

    async def never_answer(request: PeerRequest) -> PeerResponse:
        asked.set()
        await trio.sleep_forever()
        raise AssertionError

    async def is_appended() -> bool:
        return await inbound.status(good) is EventStatus.ACCEPTED

    inbound.server.network.answers[ONE] = never_answer
    async with inbound.server.process.duties(QUEUES):
        await asked.wait()
        await inbound.send(good, origin=TWO)
        await inbound.wait_until(is_appended, 10)

    assert await inbound.status(stuck) is None
