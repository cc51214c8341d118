"""Transactions that try to stop others, or to have the server mistake one event for another."""

from typing import Any

import canonicaljson
import orjson
import pytest

from hs.core.canonical_json import JsonObject
from hs.core.ids import EventID, RoomID, UserID
from hs.services.rooms.store.stored_event import EventStatus
from hs.storage.database import Database
from tests.services.federation.hostile.conftest import ServerLog
from tests.services.federation.hostile.crafted_events import changed_event, pairs, signed_pdu
from tests.services.federation.inbound.inbound_scene import (
    ONE,
    PREFIX,
    THREE,
    TWO,
    Inbound,
    joined_history,
    open_inbound,
)
from tests.support.peers import ADMIN, BERT, CORA
from tests.support.rooms import ALICE

HI = ("m.room.message", {"body": "hi"})


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


async def put(inbound: Inbound, txn_id: str, body: bytes) -> JsonObject:
    """Send the body of a transaction as it is."""
    results: JsonObject = await inbound.peers[ONE].client.request(
        inbound.server.name, "PUT", f"{PREFIX}/send/{txn_id}", body
    )
    return dict(results["pdus"])


@pytest.mark.parametrize("depth", [190, 230, 400, 800])
async def test_deeply_nested_event_does_not_stop_its_transaction(
    inbound: Inbound, depth: int, server_log: ServerLog
) -> None:
    good = inbound.history.add(CORA, *HI)
    bad = {**good.pdu, "content": {"body": nested(depth)}}
    edu = {"edu_type": "m.typing", "content": {"room_id": nested(depth)}}
    body = canonicaljson.encode_canonical_json({"pdus": [bad, good.pdu], "edus": [edu]})

    results = await put(inbound, "1", body)

    assert results[good.event_id] == {}
    assert len(server_log.lines()) <= 1


async def test_events_with_many_values_do_not_stop_their_transaction(inbound: Inbound) -> None:
    content = {"body": "x", "many": [[]] * 20_000}
    events = [inbound.history.add(CORA, "m.room.message", content) for _ in range(12)]

    results = await inbound.send(*events)

    assert results == {event.event_id: {} for event in events}
    assert await inbound.status(events[-1]) is EventStatus.ACCEPTED


@pytest.mark.parametrize("number", [b"1.5", b"1e400", b"9007199254740992", b"1" * 5000, b"-0.0"])
async def test_numbers_that_are_not_canonical_are_errors_of_their_event(
    inbound: Inbound, number: bytes
) -> None:
    good = inbound.history.add(CORA, *HI)
    odd = {**good.pdu, "content": {"n": "NUMBER"}}
    body = canonicaljson.encode_canonical_json({"pdus": [odd, good.pdu]})
    decoded = body.replace(b'"NUMBER"', number)
    try:
        signed = canonicaljson.encode_canonical_json(orjson.loads(decoded))
    except ValueError:
        return  # no server can sign it

    results = await put(inbound, "1", signed)

    assert results[good.event_id] == {}
    assert await inbound.status(good) is EventStatus.ACCEPTED


async def test_last_of_equal_keys_counts(inbound: Inbound) -> None:
    good = inbound.history.add(CORA, *HI)
    last = orjson.dumps({"pdus": [good.pdu]}, option=orjson.OPT_SORT_KEYS)
    twice = last.replace(b'"sender":', b'"sender":"@admin:one.example","sender":', 1)
    peer = inbound.peers[ONE].client

    # The signature covers the bytes as they were sent.
    response = await peer.exchange(inbound.server.name, "PUT", f"{PREFIX}/send/1", twice)

    assert (response.status, orjson.loads(response.body)["pdus"]) == (200, {good.event_id: {}})
    stored = await inbound.server.world.process.services.core.rooms.events.get_one(good.event_id)
    assert stored is not None
    assert stored.event.canonical == good.canonical


async def test_transaction_id_with_other_content_is_another_transaction(inbound: Inbound) -> None:
    first, second = (inbound.history.add(CORA, *HI) for _ in range(2))
    bodies = [
        orjson.dumps({"pdus": [event.pdu]}, option=orjson.OPT_SORT_KEYS)
        for event in (first, second)
    ]

    results = [await put(inbound, "same", body) for body in (*bodies, *bodies)]

    assert results == [{first.event_id: {}}, {second.event_id: {}}] * 2
    assert await inbound.status(second) is EventStatus.ACCEPTED


async def test_old_state_that_is_sent_again_changes_nothing(inbound: Inbound) -> None:
    history = inbound.history
    old = history.add(ADMIN, "m.room.topic", {"topic": "old"}, "")
    new = history.add(ADMIN, "m.room.topic", {"topic": "new"}, "")
    await inbound.send(old, new)

    for events in ((old,), (new, old), (old, old, new)):
        await inbound.send(*events, origin=THREE)

    state = await inbound.server.world.states.current(inbound.room_id)
    assert state["m.room.topic", ""] == new.event_id


@pytest.mark.parametrize("version", ["1", "2"])
async def test_event_ids_of_other_servers_need_their_signature(
    database: Database, version: str
) -> None:
    async with open_inbound(database, joined_history(version)) as inbound:
        event = inbound.history.draft(CORA, *HI)
        stolen = EventID("$stolen:one.example")
        forged = changed_event(event, THREE, event_id=stolen)
        cosigned = changed_event(event, THREE, ONE, event_id=stolen)

        refused = await inbound.send(forged, origin=THREE)
        accepted = await inbound.send(cosigned, origin=THREE)

        assert "signature" in refused[stolen]["error"]
        assert accepted == {stolen: {}}


async def test_event_of_another_sender_with_the_same_id_is_ignored(database: Database) -> None:
    async with open_inbound(database, joined_history("1")) as inbound:
        history = inbound.history
        event = history.add(CORA, *HI)
        other = changed_event(
            history.draft(CORA, "m.room.topic", {"topic": "x"}, "", after=event.prev_events),
            THREE,
            event_id=event.event_id,
        )
        await inbound.send(event, origin=THREE)

        assert await inbound.send(other, origin=THREE) == {event.event_id: {}}

        stored = await inbound.server.world.events.get_one(event.event_id)
        assert stored is not None
        assert stored.event.type == "m.room.message"


@pytest.mark.parametrize("field", ["prev_events", "auth_events"])
async def test_events_that_cite_themselves_or_each_other_wait_without_end_for_nobody(
    database: Database, field: str
) -> None:
    async with open_inbound(database, joined_history("1")) as inbound:
        history = inbound.history
        draft = history.draft(CORA, *HI)
        first, second = (EventID(f"${name}:three.example") for name in ("first", "second"))
        cited = {first: second, second: first}
        events = [
            changed_event(draft, THREE, event_id=each, **{field: pairs([cited[each], each])})
            for each in cited
        ]
        good = history.add(BERT, *HI)

        await inbound.send(*events, origin=THREE)
        assert await inbound.send(good, origin=TWO) == {good.event_id: {}}

        assert await inbound.waiting() == 2
        assert {await inbound.status(event) for event in events} == {None}


async def test_redaction_does_not_reach_another_room(inbound: Inbound) -> None:
    world = inbound.server.world
    other_id = await world.create_room(ALICE)
    target = await world.send(other_id, ALICE, "secret")
    levels = {"users": {ADMIN: 100, CORA: 100}}
    redactions = [
        inbound.history.add(ADMIN, "m.room.power_levels", levels, ""),
        inbound.history.add(CORA, "m.room.redaction", {"redacts": target.event_id}),
    ]

    await inbound.send(*redactions)

    stored = await world.events.get_one(target.event_id)
    assert stored is not None
    assert stored.redacted_by is None


async def test_event_is_not_taken_into_the_room_that_it_does_not_name(inbound: Inbound) -> None:
    event = inbound.history.draft(CORA, *HI)
    other_id = RoomID("!other:one.example")
    moved = signed_pdu({**event.pdu, "room_id": other_id}, "11", THREE)

    results = await inbound.send(moved, origin=THREE)

    assert results == {}  # its ID is unknown without the version of the room
    assert await inbound.status(event) is None


async def test_servers_cannot_speak_for_users_of_this_server(inbound: Inbound) -> None:
    forged = inbound.history.draft(ALICE, *HI)
    unsigned = {**forged.pdu, "signatures": {}}
    resigned = signed_pdu(dict(forged.pdu), "11", THREE)

    results = await inbound.send(unsigned, resigned, origin=THREE)

    assert all("signature" in result["error"] for result in results.values())
    assert await inbound.status(forged) is None
    assert UserID(forged.sender) == ALICE
