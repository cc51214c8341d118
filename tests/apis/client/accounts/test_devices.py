"""Devices over HTTP."""

from typing import Any

import nio
import pytest

from hs.core.streams import DeviceListRow
from hs.services.accounts.sessions import sessions
from hs.settings.sections.appservices import AppserviceSettings
from hs.storage.database import Database
from hs.storage.devices import device_keys
from tests.support.accounts import Accounts, open_accounts
from tests.support.appservices import registration

DEVICES = "/_matrix/client/v3/devices"
PROOF = {"type": "m.login.password", "user": "alice", "password": "secret"}


async def test_users_see_only_their_own_devices(accounts: Accounts) -> None:
    alice = await accounts.user("alice", password="secret")
    bob = await accounts.user("bob")
    await accounts.log_in(
        "alice", "secret", device_id="LAPTOP", initial_device_display_name="My laptop"
    )

    response = await accounts.client.get(DEVICES, token=alice.access_token)
    laptop = await accounts.client.get(f"{DEVICES}/LAPTOP", token=alice.access_token)
    device_of_other_user = await accounts.client.get(f"{DEVICES}/LAPTOP", token=bob.access_token)

    assert [device["device_id"] for device in response.json["devices"]] == ["ALICE", "LAPTOP"]
    assert response.json["devices"][0]["last_seen_ip"] == "192.0.2.1"
    assert laptop.json == {
        "device_id": "LAPTOP",
        "display_name": "My laptop",
        "last_seen_ip": None,
        "last_seen_ts": None,
    }
    assert (device_of_other_user.status, device_of_other_user.errcode) == (404, "M_NOT_FOUND")


async def test_nameless_device_is_listed_in_the_form_that_matrix_nio_requires(
    accounts: Accounts,
) -> None:
    alice = await accounts.user("alice", password="secret")
    await accounts.log_in("alice", "secret", device_id="LAPTOP")

    response = await accounts.client.get(DEVICES, token=alice.access_token)

    nameless = response.json["devices"][1]
    assert (nameless["device_id"], nameless["display_name"]) == ("LAPTOP", None)
    assert isinstance(nio.DevicesResponse.from_dict(response.json), nio.DevicesResponse)


async def test_last_use_of_a_device_is_written_in_batches(accounts: Accounts) -> None:
    alice = await accounts.user("alice")
    await accounts.client.get(DEVICES, token=alice.access_token)
    await accounts.last_seen.write()
    await accounts.last_seen.write()

    response = await accounts.client.get(f"{DEVICES}/ALICE", token=alice.access_token)

    assert response.json["last_seen_ts"] == accounts.clock.now_ms()
    assert response.json["last_seen_ip"] == "192.0.2.1"


async def test_device_is_renamed(accounts: Accounts) -> None:
    alice = await accounts.user("alice")
    path = f"{DEVICES}/ALICE"
    accounts.device_changes.clear()

    await accounts.client.put(path, {"display_name": "Phone"}, token=alice.access_token)
    unchanged = await accounts.client.put(path, {}, token=alice.access_token)

    response = await accounts.client.get(path, token=alice.access_token)
    assert unchanged.json == {}
    assert response.json["display_name"] == "Phone"
    assert accounts.device_changes == [DeviceListRow(alice.user_id, "ALICE")]


@pytest.mark.parametrize(
    ("device", "body", "status", "errcode"),
    [
        ("ALICE", {"display_name": 1}, 400, "M_BAD_JSON"),
        ("ALICE", {"display_name": "n" * 101}, 400, "M_INVALID_PARAM"),
        ("ALICE", {"display_name": "a\0b"}, 400, None),
        ("ALICE", [], 400, "M_BAD_JSON"),
        ("OTHER", {"display_name": "x"}, 404, "M_NOT_FOUND"),
        ("OTHER", {}, 404, "M_NOT_FOUND"),
        ("BOB", {"display_name": "x"}, 404, "M_NOT_FOUND"),
        ("a%00b", {"display_name": "x"}, 400, None),
    ],
)
async def test_invalid_device_name_is_rejected(
    accounts: Accounts, device: str, body: Any, status: int, errcode: str | None
) -> None:
    alice = await accounts.user("alice")
    await accounts.user("bob")

    response = await accounts.client.put(f"{DEVICES}/{device}", body, token=alice.access_token)

    assert response.status == status
    assert errcode is None or response.errcode == errcode


async def test_device_deletion_requires_uia_and_revokes_its_token(accounts: Accounts) -> None:
    alice = await accounts.user("alice", password="secret")
    laptop = await accounts.log_in("alice", "secret", device_id="LAPTOP")
    await accounts.database.write(device_keys.put_device_keys, alice.user_id, "LAPTOP", b"{}")
    accounts.device_changes.clear()

    challenge = await accounts.client.delete(f"{DEVICES}/LAPTOP", {}, token=alice.access_token)
    auth = {**PROOF, "session": challenge.json["session"]}
    # Authentication for one device is not valid for another.
    wrong_device = await accounts.client.delete(
        f"{DEVICES}/ALICE", {"auth": auth}, token=alice.access_token
    )
    response = await accounts.client.delete(
        f"{DEVICES}/LAPTOP", {"auth": auth}, token=alice.access_token
    )

    assert challenge.status == 401
    assert (wrong_device.status, wrong_device.errcode) == (403, "M_FORBIDDEN")
    assert response.json == {}
    after_deletion = await accounts.client.get(DEVICES, token=laptop["access_token"])
    assert (after_deletion.status, after_deletion.errcode) == (401, "M_UNKNOWN_TOKEN")
    assert accounts.device_changes == [DeviceListRow(alice.user_id, "LAPTOP")]
    assert await accounts.database.read(device_keys.list_device_keys, [alice.user_id]) == []


async def test_several_devices_are_deleted_by_one_request(accounts: Accounts) -> None:
    alice = await accounts.user("alice", password="secret")
    for name in ("A", "B"):
        await accounts.log_in("alice", "secret", device_id=name)

    response = await accounts.client.post(
        "/_matrix/client/v3/delete_devices",
        {"devices": ["A", "B", "NONE"], "auth": PROOF},
        token=alice.access_token,
    )

    assert response.json == {}
    remaining = await accounts.client.get(DEVICES, token=alice.access_token)
    assert [device["device_id"] for device in remaining.json["devices"]] == ["ALICE"]


@pytest.mark.parametrize("devices", [None, "A", [1], {"A": 1}])
async def test_invalid_device_list_is_rejected(accounts: Accounts, devices: Any) -> None:
    alice = await accounts.user("alice", password="secret")

    response = await accounts.client.post(
        "/_matrix/client/v3/delete_devices",
        {"devices": devices, "auth": PROOF},
        token=alice.access_token,
    )

    assert response.status == 400
    assert response.errcode in ("M_BAD_JSON", "M_MISSING_PARAM")


async def test_whois_is_available_to_the_user_and_to_administrators(
    accounts: Accounts,
) -> None:
    alice = await accounts.user("alice")
    bob = await accounts.user("bob")
    root = await accounts.user("root", is_admin=True)
    path = "/_matrix/client/v3/admin/whois/@alice:test"

    own = await accounts.client.get(path, token=alice.access_token)
    as_root = await accounts.client.get(path, token=root.access_token)
    as_bob = await accounts.client.get(path, token=bob.access_token)

    assert own.json["user_id"] == "@alice:test"
    (session,) = own.json["devices"]["ALICE"]["sessions"]
    (connection,) = session["connections"]
    assert connection["ip"] == "192.0.2.1"
    assert connection["last_seen"] == accounts.clock.now_ms()
    assert "user_agent" in connection
    assert as_root.json == own.json
    assert (as_bob.status, as_bob.errcode) == (403, "M_FORBIDDEN")


async def test_too_many_devices_log_out_those_that_were_not_used_for_longest(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_DEVICES", 3)
    alice = await accounts.user("alice", password="secret")
    tokens = [(await accounts.log_in("alice", "secret", device_id="A"))["access_token"]]
    for device_id in ("B", "C"):
        accounts.clock.advance(1)
        response = await accounts.log_in("alice", "secret", device_id=device_id)
        tokens.append(response["access_token"])

    first = await accounts.client.get(DEVICES, token=alice.access_token)
    listed = await accounts.client.get(DEVICES, token=tokens[-1])

    assert (first.status, first.errcode) == (401, "M_UNKNOWN_TOKEN")
    assert [device["device_id"] for device in listed.json["devices"]] == ["A", "B", "C"]


async def test_devices_that_an_application_service_creates_are_limited_too(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_DEVICES", 3)
    services = AppserviceSettings(registrations=(registration(),))
    async with open_accounts(database, appservices=services) as accounts:
        await accounts.user("_irc_ghost", appservice_id="irc")
        ghost = "?user_id=@_irc_ghost:test"

        for name in "ABCD":
            accounts.clock.advance(1)
            created = await accounts.client.put(
                f"{DEVICES}/{name}{ghost}", {"display_name": name}, token="as-irc"
            )
            assert created.status == 201
        listed = await accounts.client.get(f"{DEVICES}{ghost}", token="as-irc")

    assert [device["device_id"] for device in listed.json["devices"]] == ["B", "C", "D"]
