"""Transactions: the result of each PDU, repetitions, limits, rooms and ACLs."""

from typing import Any

import orjson
import pytest
import trio

from hs.core.canonical_json import JsonObject
from hs.core.errors import RemoteFault
from hs.services.rooms.store.stored_event import EventStatus
from hs.storage.database import Database
from tests.services.federation.inbound.inbound_scene import (
    THREE,
    TWO,
    Inbound,
    count_rows,
    joined_history,
    open_inbound,
)
from tests.support.peers import ADMIN, BERT, CORA, History
from tests.support.rooms import ALICE

HI = ("m.room.message", {"body": "hi"})


@pytest.mark.parametrize("version", ["1", "3", "6", "11", "12"])
async def test_events_in_order_are_appended(database: Database, version: str) -> None:
    async with open_inbound(database, joined_history(version)) as inbound:
        events = [inbound.history.add(CORA, *HI) for _ in range(3)]
        results = await inbound.send(*events, origin=THREE)

        assert results == {event.event_id: {} for event in events}
        assert [await inbound.status(event) for event in events] == [EventStatus.ACCEPTED] * 3
        await inbound.server.world.send(inbound.room_id, ALICE)


async def test_events_out_of_order_are_appended(inbound: Inbound) -> None:
    events = [inbound.history.add(CORA, *HI) for _ in range(10)]

    results = await inbound.send(*reversed(events))

    assert results == {event.event_id: {} for event in events}
    assert await inbound.status(events[9]) is EventStatus.ACCEPTED
    assert await inbound.waiting() == 0


async def test_repeated_transaction_changes_nothing(inbound: Inbound) -> None:
    events = [inbound.history.add(CORA, *HI) for _ in range(3)]
    await inbound.send(*events)
    before = await inbound.server.world.database.read(count_rows, "events")

    assert await inbound.send(*events) == {event.event_id: {} for event in events}

    assert await inbound.server.world.database.read(count_rows, "events") == before


async def test_same_transaction_twice_at_once_stores_each_event_once(inbound: Inbound) -> None:
    events = [inbound.history.add(CORA, *HI) for _ in range(20)]
    results: list[JsonObject] = []

    async def send() -> None:
        results.append(await inbound.send(*events))
        assert await inbound.status(events[-1]) is EventStatus.ACCEPTED

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(send)

    assert results == [{event.event_id: {} for event in events}] * 3


async def test_rejected_and_soft_failed_events_are_stored(inbound: Inbound) -> None:
    history = inbound.history
    fork = history.ends[:]
    late = history.draft(BERT, *HI, after=fork)
    await inbound.send(history.add(ADMIN, "m.room.member", {"membership": "ban"}, BERT))
    create_only = [history.states[fork[0]]["m.room.create", ""]]
    rejected = history.draft(CORA, *HI, auth_events=create_only)

    results = await inbound.send(late, rejected, origin=TWO)

    assert results == {late.event_id: {}, rejected.event_id: {}}
    assert await inbound.status(late) is EventStatus.SOFT_FAILED
    assert await inbound.status(rejected) is EventStatus.REJECTED


async def test_wrong_signature_is_an_error_of_its_event_only(inbound: Inbound) -> None:
    good = inbound.history.add(CORA, *HI)
    bad = inbound.history.draft(CORA, *HI)
    forged: dict[str, Any] = {**bad.pdu, "depth": bad.depth + 1}
    results = await inbound.send(good, forged)

    assert results.pop(good.event_id) == {}
    ((_, result),) = results.items()
    assert "signature" in result["error"]


async def test_malformed_pdus_are_skipped(inbound: Inbound) -> None:
    good = inbound.history.add(CORA, *HI)
    no_sender = {key: value for key, value in good.pdu.items() if key != "sender"}
    pdus: list[Any] = [
        1,
        None,
        [],
        {},
        {"room_id": 5},
        {"room_id": inbound.room_id},
        no_sender,
        good.pdu,
    ]

    results = await inbound.send_raw({"pdus": pdus, "edus": [3, {}, {"edu_type": "m.typing"}]})

    assert results == {good.event_id: {}}


@pytest.mark.parametrize(
    "content", [{"pdus": [{}] * 51}, {"edus": [{}] * 101}, {"pdus": {}}, {"edus": "x"}]
)
async def test_too_large_or_malformed_transaction_is_refused(
    inbound: Inbound, content: JsonObject
) -> None:
    with pytest.raises(RemoteFault) as caught:
        await inbound.send_raw(content)

    assert caught.value.error is not None
    assert (caught.value.error.status, caught.value.error.errcode) == (400, "M_BAD_JSON")


async def test_transaction_without_pdus_and_edus_is_accepted(inbound: Inbound) -> None:
    assert await inbound.send_raw({}) == {}


async def test_events_of_rooms_that_this_server_is_not_in_are_ignored(inbound: Inbound) -> None:
    other = History("1")
    other.begin()
    event = other.add(ADMIN, *HI)

    results = await inbound.send({**event.pdu, "room_id": "!other:one.example"})

    assert "not in the room" in results[event.event_id]["error"]


async def test_events_of_a_room_that_this_server_has_left_are_ignored(inbound: Inbound) -> None:
    await inbound.server.world.set_membership(inbound.room_id, ALICE, ALICE, "leave")
    event = inbound.history.add(CORA, *HI)

    results = await inbound.send(event)

    assert "not in the room" in results[event.event_id]["error"]
    assert await inbound.status(event) is None


async def test_server_acl_excludes_the_origin(inbound: Inbound) -> None:
    acl = {"allow": ["*"], "deny": ["three.*"]}
    await inbound.send(inbound.history.add(ADMIN, "m.room.server_acl", acl, ""))
    denied = inbound.history.draft(CORA, *HI)
    allowed = inbound.history.add(BERT, *HI)

    refused = await inbound.send(denied, origin=THREE)
    accepted = await inbound.send(allowed, origin=TWO)

    assert "excluded" in refused[denied.event_id]["error"]
    assert accepted == {allowed.event_id: {}}
    assert await inbound.status(denied) is None


async def test_event_with_nul_and_deep_nesting_does_not_stop_the_transaction(
    inbound: Inbound,
) -> None:
    with_nul = inbound.history.add(CORA, "m.room.message", {"body": "a\0b"})
    good = inbound.history.add(CORA, *HI)

    results = await inbound.send(with_nul, good)

    assert results == {with_nul.event_id: {}, good.event_id: {}}


async def test_unsigned_transaction_is_refused(inbound: Inbound) -> None:
    response = await inbound.server.web().request(
        "PUT", "/_matrix/federation/v1/send/t", body=orjson.dumps({"pdus": []})
    )

    assert (response.status, response.errcode) == (401, "M_UNAUTHORIZED")


async def test_unknown_room_changes_nothing_for_others(inbound: Inbound) -> None:
    event = inbound.history.add(CORA, *HI)

    results = await inbound.send(event, {**event.pdu, "room_id": "!unknown:one.example"})

    assert results == {event.event_id: {}}
