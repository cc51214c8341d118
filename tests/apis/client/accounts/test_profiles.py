"""Profiles over HTTP."""

from typing import Any

import attrs
import pytest

from hs.services.accounts.limits.rate_limits import PROFILE_RATE
from hs.services.rooms.profiles.member_profiles import member_profile
from hs.settings.sections.accounts import RegistrationSettings
from hs.storage.accounts import profiles
from hs.storage.database import Database
from tests.support.accounts import (
    DEFAULTS,
    MAIN,
    WORKER,
    Accounts,
    open_accounts,
    open_pair,
)

PROFILE = "/_matrix/client/v3/profile/@alice:test"


async def test_display_name_of_a_new_user_is_the_localpart(accounts: Accounts) -> None:
    await accounts.user("alice")

    assert (await accounts.client.get(PROFILE)).json == {"displayname": "alice"}


async def test_fields_are_set_read_and_deleted(accounts: Accounts) -> None:
    alice = await accounts.user("alice")
    values: dict[str, Any] = {
        "displayname": "Alice",
        "avatar_url": "mxc://test/abc",
        "m.tz": "Europe/London",
        "org.example.job": {"title": ["Boss", None, 1.5]},
    }

    for field, value in values.items():
        response = await accounts.client.put(
            f"{PROFILE}/{field}", {field: value}, token=alice.access_token
        )
        assert response.json == {}
        assert (await accounts.client.get(f"{PROFILE}/{field}")).json == {field: value}
    assert (await accounts.client.get(PROFILE)).json == values

    for field in values:
        response = await accounts.client.delete(f"{PROFILE}/{field}", token=alice.access_token)
        assert response.json == {}
        after_deletion = await accounts.client.get(f"{PROFILE}/{field}")
        if field in ("displayname", "avatar_url"):
            assert (after_deletion.status, after_deletion.json) == (200, {})
        else:
            assert (after_deletion.status, after_deletion.errcode) == (404, "M_NOT_FOUND")
    assert (await accounts.client.get(PROFILE)).json == {}


async def test_profile_is_served_at_its_unstable_path(accounts: Accounts) -> None:
    await accounts.user("alice")
    unstable_path = PROFILE.replace("v3", "unstable/uk.tcpip.msc4133")

    assert (await accounts.client.get(unstable_path)).json == {"displayname": "alice"}


@pytest.mark.parametrize("field", ["displayname", "avatar_url", "m.tz"])
async def test_only_name_and_avatar_changes_are_queued_for_rooms(
    accounts: Accounts, field: str
) -> None:
    alice = await accounts.user("alice")
    queued = []

    for change in (
        accounts.client.put(f"{PROFILE}/{field}", {field: "A"}, token=alice.access_token),
        accounts.client.put(f"{PROFILE}/{field}", {field: "B"}, token=alice.access_token),
        accounts.client.delete(f"{PROFILE}/{field}", token=alice.access_token),
    ):
        await change
        queued += await accounts.database.read(profiles.list_changes, 0, 100)

    assert {change.user_id for change in queued} == (set() if field == "m.tz" else {alice.user_id})
    assert (
        len({change.change_id for change in queued}) == len(queued) == (0 if field == "m.tz" else 3)
    )


async def test_empty_display_name_is_not_stored(accounts: Accounts) -> None:
    alice = await accounts.user("alice")

    await accounts.client.put(
        f"{PROFILE}/displayname", {"displayname": ""}, token=alice.access_token
    )

    assert (await accounts.client.get(PROFILE)).json == {}
    assert member_profile(await accounts.profiles.local_profile(alice.user_id)) == {}


@pytest.mark.parametrize(
    ("field", "body", "status", "errcode"),
    [
        ("displayname", {}, 400, "M_MISSING_PARAM"),
        ("displayname", {"displayname": 1}, 400, "M_BAD_JSON"),
        ("displayname", {"displayname": {"a": "b"}}, 400, "M_BAD_JSON"),
        ("displayname", {"displayname": "n" * 257}, 400, "M_INVALID_PARAM"),
        ("displayname", {"displayname": "a\0b"}, 400, "M_INVALID_PARAM"),
        ("displayname", [], 400, "M_BAD_JSON"),
        ("avatar_url", {"avatar_url": ["mxc://a/b"]}, 400, "M_BAD_JSON"),
        ("avatar_url", {"avatar_url": "m" * 2000}, 400, "M_INVALID_PARAM"),
        ("m.tz", {"m.tz": 1}, 400, "M_BAD_JSON"),
        ("Upper.case", {"Upper.case": 1}, 400, "M_INVALID_PARAM"),
        ("nodot", {"nodot": 1}, 400, "M_INVALID_PARAM"),
        ("a." + "b" * 254, {"a." + "b" * 254: 1}, 400, "M_KEY_TOO_LARGE"),
        ("org.example.big", {"org.example.big": "x" * 65_600}, 400, "M_PROFILE_TOO_LARGE"),
        ("org.example.other", {"org.example.else": 1}, 400, "M_MISSING_PARAM"),
    ],
)
async def test_invalid_field_is_rejected(
    accounts: Accounts, field: str, body: Any, status: int, errcode: str
) -> None:
    alice = await accounts.user("alice")

    response = await accounts.client.put(f"{PROFILE}/{field}", body, token=alice.access_token)

    assert (response.status, response.errcode) == (status, errcode)
    assert (await accounts.client.get(PROFILE)).json == {"displayname": "alice"}


async def test_user_cannot_change_the_profile_of_another_user(accounts: Accounts) -> None:
    await accounts.user("alice")
    bob = await accounts.user("bob")

    response = await accounts.client.put(
        f"{PROFILE}/displayname", {"displayname": "x"}, token=bob.access_token
    )
    deletion = await accounts.client.delete(f"{PROFILE}/displayname", token=bob.access_token)

    assert (response.status, response.errcode) == (403, "M_FORBIDDEN")
    assert deletion.status == 403


@pytest.mark.parametrize(
    ("user_id", "status", "errcode"),
    [
        ("@nobody:test", 404, "M_NOT_FOUND"),
        ("@nobody:elsewhere", 502, "M_UNKNOWN"),
        ("nobody", 400, "M_INVALID_PARAM"),
    ],
)
async def test_unknown_user_has_no_profile(
    accounts: Accounts, user_id: str, status: int, errcode: str
) -> None:
    response = await accounts.client.get(f"/_matrix/client/v3/profile/{user_id}")

    assert (response.status, response.errcode) == (status, errcode)


async def test_profiles_can_require_authentication(database: Database) -> None:
    server = attrs.evolve(DEFAULTS.server, require_auth_for_profile_requests=True)
    async with open_accounts(database, server=server) as accounts:
        alice = await accounts.user("alice")

        unauthenticated = await accounts.client.get(PROFILE)
        authenticated = await accounts.client.get(PROFILE, token=alice.access_token)

        assert (unauthenticated.status, unauthenticated.errcode) == (401, "M_MISSING_TOKEN")
        assert authenticated.status == 200


async def test_display_name_changes_can_be_disabled(database: Database) -> None:
    registration = RegistrationSettings(enable_registration=True, enable_set_displayname=False)
    async with open_accounts(database, registration=registration) as accounts:
        alice = await accounts.user("alice")
        response = await accounts.client.put(
            f"{PROFILE}/displayname", {"displayname": "x"}, token=alice.access_token
        )
        capabilities = await accounts.client.get(
            "/_matrix/client/v3/capabilities", token=alice.access_token
        )

        assert (response.status, response.errcode) == (403, "M_FORBIDDEN")
        listed = capabilities.json["capabilities"]
        assert listed["m.set_displayname"] == {"enabled": False}
        assert listed["m.profile_fields"] == {"enabled": True, "disallowed": ["displayname"]}


async def test_guests_can_change_only_their_display_name(accounts: Accounts) -> None:
    guest = await accounts.client.post("/_matrix/client/v3/register?kind=guest", {})
    path = f"/_matrix/client/v3/profile/{guest.json['user_id']}"
    token = guest.json["access_token"]

    name = await accounts.client.put(f"{path}/displayname", {"displayname": "G"}, token=token)
    avatar = await accounts.client.put(f"{path}/avatar_url", {"avatar_url": "m"}, token=token)

    assert name.status == 200
    assert (avatar.status, avatar.errcode) == (403, "M_GUEST_ACCESS_FORBIDDEN")


async def test_change_invalidates_the_caches_of_all_processes(database: Database) -> None:
    async with open_pair(database) as (main, worker):
        alice = await main.user("alice")
        assert await worker.profiles.local_profile(alice.user_id) == {"displayname": "alice"}

        await main.client.put(
            f"{PROFILE}/displayname", {"displayname": "A"}, token=alice.access_token
        )

        assert await worker.profiles.local_profile(alice.user_id) == {"displayname": "A"}


async def test_profile_of_a_user_without_account_cannot_be_set(accounts: Accounts) -> None:
    admin = await accounts.user("root", is_admin=True)
    alice = await accounts.user("alice")
    unknown_profile = "/_matrix/client/v3/profile/@nobody:test"
    name = {"displayname": "A"}

    worker = await accounts.client.put(f"{PROFILE}/displayname", name, token=admin.access_token)
    unknown_user = await accounts.client.put(
        f"{unknown_profile}/displayname", name, token=admin.access_token
    )
    await accounts.lifecycle.deactivate(alice.user_id, erase=False)
    after_deletion = await accounts.client.put(
        f"{PROFILE}/displayname", name, token=admin.access_token
    )

    assert worker.status == 200
    for response in (unknown_user, after_deletion):
        assert (response.status, response.errcode) == (404, "M_NOT_FOUND")
    for path in (unknown_profile, PROFILE):
        assert (await accounts.client.get(path)).status == 404


async def test_reactivated_user_has_an_empty_profile(accounts: Accounts) -> None:
    alice = await accounts.user("alice")
    await accounts.lifecycle.deactivate(alice.user_id, erase=False)
    assert (await accounts.client.get(PROFILE)).status == 404

    await accounts.lifecycle.reactivate(alice.user_id, None)

    assert (await accounts.client.get(PROFILE)).json == {}


async def test_profile_is_read_without_waiting_for_replication(database: Database) -> None:
    # They are not neighbours, so no row is replicated between the processes.
    async with open_accounts(database, MAIN) as here, open_accounts(database, WORKER) as there:
        alice = await here.user("alice")
        assert (await there.client.get(PROFILE)).json == {"displayname": "alice"}

        await here.client.put(
            f"{PROFILE}/displayname", {"displayname": "A"}, token=alice.access_token
        )

        assert (await there.client.get(PROFILE)).json == {"displayname": "A"}
        assert (await there.client.get(f"{PROFILE}/displayname")).json == {"displayname": "A"}


async def test_shared_profiles_are_read_without_waiting_for_replication(
    database: Database,
) -> None:
    async with open_accounts(database, MAIN) as here, open_accounts(database, WORKER) as there:
        alice = await here.user("alice")
        assert await there.profiles.local_profile(alice.user_id) == {"displayname": "alice"}

        await here.client.put(
            f"{PROFILE}/displayname", {"displayname": "A"}, token=alice.access_token
        )

        assert await there.profiles.local_profile(alice.user_id) == {"displayname": "A"}


async def test_number_of_changes_is_limited(accounts: Accounts) -> None:
    alice = await accounts.user("alice")
    responses = [
        await accounts.client.delete(f"{PROFILE}/m.tz", token=alice.access_token)
        for _ in range(int(PROFILE_RATE.burst_count) + 2)
    ]

    assert responses[0].status == 200
    assert (responses[-1].status, responses[-1].errcode) == (429, "M_LIMIT_EXCEEDED")
