"""Dehydrated devices: one per user, which receives messages until it is replaced."""

from typing import Any

import pytest

from tests.support.devices import V3, Process, one_time_keys, plain_keys
from tests.support.rooms import ALICE, BOB
from tests.support.web import WebResponse

PATH = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"


def dehydrated(device_id: str, **more: Any) -> dict[str, Any]:
    return {
        "device_id": device_id,
        "device_data": {"algorithm": "org.matrix.msc3814.v2", "pickle": device_id},
        "device_keys": {**plain_keys(ALICE, device_id), "dehydrated": True},
        "one_time_keys": one_time_keys(1),
        "fallback_keys": {"signed_curve25519:fb": {"key": "k", "fallback": True}},
        "initial_device_display_name": "Sleeper",
        **more,
    }


@pytest.fixture
async def alice(server: Process) -> str:
    """The access token of Alice's phone."""
    return await server.device(ALICE, "PHONE")


async def put(server: Process, token: str, body: Any) -> WebResponse:
    return await server.client.put(PATH, body, token=token)


async def test_dehydrated_device_is_stored_and_its_keys_can_be_claimed(
    server: Process, alice: str
) -> None:
    bob = await server.device(BOB, "BOBS")

    stored = await put(server, alice, dehydrated("SLEEP"))
    response = await server.client.get(PATH, token=alice)
    keys = (await server.query(bob, ALICE))["device_keys"][ALICE]

    assert stored.json == {"device_id": "SLEEP"}
    assert response.json == {
        "device_id": "SLEEP",
        "device_data": dehydrated("SLEEP")["device_data"],
    }
    assert keys["SLEEP"]["dehydrated"] is True
    assert keys["SLEEP"]["unsigned"] == {"device_display_name": "Sleeper"}
    assert await server.claim(bob, ALICE, "SLEEP") == ["signed_curve25519:0001"]


async def test_new_dehydrated_device_replaces_the_old_one(server: Process, alice: str) -> None:
    await put(server, alice, dehydrated("OLD"))

    await put(server, alice, dehydrated("NEW"))

    assert (await server.query(alice, ALICE))["device_keys"][ALICE].keys() == {"NEW"}
    assert await server.claim(alice, ALICE, "OLD") == []
    assert (await server.client.get(PATH, token=alice)).json["device_id"] == "NEW"


async def test_messages_of_the_dehydrated_device_are_paginated(server: Process, alice: str) -> None:
    await put(server, alice, dehydrated("SLEEP"))
    bob = await server.device(BOB, "BOBS")
    for n in range(120):
        await server.send(bob, f"t{n}", {ALICE: {"SLEEP": {"n": n}}})

    first = await server.client.get(f"{PATH}/SLEEP/events", token=alice)
    token = first.json["next_batch"]
    second = await server.client.post(f"{PATH}/SLEEP/events", {"next_batch": token}, token=alice)
    token = second.json["next_batch"]
    last = await server.client.post(f"{PATH}/SLEEP/events", {"next_batch": token}, token=alice)

    numbers = [event["content"]["n"] for page in (first, second) for event in page.json["events"]]
    assert numbers == list(range(120))
    assert last.json == {"events": [], "next_batch": token}


async def test_unstable_pagination_ends_without_a_next_batch(server: Process, alice: str) -> None:
    await put(server, alice, dehydrated("SLEEP"))
    bob = await server.device(BOB, "BOBS")
    for n in range(120):
        await server.send(bob, f"t{n}", {ALICE: {"SLEEP": {"n": n}}})

    numbers: list[int] = []
    query: dict[str, str] = {}
    while True:
        page = await server.client.get(f"{PATH}/SLEEP/events", token=alice, query=query)
        numbers += [event["content"]["n"] for event in page.json["events"]]
        if "next_batch" not in page.json:
            break
        query = {"from": page.json["next_batch"]}

    assert numbers == list(range(120))
    assert page.json == {"events": []}


async def test_dehydrated_device_is_deleted_with_its_keys(server: Process, alice: str) -> None:
    await put(server, alice, dehydrated("SLEEP"))

    deleted = await server.client.delete(PATH, token=alice)
    again = await server.client.delete(PATH, token=alice)

    assert deleted.json == {"device_id": "SLEEP"}
    assert (again.status, again.errcode) == (404, "M_NOT_FOUND")
    assert (await server.client.get(PATH, token=alice)).status == 404
    assert (await server.query(alice, ALICE))["device_keys"] == {ALICE: {}}


async def test_messages_of_other_devices_cannot_be_read(server: Process, alice: str) -> None:
    without_dehydrated = await server.client.get(f"{PATH}/PHONE/events", token=alice)
    await put(server, alice, dehydrated("SLEEP"))

    with_dehydrated = await server.client.get(f"{PATH}/PHONE/events", token=alice)

    assert (without_dehydrated.status, without_dehydrated.errcode) == (404, "M_NOT_FOUND")
    assert (with_dehydrated.status, with_dehydrated.errcode) == (403, "M_FORBIDDEN")


@pytest.mark.parametrize(
    ("changes", "errcode"),
    [
        ({"device_id": "PHONE", "device_keys": plain_keys(ALICE, "PHONE")}, "M_INVALID_PARAM"),
        ({"device_keys": plain_keys(ALICE, "ELSE")}, "M_INVALID_PARAM"),
        ({"device_data": {}}, "M_BAD_JSON"),
        ({"one_time_keys": {"nameless": "x"}}, "M_INVALID_PARAM"),
    ],
)
async def test_invalid_dehydrated_device_is_rejected(
    server: Process, alice: str, changes: dict[str, Any], errcode: str
) -> None:
    response = await put(server, alice, {**dehydrated("SLEEP"), **changes})

    assert (response.status, response.errcode) == (400, errcode)
    assert (await server.client.get(PATH, token=alice)).status == 404


async def test_dehydrated_device_is_found_by_keys_query(server: Process, alice: str) -> None:
    await put(server, alice, dehydrated("SLEEP"))

    answer = await server.client.post(
        f"{V3}/keys/query", {"device_keys": {ALICE: ["SLEEP"]}}, token=alice
    )

    assert answer.json["device_keys"][ALICE].keys() == {"SLEEP"}
