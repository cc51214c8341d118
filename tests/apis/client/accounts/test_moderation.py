"""Locking and suspending accounts, and what capabilities tell of it."""

from typing import Any

import pytest

from hs.repl.inproc import InProcHub
from hs.storage.database import Database
from tests.support.accounts import Accounts, open_accounts

ADMIN = "/_matrix/client/v1/admin"
WHOAMI = "/_matrix/client/v3/account/whoami"
NAME = "/_matrix/client/v3/profile/@bob:test/displayname"


async def root(accounts: Accounts) -> str:
    return (await accounts.user("root", is_admin=True)).access_token


async def test_a_locked_account_keeps_its_session(database: Database) -> None:
    hub = InProcHub()
    async with (
        open_accounts(database, hub=hub) as here,
        open_accounts(database, hub=hub, instance="other") as there,
    ):
        admin, bob = await root(here), (await here.user("bob")).access_token
        for one in (here, there):
            assert (await one.client.get(WHOAMI, token=bob)).status == 200
        path = f"{ADMIN}/lock/@bob:test"

        done = await here.client.put(path, {"locked": True}, token=admin)
        answers = [await one.client.get(WHOAMI, token=bob) for one in (here, there)]
        seen = await there.client.get(path, token=admin)
        await there.client.put(path, {"locked": False}, token=admin)
        after = [await one.client.get(WHOAMI, token=bob) for one in (here, there)]

        assert done.json == seen.json == {"locked": True}
        for answer in answers:
            assert (answer.status, answer.errcode) == (401, "M_USER_LOCKED")
            assert answer.json["soft_logout"] is True
        assert [one.status for one in after] == [200, 200]


async def test_who_is_locked_may_log_out(accounts: Accounts) -> None:
    admin, bob = await root(accounts), (await accounts.user("bob")).access_token
    await accounts.client.put(f"{ADMIN}/lock/@bob:test", {"locked": True}, token=admin)

    assert (await accounts.client.post("/_matrix/client/v3/logout", {}, token=bob)).status == 200


async def test_who_is_locked_gets_no_tokens_until_that_ends(accounts: Accounts) -> None:
    admin = await root(accounts)
    await accounts.user("bob", password="secret")
    old = await accounts.log_in("bob", "secret", refresh_token=True)
    login = {"type": "m.login.password", "user": "bob", "password": "secret"}
    refresh = {"refresh_token": old["refresh_token"]}
    await accounts.client.put(f"{ADMIN}/lock/@bob:test", {"locked": True}, token=admin)

    again = await accounts.client.post("/_matrix/client/v3/login", login)
    guess = await accounts.client.post("/_matrix/client/v3/login", {**login, "password": "x"})
    renewed = await accounts.client.post("/_matrix/client/v3/refresh", refresh)
    await accounts.client.put(f"{ADMIN}/lock/@bob:test", {"locked": False}, token=admin)

    for answer in (again, renewed):
        assert (answer.status, answer.errcode) == (401, "M_USER_LOCKED")
        assert answer.json["soft_logout"] is True
    assert (guess.status, guess.errcode) == (403, "M_FORBIDDEN")
    assert (await accounts.client.post("/_matrix/client/v3/refresh", refresh)).status == 200
    assert (await accounts.client.post("/_matrix/client/v3/login", login)).status == 200


async def test_who_is_suspended_does_not_change_their_profile(accounts: Accounts) -> None:
    admin, bob = await root(accounts), (await accounts.user("bob")).access_token
    path = f"{ADMIN}/suspend/@bob:test"

    done = await accounts.client.put(path, {"suspended": True}, token=admin)
    refused = await accounts.client.put(NAME, {"displayname": "B"}, token=bob)
    read = await accounts.client.get(WHOAMI, token=bob)
    await accounts.client.put(path, {"suspended": False}, token=admin)

    assert done.json == {"suspended": True}
    assert (refused.status, refused.errcode) == (403, "M_USER_SUSPENDED")
    assert read.status == 200
    assert (await accounts.client.put(NAME, {"displayname": "B"}, token=bob)).status == 200
    assert (await accounts.client.get(path, token=admin)).json == {"suspended": False}


@pytest.mark.parametrize(
    ("who", "method", "whom", "body", "status", "errcode"),
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
async def test_what_is_not_for_everybody_is_refused(
    accounts: Accounts, who: str, method: str, whom: str, body: Any, status: int, errcode: str
) -> None:
    tokens = {
        name: (await accounts.user(name, is_admin=name in ("root", "admin"))).access_token
        for name in ("root", "admin", "bob", "eve", "gone")
    }
    gone = await accounts.client.get(WHOAMI, token=tokens["gone"])
    await accounts.lifecycle.deactivate(gone.json["user_id"], erase=False)

    answer = await accounts.client.ask(method, f"{ADMIN}/lock/{whom}", json=body, token=tokens[who])

    assert (answer.status, answer.errcode) == (status, errcode)


async def test_capabilities_tell_administrators_of_it(accounts: Accounts) -> None:
    admin, bob = await root(accounts), (await accounts.user("bob")).access_token
    path = "/_matrix/client/v3/capabilities"

    mine = (await accounts.client.get(path, token=admin)).json["capabilities"]
    theirs = (await accounts.client.get(path, token=bob)).json["capabilities"]

    assert mine["m.account_moderation"] == {"suspend": True, "lock": True}
    assert mine["uk.timedout.msc4323"] == mine["m.account_moderation"]
    assert "m.account_moderation" not in theirs
