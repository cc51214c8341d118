"""EDUs of other servers: applied once, checked each on its own."""

from collections.abc import Mapping
from typing import Any

import pytest

from hs.core.ids import RoomID, UserID
from hs.services.ephemeral.presence_writer import REMOTE_TIMEOUT_MS
from hs.storage.database import Tx
from tests.services.federation.inbound.inbound_scene import (
    ONE,
    THREE,
    TWO,
    Inbound,
    count_rows,
    joined_history,
)
from tests.support.peers import ADMIN, BERT, CORA
from tests.support.rooms import ALICE

HI = ("m.room.message", {"body": "hi"})


def typing(inbound: Inbound, user_id: UserID, is_typing: bool = True, /, **changes: Any) -> Any:
    """Return an m.typing EDU."""
    content = {"room_id": inbound.room_id, "user_id": user_id, "typing": is_typing, **changes}
    return {"edu_type": "m.typing", "content": content}


def presence(user_id: UserID, /, **changes: Any) -> Any:
    """Return an m.presence EDU."""
    push = {"user_id": user_id, "presence": "online", "last_active_ago": 10, **changes}
    return {"edu_type": "m.presence", "content": {"push": [push]}}


def message_to(devices: Mapping[str, Any], message_id: str = "m1", **changes: Any) -> Any:
    """Return an m.direct_to_device EDU of Cora."""
    content = {
        "sender": CORA,
        "type": "m.test",
        "message_id": message_id,
        "messages": devices,
        **changes,
    }
    return {"edu_type": "m.direct_to_device", "content": content}


def typing_users(inbound: Inbound) -> tuple[UserID, ...]:
    """Return who is typing in the room."""
    return inbound.server.process.services.ephemeral.typing_users.typing_users(inbound.room_id)


async def test_user_types_and_stops(inbound: Inbound) -> None:
    await inbound.send(edus=[typing(inbound, CORA)], origin=THREE)
    assert typing_users(inbound) == (CORA,)

    await inbound.send(edus=[typing(inbound, CORA, False)], origin=THREE)
    assert typing_users(inbound) == ()


async def test_users_of_others_and_strangers_do_not_type(inbound: Inbound) -> None:
    edus = [
        typing(inbound, CORA),
        typing(inbound, UserID("@stranger:one.example")),
        typing(inbound, ADMIN, room_id="!unknown:one.example"),
        typing(inbound, ADMIN, room_id="!\0:one.example"),
        typing(inbound, ADMIN, user_id=5),
    ]
    await inbound.send(edus=edus, origin=ONE)

    assert typing_users(inbound) == ()


async def test_acl_applies_to_typing_and_receipts(inbound: Inbound) -> None:
    event = inbound.history.add(ADMIN, "m.room.server_acl", {"deny": ["three.*"]}, "")
    await inbound.send(event)

    edus = [typing(inbound, CORA), receipt(inbound, CORA, event.event_id)]
    await inbound.send(edus=edus, origin=THREE)

    assert typing_users(inbound) == ()
    assert await receipts(inbound) == {}


def receipt(inbound: Inbound, user_id: UserID, event_id: str, **data: Any) -> Any:
    """Return an m.receipt EDU."""
    by_user = {user_id: {"event_ids": [event_id], "data": {"ts": 5, **data}}}
    return {"edu_type": "m.receipt", "content": {inbound.room_id: {"m.read": by_user}}}


async def receipts(inbound: Inbound) -> dict[tuple[str, str], str]:
    """Return the receipts of the room: events by user and thread."""
    room = await inbound.server.process.services.ephemeral.receipts.of_room(inbound.room_id)
    found: dict[tuple[str, str], str] = {}
    for user_id in (ADMIN, BERT, CORA):
        for thread_id in ("", "main"):
            current = room.find("m.read", user_id, thread_id)
            if current is not None:
                found[user_id, thread_id] = current.event_id
    return found


async def test_receipts_move_forward(inbound: Inbound) -> None:
    first, second = (inbound.history.add(CORA, *HI) for _ in range(2))
    await inbound.send(first, second)

    for event_id in (second.event_id, first.event_id):
        await inbound.send(edus=[receipt(inbound, BERT, event_id)], origin=TWO)
    await inbound.send(edus=[receipt(inbound, BERT, first.event_id, thread_id="main")], origin=TWO)

    assert await receipts(inbound) == {
        (BERT, ""): second.event_id,
        (BERT, "main"): first.event_id,
    }


async def test_receipts_of_others_and_malformed_ones_are_skipped(inbound: Inbound) -> None:
    event = inbound.history.add(CORA, *HI)
    edus = [
        receipt(inbound, CORA, event.event_id),
        receipt(inbound, BERT, event.event_id, thread_id="$no:thread"),
        receipt(inbound, BERT, "no event ID"),
        {"edu_type": "m.receipt", "content": {"!a:b": 5, inbound.room_id: {"m.read": 5}}},
        {"edu_type": "m.receipt", "content": {inbound.room_id: {"m.read": {BERT: {}}}}},
        {"edu_type": "m.receipt", "content": {f"!{n}:b": {"m.read": {}} for n in range(60)}},
    ]
    await inbound.send(event, edus=edus, origin=TWO)

    assert await receipts(inbound) == {}


async def test_presence_of_members_is_shown_until_it_is_out_of_date(inbound: Inbound) -> None:
    states = inbound.server.process.services.ephemeral.presence.states
    stranger = UserID("@stranger:three.example")
    edus = [presence(CORA, status_msg="here"), presence(stranger), presence(BERT)]

    await inbound.send(edus=edus, origin=THREE)

    found = await states.get([CORA, BERT, stranger])
    assert {user_id: row.state for user_id, row in found.items()} == {CORA: "online"}
    writer = inbound.server.process.services.ephemeral.presence.writer
    inbound.server.world.clock.advance(REMOTE_TIMEOUT_MS + 1)
    assert hasattr(writer, "expire")
    writer.expire()
    assert (await states.get([CORA]))[CORA].state == "offline"


async def test_presence_that_arrives_before_its_room_is_shown_after_the_join(
    inbound: Inbound,
) -> None:
    states = inbound.server.process.services.ephemeral.presence.states
    stranger = UserID("@stranger:three.example")
    other = joined_history(members=[stranger], room_id=RoomID("!other:one.example"))

    await inbound.send(edus=[presence(stranger)], origin=THREE)
    assert await states.get([stranger]) == {}

    receiver = inbound.server.process.services.core.rooms.receiver
    async with inbound.server.process.duties("early presence"):
        await receiver.seed_room(RoomID("!other:one.example"), "11", *other.seed())

        async def is_shown() -> bool:
            return stranger in await states.get([stranger])

        await inbound.wait_until(is_shown)

    assert (await states.get([stranger]))[stranger].state == "online"


@pytest.mark.parametrize(
    "change",
    [
        {"presence": "busy"},
        {"presence": None},
        {"user_id": "cora"},
        {"user_id": 5},
    ],
)
async def test_malformed_presence_is_skipped(inbound: Inbound, change: Any) -> None:
    states = inbound.server.process.services.ephemeral.presence.states

    await inbound.send(edus=[presence(CORA, **change), presence(CORA)], origin=THREE)

    assert (await states.get([CORA]))[CORA].state == "online"


async def list_messages(tx: Tx) -> list[bytes]:
    """Return all waiting messages."""
    rows = await tx.fetch("SELECT message FROM inbox_messages ORDER BY stream_id")
    return [bytes(row[0]) for row in rows]


async def add_phone(inbound: Inbound) -> None:
    """Add a device of Alice."""
    database = inbound.server.world.database

    async def insert(tx: Tx) -> None:
        await tx.execute("INSERT INTO users (user_id, created_ms) VALUES ($1, 1)", ALICE)
        await tx.execute(
            "INSERT INTO devices (user_id, device_id, inbox, created_ms) VALUES ($1, $2, 1, 1)",
            ALICE,
            "PHONE",
        )

    await database.write(insert)


async def test_to_device_message_is_stored_once(inbound: Inbound) -> None:
    await add_phone(inbound)
    edu = message_to({ALICE: {"PHONE": {"n": 1}}, "@other:two.example": {"X": {}}})

    await inbound.send(edus=[edu, edu], origin=THREE)
    await inbound.send(edus=[{**edu, "content": {**edu["content"], "type": "m.x"}}], origin=THREE)

    messages = await inbound.server.world.database.read(list_messages)
    assert len(messages) == 1
    assert b'"sender":"@cora:three.example"' in messages[0]


@pytest.mark.parametrize(
    "change",
    [
        {"sender": ADMIN},
        {"sender": None},
        {"message_id": ""},
        {"message_id": "x" * 300},
        {"message_id": "\0"},
        {"type": 5},
        {"messages": []},
        {"messages": {ALICE: 5}},
        {"messages": {ALICE: {"PHONE": 5}}},
        {"messages": {ALICE: {"\0": {}}}},
        {"messages": {"alice": {"PHONE": {}}}},
    ],
)
async def test_malformed_to_device_message_is_skipped(inbound: Inbound, change: Any) -> None:
    await add_phone(inbound)
    to_phone: dict[str, Any] = {ALICE: {"PHONE": {}}}

    edus = [message_to(to_phone, **change), message_to(to_phone, "m2")]
    await inbound.send(edus=edus, origin=THREE)

    assert await inbound.server.world.database.read(count_rows, "inbox_messages") == 1


async def test_unknown_edus_are_counted(inbound: Inbound) -> None:
    event = inbound.history.add(CORA, *HI)

    results = await inbound.send(event, edus=[{"edu_type": "x.y", "content": {}}])

    assert results == {event.event_id: {}}
