"""Messages to devices: once each, in order, until they are acknowledged."""

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hs.services.sync.sliding.request import ExtensionAsked, ExtensionsAsked, ToDeviceAsked
from hs.storage.devices import devices
from tests.support.devices import Process
from tests.support.rooms import ALICE, BOB, ZOE


def bodies(answer: Any) -> list[str]:
    return [one["content"]["body"] for one in answer.get("to_device", {}).get("events", [])]


def text(body: str) -> dict[str, str]:
    return {"body": body}


async def test_messages_come_in_order_and_go_when_acknowledged(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.device(BOB, "TABLET")
    for n in range(3):
        await server.send(phone, f"t{n}", {BOB: {"TABLET": text(f"m{n}")}})

    first = await server.sync(BOB, "TABLET")
    again = await server.sync(BOB, "TABLET", timeout_ms=0)
    nothing = await server.sync(BOB, "TABLET", first["next_batch"])
    from_scratch = await server.sync(BOB, "TABLET")

    assert first["to_device"]["events"][0] == {
        "type": "m.test",
        "sender": ALICE,
        "content": {"body": "m0"},
    }
    assert bodies(first) == bodies(again) == ["m0", "m1", "m2"]
    assert bodies(nothing) == bodies(from_scratch) == []


async def test_the_same_request_again_sends_nothing(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.device(BOB, "TABLET")

    answers = [await server.send(phone, "t", {BOB: {"TABLET": text("once")}}) for _ in range(2)]
    await server.send(phone, "t", {BOB: {"TABLET": text("other type")}}, "m.other")
    synced = await server.sync(BOB, "TABLET")

    assert [answer.json for answer in answers] == [{}, {}]
    assert bodies(synced) == ["once", "other type"]


async def test_a_star_means_every_device_and_unknown_devices_get_nothing(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    for name in ("A", "B"):
        await server.device(BOB, name)

    await server.send(phone, "1", {BOB: {"*": text("all")}, ZOE: {"*": text("far away")}})
    await server.send(phone, "2", {BOB: {"C": text("nobody")}})
    await server.device(BOB, "C")

    synced = [bodies(await server.sync(BOB, name)) for name in ("A", "B", "C")]
    assert synced == [["all"], ["all"], []]


async def test_messages_go_to_the_devices_there_are_then(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    for txn_id, change in (
        ("first", server.device(BOB, "OLD")),
        ("second", server.device(BOB, "NEW")),
        ("third", server.log_out(BOB, "OLD")),
        ("fourth", server.device(BOB, "OLD")),
    ):
        await change
        await server.send(phone, txn_id, {BOB: {"*": text(txn_id)}})

    got = [bodies(await server.sync(BOB, name)) for name in ("OLD", "NEW")]
    assert got == [["fourth"], ["second", "third", "fourth"]]


async def test_a_device_gets_messages_though_nobody_was_told_that_it_is_new(
    server: Process,
) -> None:
    phone = await server.device(BOB, "PHONE")
    await server.send(phone, "1", {ALICE: {"*": text("early"), "NEW": text("early")}})
    # What should follow failed, and the client tries again.
    await server.world.database.write(devices.ensure, ALICE, "NEW", None, 1)
    await server.device(ALICE, "NEW")

    await server.send(phone, "2", {ALICE: {"NEW": text("to it")}})
    await server.send(phone, "3", {ALICE: {"*": text("to all")}})

    assert bodies(await server.sync(ALICE, "NEW")) == ["to it", "to all"]


async def test_a_device_made_anew_gets_what_is_sent_though_nobody_was_told(
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


async def test_many_messages_come_in_pages_without_loss(server: Process) -> None:
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


async def test_a_message_wakes_the_long_poll_of_its_device(server: Process) -> None:
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


async def test_a_poll_without_news_still_tells_how_many_keys_are_left(server: Process) -> None:
    await server.device(BOB, "TABLET")
    since = (await server.sync(BOB, "TABLET"))["next_batch"]

    answer = await server.sync(BOB, "TABLET", since)

    assert answer == {
        "next_batch": since,
        "device_one_time_keys_count": {"signed_curve25519": 0},
        "device_unused_fallback_key_types": [],
    }


async def test_messages_of_a_device_are_gone_with_it(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.device(BOB, "TABLET")
    await server.send(phone, "t", {BOB: {"TABLET": text("too late")}})

    await server.log_out(BOB, "TABLET")
    await server.device(BOB, "TABLET")

    assert bodies(await server.sync(BOB, "TABLET")) == []


@pytest.mark.parametrize("messages", [{BOB: {"TABLET": "text"}}, {"bob": {"TABLET": {}}}, {BOB: 1}])
async def test_messages_must_be_objects_by_user_and_device(
    server: Process, messages: dict[str, Any]
) -> None:
    phone = await server.device(ALICE, "PHONE")

    answer = await server.send(phone, "t", messages)

    assert (answer.status, answer.errcode) == (400, "M_BAD_JSON")


async def test_sliding_sync_gives_messages_by_its_own_token(server: Process) -> None:
    phone = await server.device(ALICE, "PHONE")
    await server.device(BOB, "TABLET")
    for n in range(3):
        await server.send(phone, f"t{n}", {BOB: {"TABLET": text(f"m{n}")}})

    async def ask(since: str | None, pos: str | None) -> Any:
        asked = ExtensionsAsked(
            to_device=ToDeviceAsked(enabled=True, since=since, limit=2),
            e2ee=ExtensionAsked(enabled=True),
        )
        return await server.slide(BOB, "TABLET", asked, pos)

    first = await ask(None, None)
    page = first["extensions"]["to_device"]
    repeated = (await ask(None, first["pos"]))["extensions"]["to_device"]
    second = await ask(page["next_batch"], first["pos"])
    rest = second["extensions"]["to_device"]
    last = (await ask(rest["next_batch"], second["pos"]))["extensions"]["to_device"]

    told = [[one["content"]["body"] for one in one_page["events"]] for one_page in (page, rest)]
    assert told == [["m0", "m1"], ["m2"]]
    assert repeated == page
    assert last["events"] == []
    assert first["extensions"]["e2ee"] == {
        "device_one_time_keys_count": {"signed_curve25519": 0},
        "device_unused_fallback_key_types": [],
    }
    assert bodies(await server.sync(BOB, "TABLET")) == []
