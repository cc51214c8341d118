"""Locking and suspending accounts, and the capability for it."""

from typing import Any

import pytest

from hs.storage.database import Database
from tests.support.accounts import Accounts, open_pair

ADMIN = "/_matrix/client/v1/admin"
WHOAMI = "/_matrix/client/v3/account/whoami"
NAME = "/_matrix/client/v3/profile/@bob:test/displayname"


async def root_token(accounts: Accounts) -> str:
    return (await accounts.user("root", is_admin=True)).access_token


async def test_locked_account_is_soft_logged_out_until_unlocked(database: Database) -> None:
    async with open_pair(database) as (main, worker):
        admin, bob = await root_token(main), (await main.user("bob")).access_token
        for accounts in (main, worker):
            assert (await accounts.client.get(WHOAMI, token=bob)).status == 200
        path = f"{ADMIN}/lock/@bob:test"

        lock_response = await main.client.put(path, {"locked": True}, token=admin)
        while_locked = [await accounts.client.get(WHOAMI, token=bob) for accounts in (main, worker)]
        status = await worker.client.get(path, token=admin)
        await worker.client.put(path, {"locked": False}, token=admin)
        after_unlock = [await accounts.client.get(WHOAMI, token=bob) for accounts in (main, worker)]

        assert lock_response.json == status.json == {"locked": True}
        for response in while_locked:
            assert (response.status, response.errcode) == (401, "M_USER_LOCKED")
            assert response.json["soft_logout"] is True
        assert [response.status for response in after_unlock] == [200, 200]


async def test_locked_user_may_log_out(accounts: Accounts) -> None:
    admin, bob = await root_token(accounts), (await accounts.user("bob")).access_token
    await accounts.client.put(f"{ADMIN}/lock/@bob:test", {"locked": True}, token=admin)

    assert (await accounts.client.post("/_matrix/client/v3/logout", {}, token=bob)).status == 200


async def test_locked_user_gets_no_tokens(accounts: Accounts) -> None:
    admin = await root_token(accounts)
    await accounts.user("bob", password="secret")
    session = await accounts.log_in("bob", "secret", refresh_token=True)
    login = {"type": "m.login.password", "user": "bob", "password": "secret"}
    refresh = {"refresh_token": session["refresh_token"]}
    await accounts.client.put(f"{ADMIN}/lock/@bob:test", {"locked": True}, token=admin)

    login_response = await accounts.client.post("/_matrix/client/v3/login", login)
    wrong_password = await accounts.client.post(
        "/_matrix/client/v3/login", {**login, "password": "x"}
    )
    refresh_response = await accounts.client.post("/_matrix/client/v3/refresh", refresh)
    await accounts.client.put(f"{ADMIN}/lock/@bob:test", {"locked": False}, token=admin)

    for response in (login_response, refresh_response):
        assert (response.status, response.errcode) == (401, "M_USER_LOCKED")
        assert response.json["soft_logout"] is True
    assert (wrong_password.status, wrong_password.errcode) == (403, "M_FORBIDDEN")
    assert (await accounts.client.post("/_matrix/client/v3/refresh", refresh)).status == 200
    assert (await accounts.client.post("/_matrix/client/v3/login", login)).status == 200


async def test_suspended_user_cannot_change_their_profile(accounts: Accounts) -> None:
    admin, bob = await root_token(accounts), (await accounts.user("bob")).access_token
    path = f"{ADMIN}/suspend/@bob:test"

    lock_response = await accounts.client.put(path, {"suspended": True}, token=admin)
    name_change = await accounts.client.put(NAME, {"displayname": "B"}, token=bob)
    whoami = await accounts.client.get(WHOAMI, token=bob)
    await accounts.client.put(path, {"suspended": False}, token=admin)

    assert lock_response.json == {"suspended": True}
    assert (name_change.status, name_change.errcode) == (403, "M_USER_SUSPENDED")
    assert whoami.status == 200
    assert (await accounts.client.put(NAME, {"displayname": "B"}, token=bob)).status == 200
    assert (await accounts.client.get(path, token=admin)).json == {"suspended": False}


@pytest.mark.parametrize(
    ("requester", "method", "target", "body", "status", "errcode"),
    [
        ("bob", "PUT", "@eve:test", {"locked": True}, 403, "M_FORBIDDEN"),
        ("bob", "GET", "@nobody:test", None, 403, "M_FORBIDDEN"),
        ("bob", "GET", "@eve:elsewhere", None, 403, "M_FORBIDDEN"),
        ("root", "PUT", "@root:test", {"locked": True}, 403, "M_FORBIDDEN"),
        ("root", "PUT", "@admin:test", {"locked": True}, 403, "M_FORBIDDEN"),
        ("root", "GET", "@admin:test", None, 403, "M_FORBIDDEN"),
        ("root", "PUT", "@eve:elsewhere", {"locked": True}, 400, "M_INVALID_PARAM"),
        ("root", "GET", "@eve:elsewhere", None, 400, "M_INVALID_PARAM"),
        ("root", "GET", "@nobody:test", None, 404, "M_NOT_FOUND"),
        ("root", "PUT", "@gone:test", {"locked": True}, 404, "M_NOT_FOUND"),
        ("root", "PUT", "@eve:test", {}, 400, "M_MISSING_PARAM"),
        ("root", "PUT", "@eve:test", {"locked": "yes"}, 400, "M_BAD_JSON"),
    ],
)
async def test_moderation_is_limited_to_administrators_and_local_users(
    accounts: Accounts,
    requester: str,
    method: str,
    target: str,
    body: Any,
    status: int,
    errcode: str,
) -> None:
    tokens = {
        name: (await accounts.user(name, is_admin=name in ("root", "admin"))).access_token
        for name in ("root", "admin", "bob", "eve", "gone")
    }
    whoami = await accounts.client.get(WHOAMI, token=tokens["gone"])
    await accounts.lifecycle.deactivate(whoami.json["user_id"], erase=False)

    response = await accounts.client.request(
        method, f"{ADMIN}/lock/{target}", json=body, token=tokens[requester]
    )

    assert (response.status, response.errcode) == (status, errcode)


async def test_moderation_capability_is_only_for_administrators(accounts: Accounts) -> None:
    admin, bob = await root_token(accounts), (await accounts.user("bob")).access_token
    path = "/_matrix/client/v3/capabilities"

    of_admin = (await accounts.client.get(path, token=admin)).json["capabilities"]
    of_user = (await accounts.client.get(path, token=bob)).json["capabilities"]

    assert of_admin["m.account_moderation"] == {"suspend": True, "lock": True}
    assert of_admin["uk.timedout.msc4323"] == of_admin["m.account_moderation"]
    assert "m.account_moderation" not in of_user
