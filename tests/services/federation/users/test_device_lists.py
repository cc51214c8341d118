"""Device lists of users of other servers: kept, updated, fetched again, forgotten."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from hs.core.canonical_json import canonical_json
from hs.core.errors import Forbidden, InvalidParam
from hs.core.ids import UserID
from hs.services.federation.users.fetched_keys import MAX_DEVICES, FetchedKeys
from hs.storage.database import Database
from hs.storage.devices import device_lists
from hs.storage.federation import remote_devices
from tests.services.federation.users.remote_lists import (
    ANN,
    FAR,
    GET_DEVICES,
    NEAR,
    QUERY_KEYS,
    USER,
    DevicePeer,
    Near,
    open_near,
    share_room,
    wait_for,
)
from tests.support.devices import V3, KeyPair, plain_keys
from tests.support.federation import PeerNetwork


@pytest.fixture
async def near(database: Database) -> AsyncIterator[Near]:
    async with open_near(PeerNetwork(), database) as near:
        yield near


async def kept_list(near: Near) -> tuple[DevicePeer, str]:
    """Return a peer whose user's list is kept, and the token of a local device."""
    far = await share_room(near)
    token = await near.devices.device(ANN, "HERS")
    assert await near.query(token) == {"PHONE"}
    return far, token


async def changed_since(near: Near, since: str) -> list[UserID]:
    response = await near.devices.sync(ANN, "HERS", since)
    changed: list[UserID] = response.get("device_lists", {}).get("changed", [])
    return changed


async def test_list_is_fetched_once(near: Near) -> None:
    far, token = await kept_list(near)

    assert await near.query(token) == {"PHONE"}
    assert (far.count(GET_DEVICES), far.count(QUERY_KEYS)) == (1, 0)


async def test_keys_of_users_without_shared_room_are_asked_for_each_time(near: Near) -> None:
    far = await share_room(near)
    token = await near.devices.device(ANN, "HERS")
    stranger = UserID("@stranger:far.example")
    far.peer.responses[QUERY_KEYS] = (200, {"device_keys": {stranger: {"X": {}}, USER: {"Y": {}}}})

    for _ in range(2):
        response = await near.devices.query(token, stranger)
        assert response["device_keys"].keys() == {stranger}
    assert far.count(QUERY_KEYS) == 2


async def test_update_is_applied_and_clients_are_told(near: Near) -> None:
    far, token = await kept_list(near)
    since = (await near.devices.sync(ANN, "HERS"))["next_batch"]

    await near.lists.updates.update_device(FAR, far.update("TABLET", device_display_name="T"))

    assert await changed_since(near, since) == [USER]
    keys = (await near.devices.query(token, USER))["device_keys"][USER]
    assert keys["TABLET"] == {
        **plain_keys(USER, "TABLET"),
        "unsigned": {"device_display_name": "T"},
    }
    await near.lists.updates.update_device(FAR, far.update("PHONE", deleted=True))
    assert await near.query(token) == {"TABLET"}
    assert (far.count(GET_DEVICES), far.count(QUERY_KEYS)) == (1, 0)


async def test_updates_arrive_in_transactions(near: Near) -> None:
    far, token = await kept_list(near)
    master = KeyPair.of_user(USER, 1).usable_as("master")
    edus = [
        {"edu_type": "m.device_list_update", "content": far.update("TABLET")},
        {"edu_type": "m.signing_key_update", "content": {"user_id": USER, "master_key": master}},
    ]
    content = {"origin": FAR, "origin_server_ts": 1, "pdus": [], "edus": edus}

    await far.peer.client.request(
        NEAR, "PUT", "/_matrix/federation/v1/send/1", canonical_json(content)
    )

    response = await near.devices.query(token, USER)
    assert response["device_keys"][USER].keys() == {"PHONE", "TABLET"}
    assert response["master_keys"] == {USER: master}


async def test_repeated_update_changes_nothing(near: Near) -> None:
    far, _ = await kept_list(near)
    update = far.update("TABLET")
    await near.lists.updates.update_device(FAR, update)
    since = (await near.devices.sync(ANN, "HERS"))["next_batch"]

    await near.lists.updates.update_device(FAR, update)

    assert await changed_since(near, since) == []
    assert await near.fetch_due() == 0


@pytest.mark.parametrize(
    "changes", [{"prev_id": [11]}, {"prev_id": []}, {"stream_id": 9, "prev_id": [8]}]
)
async def test_list_with_a_gap_is_fetched_again(near: Near, changes: Any) -> None:
    far, token = await kept_list(near)
    since = (await near.devices.sync(ANN, "HERS"))["next_batch"]
    far.stream_id, far.devices = 12, ["PHONE", "TABLET"]

    await near.lists.updates.update_device(FAR, far.update("TABLET", **changes))
    told_early = await changed_since(near, since)
    assert await near.fetch_due() == 1

    assert told_early == []
    assert await changed_since(near, since) == [USER]
    assert await near.query(token) == {"PHONE", "TABLET"}
    assert (far.count(GET_DEVICES), far.count(QUERY_KEYS)) == (2, 0)
    await near.lists.updates.update_device(FAR, far.update("WATCH"))
    assert await near.query(token) == {"PHONE", "TABLET", "WATCH"}


async def test_stale_list_is_not_shown(near: Near) -> None:
    far, token = await kept_list(near)
    far.devices = ["TABLET"]

    await near.lists.updates.update_device(FAR, far.update("TABLET", 99))

    assert await near.query(token) == {"TABLET"}
    assert far.count(QUERY_KEYS) == 1


async def test_update_during_the_fetch_keeps_the_list_stale(near: Near) -> None:
    far, _ = await kept_list(near)
    await near.lists.updates.update_device(FAR, far.update("TABLET", 99))
    ((record, _),) = await near.server.world.database.read(remote_devices.stale_lists, -1, "", 10)
    await near.lists.updates.update_device(FAR, far.update("WATCH"))

    await near.fetch_due()
    assert await near.stale_users() == []
    await near.lists.updates.update_device(FAR, far.update("TABLET", 99))
    await near.lists.writer.store(FAR, [FetchedKeys(USER, 50, {}, {})], {USER: record.mark})

    assert await near.stale_users() == [USER]


async def test_restart_forgets_no_stale_list(database: Database) -> None:
    network = PeerNetwork()
    async with open_near(network, database) as near:
        far, token = await kept_list(near)
        network.down.add(FAR)
        await near.lists.updates.update_device(FAR, far.update("TABLET", 99))
        await near.fetch_due()
        network.down.discard(FAR)
        far.devices = ["PHONE", "TABLET"]

    async with open_near(network, database) as near:
        near.server.process.clock.advance(60_000)
        async with near.server.process.duties("stale device lists"):
            await wait_for(near.stale_users, [])
        assert await near.query(token) == {"PHONE", "TABLET"}
        assert far.count(QUERY_KEYS) == 0


async def test_failing_server_is_asked_less_and_less(near: Near) -> None:
    far, _ = await kept_list(near)
    far.peer.responses[GET_DEVICES] = (500, {})
    await near.lists.updates.update_device(FAR, far.update("TABLET", 99))

    for _ in range(300):
        await near.fetch_due()
        near.server.process.clock.advance(60_000)

    assert 5 < far.count(GET_DEVICES) < 15


async def test_signing_keys_are_updated(near: Near) -> None:
    far, token = await kept_list(near)
    master, signing = KeyPair.of_user(USER, 1), KeyPair.of_user(USER, 2)
    since = (await near.devices.sync(ANN, "HERS"))["next_batch"]
    content = {
        "user_id": USER,
        "master_key": master.usable_as("master"),
        "self_signing_key": master.signing(signing.usable_as("self_signing")),
    }

    for _ in range(2):
        await near.lists.updates.update_signing_keys(FAR, content)

    assert await changed_since(near, since) == [USER]
    response = await near.devices.query(token, USER)
    assert response["master_keys"] == {USER: master.usable_as("master")}
    assert response["self_signing_keys"] == {USER: content["self_signing_key"]}
    assert far.count(QUERY_KEYS) == 0


async def test_signature_on_a_remote_master_key_is_shown_to_its_signer(near: Near) -> None:
    _, token = await kept_list(near)
    theirs = KeyPair.of_user(USER, 1)
    content = {"user_id": USER, "master_key": theirs.usable_as("master")}
    await near.lists.updates.update_signing_keys(FAR, content)
    master, signing = KeyPair.of_user(ANN, 2), KeyPair.of_user(ANN, 3)
    keys = {
        "master_key": master.usable_as("master"),
        "user_signing_key": master.signing(signing.usable_as("user_signing")),
    }
    await near.devices.client.post(f"{V3}/keys/device_signing/upload", keys, token=token)
    signed = signing.signing(theirs.usable_as("master"))

    uploaded = await near.devices.client.post(
        f"{V3}/keys/signatures/upload", {USER: {theirs.public: signed}}, token=token
    )

    assert uploaded.json == {"failures": {}}
    assert (await near.devices.query(token, USER))["master_keys"] == {USER: signed}


async def test_list_is_forgotten_when_no_room_is_shared(near: Near) -> None:
    far, token = await kept_list(near)
    rooms = await near.server.world.memberships.joined_rooms(ANN)
    since = (await near.devices.sync(ANN, "HERS"))["next_batch"]

    async with near.server.process.duties("device list cleanup"):
        for room_id in rooms:
            await near.server.world.leave(room_id, ANN)
        assert await near.query(token) == {"PHONE"}
        assert far.count(QUERY_KEYS) == 1
        await wait_for(near.kept_users, [])

    response = await near.devices.sync(ANN, "HERS", since)
    assert USER in response["device_lists"]["left"]


@pytest.mark.parametrize(
    "extra",
    [
        {"user_id": ANN},
        {"devices": 7},
        {"devices": [{"device_id": str(n), "keys": {}} for n in range(MAX_DEVICES + 1)]},
    ],
)
async def test_wrong_device_lists_are_failures_of_that_server(near: Near, extra: Any) -> None:
    far = await share_room(near)
    far.extra = extra
    token = await near.devices.device(ANN, "HERS")

    response = await near.devices.query(token, USER)

    assert response["failures"].keys() == {FAR}
    assert USER not in response["device_keys"]


async def test_keys_of_other_users_and_devices_are_left_out(near: Near) -> None:
    far = await share_room(near)
    token = await near.devices.device(ANN, "HERS")
    master = KeyPair.of_user(ANN, 1).usable_as("master")
    far.extra = {
        "devices": [
            {"device_id": "A", "keys": plain_keys(ANN, "A")},
            {"device_id": "B", "keys": plain_keys(USER, "A")},
            {"device_id": "C", "keys": {"padding": "x" * 70_000}},
            {"device_id": 7, "keys": {}},
            {"device_id": "D"},
            [],
            {"device_id": "E", "keys": plain_keys(USER, "E")},
        ],
        "master_key": master,
    }

    response = await near.devices.query(token, USER)

    assert response["device_keys"][USER].keys() == {"E"}
    assert response["master_keys"] == {}


@pytest.mark.parametrize(
    "changes",
    [{"device_id": ""}, {"stream_id": "1"}, {"stream_id": -1}, {"prev_id": ["a"]}, {"prev_id": 3}],
)
async def test_malformed_updates_are_rejected(near: Near, changes: Any) -> None:
    far, _ = await kept_list(near)

    with pytest.raises(InvalidParam):
        await near.lists.updates.update_device(FAR, {**far.update("TABLET"), **changes})
    assert await near.fetch_due() == 0


async def test_servers_speak_for_their_own_users_only(near: Near) -> None:
    far, _ = await kept_list(near)

    with pytest.raises(Forbidden):
        await near.lists.updates.update_device(NEAR, far.update("TABLET"))


async def test_clients_are_told_of_updates_of_users_whose_lists_are_not_kept(near: Near) -> None:
    far = await share_room(near)
    await near.devices.device(ANN, "HERS")
    master = KeyPair.of_user(USER, 1).usable_as("master")

    for _ in range(2):
        since = (await near.devices.sync(ANN, "HERS"))["next_batch"]
        await near.lists.updates.update_device(FAR, far.update("TABLET"))
        assert await changed_since(near, since) == [USER]
    since = (await near.devices.sync(ANN, "HERS"))["next_batch"]
    content = {"user_id": USER, "master_key": master}
    await near.lists.updates.update_signing_keys(FAR, content)

    assert await changed_since(near, since) == [USER]
    assert await near.kept_users() == []


@pytest.mark.parametrize("is_kept", [True, False])
async def test_user_who_left_and_rejoined_has_changed(near: Near, is_kept: bool) -> None:
    far, token = await kept_list(near) if is_kept else (await share_room(near), "")
    token = token or await near.devices.device(ANN, "HERS")
    far.devices = ["TABLET"]

    async with near.server.process.duties("device list cleanup"):
        since = (await near.devices.sync(ANN, "HERS"))["next_batch"]
        await far.change_membership(near, "leave", "join")

        assert await changed_since(near, since) == [USER]
        await wait_for(near.kept_users, [])
        assert await near.query(token) == {"TABLET"}
        since = (await near.devices.sync(ANN, "HERS"))["next_batch"]
        await far.change_membership(near, "join")
        assert await changed_since(near, since) == []


async def test_members_have_changed_for_a_user_who_left_and_rejoined(near: Near) -> None:
    await share_room(near)
    await near.devices.device(ANN, "HERS")
    (room_id,) = await near.server.world.memberships.joined_rooms(ANN)
    await near.server.world.join(room_id, UserID("@ben:near.example"))
    since = (await near.devices.sync(ANN, "HERS"))["next_batch"]

    await near.server.world.leave(room_id, ANN)
    await near.server.world.join(room_id, ANN)

    assert USER in await changed_since(near, since)


async def test_user_who_left_and_rejoined_before_a_restart_has_changed(database: Database) -> None:
    network = PeerNetwork()
    async with open_near(network, database) as near:
        far = await share_room(near)
        await near.devices.device(ANN, "HERS")
        since = (await near.devices.sync(ANN, "HERS"))["next_batch"]
        await far.change_membership(near, "leave", "join")
        later = (await near.devices.sync(ANN, "HERS"))["next_batch"]
        await far.change_membership(near, "join")

    async with open_near(network, database) as near:
        assert await changed_since(near, since) == [USER]
        assert await changed_since(near, later) == []


async def test_updates_of_users_without_shared_room_are_ignored(near: Near) -> None:
    far = await share_room(near)
    stranger = UserID("@stranger:far.example")
    master = KeyPair.of_user(stranger, 1).usable_as("master")

    await near.lists.updates.update_device(FAR, {**far.update("TABLET"), "user_id": stranger})
    await near.lists.updates.update_signing_keys(FAR, {"user_id": stranger, "master_key": master})

    database = near.server.world.database
    assert await database.read(device_lists.last_change, stranger) == 0
    assert await near.kept_users() == []


async def test_many_new_lists_are_queried_together(near: Near) -> None:
    far = await share_room(near)
    token = await near.devices.device(ANN, "HERS")
    users = [UserID(f"@user{n}:far.example") for n in range(8)]

    response = await near.devices.query(token, USER, *users)

    assert response["device_keys"][USER].keys() == {"PHONE"}
    assert (far.count(GET_DEVICES), far.count(QUERY_KEYS)) == (1, 1)
