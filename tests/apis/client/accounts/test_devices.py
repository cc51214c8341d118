"""Devices over HTTP."""

from typing import Any

import pytest

from tests.support.accounts import Accounts

DEVICES = "/_matrix/client/v3/devices"
PROOF = {"type": "m.login.password", "user": "alice", "password": "secret"}


async def test_users_see_their_own_devices_only(accounts: Accounts) -> None:
    alice = await accounts.user("alice", password="secret")
    bob = await accounts.user("bob")
    await accounts.log_in(
        "alice", "secret", device_id="LAPTOP", initial_device_display_name="My laptop"
    )

    answer = await accounts.client.get(DEVICES, token=alice.access_token)
    one = await accounts.client.get(f"{DEVICES}/LAPTOP", token=alice.access_token)
    others = await accounts.client.get(f"{DEVICES}/LAPTOP", token=bob.access_token)

    assert [device["device_id"] for device in answer.json["devices"]] == ["ALICE", "LAPTOP"]
    assert answer.json["devices"][0]["last_seen_ip"] == "192.0.2.1"
    assert one.json == {"device_id": "LAPTOP", "display_name": "My laptop"}
    assert (others.status, others.errcode) == (404, "M_NOT_FOUND")


async def test_when_a_device_was_used_is_written_in_batches(accounts: Accounts) -> None:
    alice = await accounts.user("alice")
    await accounts.client.get(DEVICES, token=alice.access_token)
    await accounts.last_seen.write()
    await accounts.last_seen.write()

    answer = await accounts.client.get(f"{DEVICES}/ALICE", token=alice.access_token)

    assert answer.json["last_seen_ts"] == accounts.clock.now_ms()
    assert answer.json["last_seen_ip"] == "192.0.2.1"


async def test_a_device_is_renamed(accounts: Accounts) -> None:
    alice = await accounts.user("alice")
    path = f"{DEVICES}/ALICE"

    await accounts.client.put(path, {"display_name": "Phone"}, token=alice.access_token)
    kept = await accounts.client.put(path, {}, token=alice.access_token)

    answer = await accounts.client.get(path, token=alice.access_token)
    assert kept.json == {}
    assert answer.json["display_name"] == "Phone"
    assert accounts.watching.seen.count(("changed", "@alice:test", ["ALICE"])) == 2


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
async def test_bad_names_are_refused(
    accounts: Accounts, device: str, body: Any, status: int, errcode: str | None
) -> None:
    alice = await accounts.user("alice")
    await accounts.user("bob")

    answer = await accounts.client.put(f"{DEVICES}/{device}", body, token=alice.access_token)

    assert answer.status == status
    assert errcode is None or answer.errcode == errcode


async def test_deleting_a_device_takes_a_proof_and_ends_its_token(accounts: Accounts) -> None:
    alice = await accounts.user("alice", password="secret")
    laptop = await accounts.log_in("alice", "secret", device_id="LAPTOP")

    asked = await accounts.client.delete(f"{DEVICES}/LAPTOP", {}, token=alice.access_token)
    auth = {**PROOF, "session": asked.json["session"]}
    # The proof for one device does not serve for another.
    other = await accounts.client.delete(
        f"{DEVICES}/ALICE", {"auth": auth}, token=alice.access_token
    )
    answer = await accounts.client.delete(
        f"{DEVICES}/LAPTOP", {"auth": auth}, token=alice.access_token
    )

    assert asked.status == 401
    assert (other.status, other.errcode) == (403, "M_FORBIDDEN")
    assert answer.json == {}
    gone = await accounts.client.get(DEVICES, token=laptop["access_token"])
    assert (gone.status, gone.errcode) == (401, "M_UNKNOWN_TOKEN")
    assert ("removed", "@alice:test", ["LAPTOP"]) in accounts.watching.seen


async def test_several_devices_are_deleted_at_once(accounts: Accounts) -> None:
    alice = await accounts.user("alice", password="secret")
    for name in ("A", "B"):
        await accounts.log_in("alice", "secret", device_id=name)

    answer = await accounts.client.post(
        "/_matrix/client/v3/delete_devices",
        {"devices": ["A", "B", "NONE"], "auth": PROOF},
        token=alice.access_token,
    )

    assert answer.json == {}
    left = await accounts.client.get(DEVICES, token=alice.access_token)
    assert [device["device_id"] for device in left.json["devices"]] == ["ALICE"]


@pytest.mark.parametrize("devices", [None, "A", [1], {"A": 1}])
async def test_bad_lists_of_devices_are_refused(accounts: Accounts, devices: Any) -> None:
    alice = await accounts.user("alice", password="secret")

    answer = await accounts.client.post(
        "/_matrix/client/v3/delete_devices",
        {"devices": devices, "auth": PROOF},
        token=alice.access_token,
    )

    assert answer.status == 400
    assert answer.errcode in ("M_BAD_JSON", "M_MISSING_PARAM")


async def test_users_and_administrators_are_told_from_where_devices_were_used(
    accounts: Accounts,
) -> None:
    alice = await accounts.user("alice")
    bob = await accounts.user("bob")
    root = await accounts.user("root", is_admin=True)
    path = "/_matrix/client/v3/admin/whois/@alice:test"

    own = await accounts.client.get(path, token=alice.access_token)
    by_root = await accounts.client.get(path, token=root.access_token)
    by_bob = await accounts.client.get(path, token=bob.access_token)

    assert own.json["user_id"] == "@alice:test"
    (session,) = own.json["devices"]["ALICE"]["sessions"]
    (connection,) = session["connections"]
    assert connection["ip"] == "192.0.2.1"
    assert connection["last_seen"] == accounts.clock.now_ms()
    assert "user_agent" in connection
    assert by_root.json == own.json
    assert (by_bob.status, by_bob.errcode) == (403, "M_FORBIDDEN")
