"""To-device messages: delivered once, in order, until they are acknowledged."""

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hs.services.sync.sliding.request import (
    ScopedExtensionRequest,
    SlidingExtensionsRequest,
    ToDeviceExtensionRequest,
)
from hs.storage.accounts import users
from hs.storage.devices import devices
from tests.support.devices import Process
from tests.support.rooms import ALICE, BOB, ZOE


def bodies(answer: Any) -> list[str]:
    return [event["content"]["body"] for event in answer.get("to_device", {}).get("events", [])]


def text(body: str) -> dict[str, str]:
    return {"body": body}


async def test_messages_are_returned_in_order_until_acknowledged(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.device(BOB, "TABLET")
    for n in range(3):
        await server.send(phone, f"t{n}", {BOB: {"TABLET": text(f"m{n}")}})

    first = await server.sync(BOB, "TABLET")
    repeated = await server.sync(BOB, "TABLET", timeout_ms=0)
    after_acknowledgement = await server.sync(BOB, "TABLET", first["next_batch"])
    initial = await server.sync(BOB, "TABLET")

    assert first["to_device"]["events"][0] == {
        "type": "m.test",
        "sender": ALICE,
        "content": {"body": "m0"},
    }
    assert bodies(first) == bodies(repeated) == ["m0", "m1", "m2"]
    assert bodies(after_acknowledgement) == bodies(initial) == []


async def test_repeated_request_sends_nothing(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.device(BOB, "TABLET")

    answers = [await server.send(phone, "t", {BOB: {"TABLET": text("once")}}) for _ in range(2)]
    await server.send(phone, "t", {BOB: {"TABLET": text("other type")}}, "m.other")
    synced = await server.sync(BOB, "TABLET")

    assert [answer.json for answer in answers] == [{}, {}]
    assert bodies(synced) == ["once", "other type"]


async def test_star_means_every_device_and_unknown_devices_are_ignored(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    for name in ("A", "B"):
        await server.device(BOB, name)

    await server.send(phone, "1", {BOB: {"*": text("all")}, ZOE: {"*": text("far away")}})
    await server.send(phone, "2", {BOB: {"C": text("nobody")}})
    await server.device(BOB, "C")

    synced = [bodies(await server.sync(BOB, name)) for name in ("A", "B", "C")]
    assert synced == [["all"], ["all"], []]


async def test_messages_go_to_the_devices_that_exist_when_sent(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    for txn_id, change in (
        ("first", server.device(BOB, "OLD")),
        ("second", server.device(BOB, "NEW")),
        ("third", server.log_out(BOB, "OLD")),
        ("fourth", server.device(BOB, "OLD")),
    ):
        await change
        await server.send(phone, txn_id, {BOB: {"*": text(txn_id)}})

    received = [bodies(await server.sync(BOB, device_id)) for device_id in ("OLD", "NEW")]
    assert received == [["fourth"], ["second", "third", "fourth"]]


async def test_unannounced_new_device_receives_messages(
    server: Process,
) -> None:
    phone = await server.device(BOB, "PHONE")
    await server.send(phone, "1", {ALICE: {"*": text("early"), "NEW": text("early")}})
    # The login failed after this commit, and the client repeats it.
    await server.world.database.write(devices.ensure, ALICE, "NEW", None, 1)
    await server.device(ALICE, "NEW")

    await server.send(phone, "2", {ALICE: {"NEW": text("to it")}})
    await server.send(phone, "3", {ALICE: {"*": text("to all")}})

    assert bodies(await server.sync(ALICE, "NEW")) == ["to it", "to all"]


async def test_unannounced_recreated_device_receives_only_new_messages(
    server: Process,
) -> None:
    phone = await server.device(BOB, "PHONE")
    for name in ("A", "B"):
        await server.device(ALICE, name)
    await server.send(phone, "1", {ALICE: {"A": text("old"), "B": text("old")}})
    await server.world.database.write(devices.delete, ALICE, ["A"])
    await server.world.database.write(devices.ensure, ALICE, "A", None, 1)

    await server.send(phone, "2", {ALICE: {"A": text("new"), "B": text("new")}})

    synced = [bodies(await server.sync(ALICE, name)) for name in ("A", "B")]
    assert synced == [["new"], ["old", "new"]]


async def test_many_messages_are_paginated_without_loss(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.device(BOB, "TABLET")
    for n in range(250):
        await server.send(phone, f"t{n}", {BOB: {"TABLET": text(f"m{n}")}})

    pages: list[list[str]] = []
    since = None
    for _ in range(4):
        answer = await server.sync(BOB, "TABLET", since)
        since = answer["next_batch"]
        pages.append(bodies(answer))

    assert [len(page) for page in pages] == [100, 100, 50, 0]
    assert [body for page in pages for body in page] == [f"m{n}" for n in range(250)]


async def test_message_wakes_the_long_poll_of_its_device(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.device(BOB, "TABLET")
    since = (await server.sync(BOB, "TABLET"))["next_batch"]
    answers: list[Any] = []

    async def poll() -> None:
        answers.append(await server.sync(BOB, "TABLET", since, timeout_ms=60_000))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            await wait_all_tasks_blocked(0.05)
            await server.send(phone, "t", {BOB: {"TABLET": text("wake up")}})

    assert bodies(answers[0]) == ["wake up"]


async def test_empty_sync_contains_the_key_counts(server: Process) -> None:
    await server.device(BOB, "TABLET")
    since = (await server.sync(BOB, "TABLET"))["next_batch"]

    answer = await server.sync(BOB, "TABLET", since)

    assert answer == {
        "next_batch": since,
        "device_one_time_keys_count": {"signed_curve25519": 0},
        "device_unused_fallback_key_types": [],
    }


async def test_messages_are_deleted_with_their_device(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.device(BOB, "TABLET")
    await server.send(phone, "t", {BOB: {"TABLET": text("too late")}})

    await server.log_out(BOB, "TABLET")
    await server.device(BOB, "TABLET")

    assert bodies(await server.sync(BOB, "TABLET")) == []


@pytest.mark.parametrize("messages", [{BOB: {"TABLET": "text"}}, {"bob": {"TABLET": {}}}, {BOB: 1}])
async def test_messages_must_be_objects_by_user_and_device_id(
    server: Process, messages: dict[str, Any]
) -> None:
    phone = await server.device(ALICE, "PHONE")

    answer = await server.send(phone, "t", messages)

    assert (answer.status, answer.errcode) == (400, "M_BAD_JSON")


async def test_sliding_sync_paginates_messages_by_its_own_token(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.device(BOB, "TABLET")
    for n in range(3):
        await server.send(phone, f"t{n}", {BOB: {"TABLET": text(f"m{n}")}})

    async def request(since: str | None, pos: str | None) -> Any:
        extensions = SlidingExtensionsRequest(
            to_device=ToDeviceExtensionRequest(enabled=True, since=since, limit=2),
            e2ee=ScopedExtensionRequest(enabled=True),
        )
        return await server.slide(BOB, "TABLET", extensions, pos)

    first = await request(None, None)
    page = first["extensions"]["to_device"]
    repeated = (await request(None, first["pos"]))["extensions"]["to_device"]
    second = await request(page["next_batch"], first["pos"])
    remaining = second["extensions"]["to_device"]
    last = (await request(remaining["next_batch"], second["pos"]))["extensions"]["to_device"]

    received = [
        [event["content"]["body"] for event in part["events"]] for part in (page, remaining)
    ]
    assert received == [["m0", "m1"], ["m2"]]
    assert repeated == page
    assert last["events"] == []
    assert first["extensions"]["e2ee"] == {
        "device_one_time_keys_count": {"signed_curve25519": 0},
        "device_unused_fallback_key_types": [],
    }
    assert bodies(await server.sync(BOB, "TABLET")) == []


async def test_suspended_user_sends_to_own_devices_only(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.device(ALICE, "LAPTOP")
    await server.device(BOB, "TABLET")
    await server.world.database.write(users.set_suspended, ALICE, True)

    to_other = await server.send(
        phone, "t1", {ALICE: {"LAPTOP": text("verify")}, BOB: {"TABLET": text("hello")}}
    )
    to_own = await server.send(phone, "t2", {ALICE: {"LAPTOP": text("verify")}})

    assert (to_other.status, to_other.errcode) == (403, "M_USER_SUSPENDED")
    assert to_own.status == 200
    assert bodies(await server.sync(BOB, "TABLET")) == []
    assert bodies(await server.sync(ALICE, "LAPTOP")) == ["verify"]
