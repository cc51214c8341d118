"""Profiles over HTTP."""

from typing import Any

import attrs
import pytest

from hs.repl.inproc import InProcHub
from hs.services.rooms.profiles.member_profiles import shown
from hs.settings.sections.accounts import RegistrationSettings
from hs.storage.accounts import profiles
from hs.storage.database import Database
from tests.support.accounts import DEFAULTS, Accounts, open_accounts

PROFILE = "/_matrix/client/v3/profile/@alice:test"


async def test_new_users_are_called_by_their_localpart(accounts: Accounts) -> None:
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
        answer = await accounts.client.put(
            f"{PROFILE}/{field}", {field: value}, token=alice.access_token
        )
        assert answer.json == {}
        assert (await accounts.client.get(f"{PROFILE}/{field}")).json == {field: value}
    assert (await accounts.client.get(PROFILE)).json == values

    for field in values:
        answer = await accounts.client.delete(f"{PROFILE}/{field}", token=alice.access_token)
        assert answer.json == {}
        gone = await accounts.client.get(f"{PROFILE}/{field}")
        if field in ("displayname", "avatar_url"):
            assert (gone.status, gone.json) == (200, {})
        else:
            assert (gone.status, gone.errcode) == (404, "M_NOT_FOUND")
    assert (await accounts.client.get(PROFILE)).json == {}


async def test_clients_of_before_read_the_whole_profile_elsewhere(accounts: Accounts) -> None:
    await accounts.user("alice")
    before = PROFILE.replace("v3", "unstable/uk.tcpip.msc4133")

    assert (await accounts.client.get(before)).json == {"displayname": "alice"}


@pytest.mark.parametrize("field", ["displayname", "avatar_url", "m.tz"])
async def test_rooms_are_told_of_names_and_avatars_only(accounts: Accounts, field: str) -> None:
    alice = await accounts.user("alice")
    told = []

    for change in (
        accounts.client.put(f"{PROFILE}/{field}", {field: "A"}, token=alice.access_token),
        accounts.client.put(f"{PROFILE}/{field}", {field: "B"}, token=alice.access_token),
        accounts.client.delete(f"{PROFILE}/{field}", token=alice.access_token),
    ):
        await change
        told += await accounts.database.read(profiles.changed, 0, 100)

    assert {one.user_id for one in told} == (set() if field == "m.tz" else {alice.user_id})
    assert len({one.change_id for one in told}) == len(told) == (0 if field == "m.tz" else 3)


async def test_an_empty_name_is_no_name(accounts: Accounts) -> None:
    alice = await accounts.user("alice")

    await accounts.client.put(
        f"{PROFILE}/displayname", {"displayname": ""}, token=alice.access_token
    )

    assert (await accounts.client.get(PROFILE)).json == {}
    assert shown(await accounts.profiles.of_local(alice.user_id)) == {}


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
async def test_bad_fields_are_refused(
    accounts: Accounts, field: str, body: Any, status: int, errcode: str
) -> None:
    alice = await accounts.user("alice")

    answer = await accounts.client.put(f"{PROFILE}/{field}", body, token=alice.access_token)

    assert (answer.status, answer.errcode) == (status, errcode)
    assert (await accounts.client.get(PROFILE)).json == {"displayname": "alice"}


async def test_nobody_changes_the_profile_of_another(accounts: Accounts) -> None:
    await accounts.user("alice")
    bob = await accounts.user("bob")

    answer = await accounts.client.put(
        f"{PROFILE}/displayname", {"displayname": "x"}, token=bob.access_token
    )
    deleting = await accounts.client.delete(f"{PROFILE}/displayname", token=bob.access_token)

    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert deleting.status == 403


@pytest.mark.parametrize(
    ("user_id", "status", "errcode"),
    [
        ("@nobody:test", 404, "M_NOT_FOUND"),
        ("@nobody:elsewhere", 404, "M_NOT_FOUND"),
        ("nobody", 400, "M_INVALID_PARAM"),
    ],
)
async def test_unknown_users_have_no_profile(
    accounts: Accounts, user_id: str, status: int, errcode: str
) -> None:
    answer = await accounts.client.get(f"/_matrix/client/v3/profile/{user_id}")

    assert (answer.status, answer.errcode) == (status, errcode)


async def test_profiles_may_be_kept_from_strangers(database: Database) -> None:
    server = attrs.evolve(DEFAULTS.server, require_auth_for_profile_requests=True)
    async with open_accounts(database, settings=attrs.evolve(DEFAULTS, server=server)) as accounts:
        alice = await accounts.user("alice")

        stranger = await accounts.client.get(PROFILE)
        known = await accounts.client.get(PROFILE, token=alice.access_token)

        assert (stranger.status, stranger.errcode) == (401, "M_MISSING_TOKEN")
        assert known.status == 200


async def test_names_may_be_fixed_by_the_administrator(database: Database) -> None:
    fixed = RegistrationSettings(enable_registration=True, enable_set_displayname=False)
    async with open_accounts(database, registration=fixed) as accounts:
        alice = await accounts.user("alice")
        answer = await accounts.client.put(
            f"{PROFILE}/displayname", {"displayname": "x"}, token=alice.access_token
        )
        capabilities = await accounts.client.get(
            "/_matrix/client/v3/capabilities", token=alice.access_token
        )

        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
        told = capabilities.json["capabilities"]
        assert told["m.set_displayname"] == {"enabled": False}
        assert told["m.profile_fields"] == {"enabled": True, "disallowed": ["displayname"]}


async def test_guests_change_their_name_only(accounts: Accounts) -> None:
    made = await accounts.client.post("/_matrix/client/v3/register?kind=guest", {})
    path = f"/_matrix/client/v3/profile/{made.json['user_id']}"
    token = made.json["access_token"]

    name = await accounts.client.put(f"{path}/displayname", {"displayname": "G"}, token=token)
    avatar = await accounts.client.put(f"{path}/avatar_url", {"avatar_url": "m"}, token=token)

    assert name.status == 200
    assert (avatar.status, avatar.errcode) == (403, "M_GUEST_ACCESS_FORBIDDEN")


async def test_a_change_is_seen_by_every_process(database: Database) -> None:
    hub = InProcHub()
    async with (
        open_accounts(database, hub=hub, instance="main") as one,
        open_accounts(database, hub=hub, instance="worker") as other,
    ):
        alice = await one.user("alice")
        assert await other.profiles.of_local(alice.user_id) == {"displayname": "alice"}

        await one.client.put(
            f"{PROFILE}/displayname", {"displayname": "A"}, token=alice.access_token
        )

        assert await other.profiles.of_local(alice.user_id) == {"displayname": "A"}


async def test_nobody_gets_a_profile_without_an_account(accounts: Accounts) -> None:
    admin = await accounts.user("root", is_admin=True)
    alice = await accounts.user("alice")
    nobody = "/_matrix/client/v3/profile/@nobody:test"
    name = {"displayname": "A"}

    other = await accounts.client.put(f"{PROFILE}/displayname", name, token=admin.access_token)
    refused = await accounts.client.put(f"{nobody}/displayname", name, token=admin.access_token)
    await accounts.lifecycle.deactivate(alice.user_id, erase=False)
    gone = await accounts.client.put(f"{PROFILE}/displayname", name, token=admin.access_token)

    assert other.status == 200
    for answer in (refused, gone):
        assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")
    for path in (nobody, PROFILE):
        assert (await accounts.client.get(path)).status == 404


async def test_who_comes_back_has_a_profile_again(accounts: Accounts) -> None:
    alice = await accounts.user("alice")
    await accounts.lifecycle.deactivate(alice.user_id, erase=False)
    assert (await accounts.client.get(PROFILE)).status == 404

    await accounts.lifecycle.reactivate(alice.user_id, None)

    assert (await accounts.client.get(PROFILE)).json == {}


async def test_a_profile_is_read_as_another_process_has_just_set_it(database: Database) -> None:
    # Of two hubs, as what one process tells has not come to the other yet.
    async with open_accounts(database) as here, open_accounts(database) as there:
        alice = await here.user("alice")
        assert (await there.client.get(PROFILE)).json == {"displayname": "alice"}

        await here.client.put(
            f"{PROFILE}/displayname", {"displayname": "A"}, token=alice.access_token
        )

        assert (await there.client.get(PROFILE)).json == {"displayname": "A"}
        assert (await there.client.get(f"{PROFILE}/displayname")).json == {"displayname": "A"}


async def test_what_members_are_called_is_what_another_process_has_just_set(
    database: Database,
) -> None:
    async with open_accounts(database) as here, open_accounts(database) as there:
        alice = await here.user("alice")
        seen = attrs.evolve(there.profiles, is_shared=True)
        assert await seen.of_local(alice.user_id) == {"displayname": "alice"}

        await here.client.put(
            f"{PROFILE}/displayname", {"displayname": "A"}, token=alice.access_token
        )

        assert await seen.of_local(alice.user_id) == {"displayname": "A"}
