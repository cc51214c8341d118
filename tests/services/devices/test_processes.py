"""Devices in a process that owns no stream: it calls the owners and follows their streams."""

from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest

from hs.services.sync.sliding.request import SlidingExtensionsRequest, ToDeviceExtensionRequest
from hs.storage.database import Database
from tests.support.composition import SETTINGS, Neighbourhood, worker_settings
from tests.support.devices import (
    V3,
    KeyPair,
    Process,
    one_time_keys,
    open_devices,
    plain_keys,
)
from tests.support.rooms import ALICE, BOB

MESSAGES = SlidingExtensionsRequest(to_device=ToDeviceExtensionRequest(True))

NAMES = ("main", "reader")

Pair = tuple[Process, Process]


@pytest.fixture
async def pair(database: Database) -> AsyncIterator[Pair]:
    """The owner of all streams, and a process that only follows them."""
    neighbours = Neighbourhood()
    main, follower = (worker_settings(SETTINGS, *names) for names in (NAMES, NAMES[::-1]))
    async with (
        open_devices(database, main, neighbours) as owner,
        open_devices(database, follower, neighbours) as reader,
    ):
        yield owner, reader


async def test_each_process_sees_uploads_and_messages_of_the_other(pair: Pair) -> None:
    owner, reader = pair
    await owner.world.create_room(ALICE, join=[BOB])
    phone, tablet = await owner.device(ALICE, "PHONE"), await reader.device(BOB, "TABLET")
    since = (await owner.sync(ALICE, "PHONE"))["next_batch"]

    await reader.upload(
        tablet, device_keys=plain_keys(BOB, "TABLET"), one_time_keys=one_time_keys(1, 2)
    )
    await reader.send(tablet, "t", {ALICE: {"*": {"body": "hello"}}})
    owner_sync = await owner.sync(ALICE, "PHONE", since)
    claimed = await owner.claim(phone, BOB, "TABLET") + await reader.claim(phone, BOB, "TABLET")
    reader_sync = await reader.sync(ALICE, "PHONE", since)
    bob_sync = await reader.sync(BOB, "TABLET")

    assert owner_sync["device_lists"] == {"changed": [BOB]}
    assert [event["content"] for event in owner_sync["to_device"]["events"]] == [{"body": "hello"}]
    assert reader_sync["to_device"] == owner_sync["to_device"]
    assert (await owner.query(phone, BOB))["device_keys"][BOB].keys() == {"TABLET"}
    assert claimed == ["signed_curve25519:0001", "signed_curve25519:0002"]
    assert bob_sync["device_one_time_keys_count"] == {"signed_curve25519": 0}


async def test_messages_acknowledged_to_one_process_are_not_returned_by_another(
    pair: Pair,
) -> None:
    owner, reader = pair
    phone = await owner.device(ALICE, "PHONE")
    await owner.send(phone, "t", {ALICE: {"PHONE": {"body": "once"}}})

    first = await reader.sync(ALICE, "PHONE")
    second = await owner.sync(ALICE, "PHONE", first["next_batch"])
    initial = await reader.sync(ALICE, "PHONE", None)

    assert "to_device" in first
    assert "to_device" not in second
    assert "to_device" not in initial


async def test_old_token_does_not_return_messages_acknowledged_to_another_process(
    pair: Pair,
) -> None:
    owner, reader = pair
    phone = await owner.device(ALICE, "PHONE")
    await owner.send(phone, "t1", {ALICE: {"PHONE": {"body": "before"}}})
    old_token = (await reader.sync(ALICE, "PHONE"))["next_batch"]
    sliding = await reader.slide(ALICE, "PHONE", MESSAGES)
    messages = attrs.evolve(
        MESSAGES, to_device=ToDeviceExtensionRequest(True, since=next_batch_of(sliding))
    )
    await owner.sync(ALICE, "PHONE", old_token)
    await owner.send(phone, "t2", {ALICE: {"PHONE": {"body": "once"}}})

    first = await owner.sync(ALICE, "PHONE", old_token)
    await owner.sync(ALICE, "PHONE", first["next_batch"])
    again = await reader.sync(ALICE, "PHONE", old_token)
    sliding = await reader.slide(ALICE, "PHONE", messages, sliding["pos"])
    await owner.send(phone, "t3", {ALICE: {"PHONE": {"body": "new"}}})
    later = await reader.sync(ALICE, "PHONE", old_token)

    assert bodies(first["to_device"]) == ["once"]
    assert "to_device" not in again
    assert bodies(sliding["extensions"]["to_device"]) == []
    assert bodies(later["to_device"]) == ["new"]


def bodies(section: Any) -> list[str]:
    return [event["content"]["body"] for event in section["events"]]


def next_batch_of(response: Any) -> str:
    token: str = response["extensions"]["to_device"]["next_batch"]
    return token


async def test_keys_signatures_and_removals_through_a_following_process(pair: Pair) -> None:
    owner, reader = pair
    phone = await reader.device(ALICE, "PHONE")
    device = KeyPair.of_device(ALICE, "PHONE", 1)
    master, signing = KeyPair.of_user(ALICE, 2), KeyPair.of_user(ALICE, 3)
    await reader.upload(phone, device_keys=device.device_keys())
    tablet = await owner.device(BOB, "TABLET")
    await owner.query(tablet, ALICE)

    keys = {
        "master_key": master.usable_as("master"),
        "self_signing_key": master.signing(signing.usable_as("self_signing")),
    }
    await reader.client.post(f"{V3}/keys/device_signing/upload", keys, token=phone)
    signed = {ALICE: {"PHONE": signing.signing(device.device_keys())}}
    await reader.client.post(f"{V3}/keys/signatures/upload", signed, token=phone)
    device_keys = (await owner.query(tablet, ALICE))["device_keys"][ALICE]["PHONE"]
    await reader.log_out(ALICE, "PHONE")
    after_logout = (await owner.query(tablet, ALICE))["device_keys"][ALICE]

    assert len(device_keys["signatures"][ALICE]) == 2
    assert after_logout == {}
