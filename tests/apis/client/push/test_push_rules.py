"""Push rules over HTTP: all kinds, their order and attributes, and invalid rules."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from hs.storage.database import Database
from tests.support.composition import open_process
from tests.support.web import Tokens, WebClient

RULES = "/_matrix/client/v3/pushrules"
NOTIFY = {"actions": ["notify"]}


@asynccontextmanager
async def open_client(database: Database) -> AsyncIterator[WebClient]:
    """Open a process and yield a client with the user alice."""
    tokens = Tokens()
    tokens.user("alice")
    async with open_process(database) as process:
        yield process.client(tokens)


async def put_rule(client: WebClient, path: str, rule: Any, **query: str) -> tuple[int, str | None]:
    response = await client.put(f"{RULES}/{path}", rule, token="alice", query=query)
    return response.status, response.errcode


async def get_rules(client: WebClient, path: str) -> Any:
    return (await client.get(f"{RULES}/{path}", token="alice")).json


async def rule_ids(client: WebClient, kind: str) -> list[str]:
    return [rule["rule_id"] for rule in await get_rules(client, f"global/{kind}/")]


async def test_rules_of_every_kind_are_set_and_deleted(database: Database) -> None:
    async with open_client(database) as client:
        rules: dict[str, Any] = {
            "override/mine": {**NOTIFY, "conditions": []},
            "underride/mine": {**NOTIFY, "conditions": [{"kind": "room_member_count", "is": "2"}]},
            "content/mine": {**NOTIFY, "pattern": "cake"},
            "room/!room:test": NOTIFY,
            "sender/@bob:test": NOTIFY,
        }
        for path, rule in rules.items():
            assert await put_rule(client, f"global/{path}", rule) == (200, None)
            stored_rule = await get_rules(client, f"global/{path}")
            assert stored_rule == {
                **rule,
                "rule_id": path.partition("/")[2],
                "default": False,
                "enabled": True,
            }
            kind = path.partition("/")[0]
            all_rules = await get_rules(client, "")
            assert stored_rule in all_rules["global"][kind]
            assert all_rules["global"] == await get_rules(client, "global/")
            deleted = await client.delete(f"{RULES}/global/{path}", token="alice")
            assert (deleted.status, deleted.json) == (200, {})
            after_deletion = await client.get(f"{RULES}/global/{path}", token="alice")
            assert (after_deletion.status, after_deletion.errcode) == (404, "M_NOT_FOUND")


async def test_rules_are_inserted_before_and_after_others(database: Database) -> None:
    async with open_client(database) as client:
        for name in ("a", "b"):
            await put_rule(client, f"global/room/{name}", NOTIFY)
        await put_rule(client, "global/room/c", NOTIFY, before="a")
        await put_rule(client, "global/room/d", NOTIFY, after="a")

        assert await rule_ids(client, "room") == ["b", "c", "a", "d"]
        await put_rule(client, "global/room/a", NOTIFY)
        assert await rule_ids(client, "room") == ["b", "c", "a", "d"]
        assert (await put_rule(client, "global/room/e", NOTIFY, after="z"))[1] == "M_UNKNOWN"


async def test_default_rules_are_disabled_and_changed(database: Database) -> None:
    async with open_client(database) as client:
        default = "global/underride/.m.rule.message"
        assert await put_rule(client, f"{default}/enabled", {"enabled": False}) == (200, None)
        assert await put_rule(client, f"{default}/actions", {"actions": []}) == (200, None)

        assert await get_rules(client, f"{default}/enabled") == {"enabled": False}
        assert await get_rules(client, f"{default}/actions") == {"actions": []}
        rule = await get_rules(client, default)
        assert (rule["enabled"], rule["actions"], rule["default"]) == (False, [], True)


@pytest.mark.parametrize("kind", ["override", "underride"])
async def test_conditions_are_optional(database: Database, kind: str) -> None:
    async with open_client(database) as client:
        assert await put_rule(client, f"global/{kind}/always", NOTIFY) == (200, None)

        assert (await get_rules(client, f"global/{kind}/always"))["conditions"] == []


async def test_default_rules_contain_the_user_id(database: Database) -> None:
    async with open_client(database) as client:
        rule = await get_rules(client, "global/override/.m.rule.invite_for_me")

        assert {"kind": "event_match", "key": "state_key", "pattern": "@alice:test"} in (
            rule["conditions"]
        )


@pytest.mark.parametrize(
    ("path", "rule", "errcode"),
    [
        ("global/room/x", {}, "M_MISSING_PARAM"),
        ("global/room/x", {"actions": "notify"}, "M_INVALID_PARAM"),
        ("global/room/x", {"actions": ["shout"]}, "M_INVALID_PARAM"),
        ("global/room/x", [], "M_BAD_JSON"),
        ("global/content/x", NOTIFY, "M_MISSING_PARAM"),
        ("global/content/x", {**NOTIFY, "pattern": 5}, "M_INVALID_PARAM"),
        ("global/override/x", {}, "M_MISSING_PARAM"),
        ("global/underride/x", {**NOTIFY, "conditions": [{"key": "x"}]}, "M_INVALID_PARAM"),
        ("global/other/x", NOTIFY, "M_INVALID_PARAM"),
        ("global/room/.m.rule.mine", NOTIFY, "M_INVALID_PARAM"),
        ("global/room/", NOTIFY, "M_INVALID_PARAM"),
        ("global/room", NOTIFY, "M_INVALID_PARAM"),
        ("device/room/x", NOTIFY, "M_INVALID_PARAM"),
        ("global/room/a%5Cb", NOTIFY, "M_INVALID_PARAM"),
        ("global/override/.m.rule.master/enabled", {"enabled": "yes"}, "M_INVALID_PARAM"),
        ("global/override/.m.rule.master/enabled", {}, "M_MISSING_PARAM"),
        ("global/override/.m.rule.master/mood", {}, "M_INVALID_PARAM"),
    ],
)
async def test_invalid_rule_is_rejected(
    database: Database, path: str, rule: Any, errcode: str
) -> None:
    async with open_client(database) as client:
        assert await put_rule(client, path, rule) == (400, errcode)


async def test_unknown_rule_cannot_be_changed(database: Database) -> None:
    async with open_client(database) as client:
        for name, content in (("enabled", {"enabled": True}), ("actions", NOTIFY)):
            outcome = await put_rule(client, f"global/room/none/{name}", content)
            assert outcome == (404, "M_NOT_FOUND")
        deleted = await client.delete(f"{RULES}/global/override/.m.rule.master", token="alice")
        assert deleted.status == 404
        assert (await client.get(f"{RULES}/device", token="alice")).status == 400


async def test_rules_survive_a_restart(database: Database) -> None:
    async with open_client(database) as client:
        await put_rule(client, "global/room/a", NOTIFY)
        before = orjson.dumps(await get_rules(client, ""))

    async with open_client(database) as client:
        assert orjson.dumps(await get_rules(client, "")) == before


@pytest.mark.parametrize(
    ("path", "status", "errcode"),
    [
        ("", 404, "M_UNRECOGNIZED"),
        ("/global", 400, "M_INVALID_PARAM"),
        ("/global/room", 400, "M_INVALID_PARAM"),
        ("/not_a_scope/", 400, "M_INVALID_PARAM"),
        ("/global/not_a_kind/", 400, "M_INVALID_PARAM"),
    ],
)
async def test_rule_lists_require_a_trailing_slash(
    database: Database, path: str, status: int, errcode: str
) -> None:
    async with open_client(database) as client:
        response = await client.get(f"{RULES}{path}", token="alice")

        assert (response.status, response.errcode) == (status, errcode)


async def test_rules_are_readable_as_account_data(database: Database) -> None:
    async with open_client(database) as client:
        await put_rule(client, "content/mine", {**NOTIFY, "pattern": "cake"})

        own_rules = await client.get(_account_data_path("@alice:test"), token="alice")
        of_other_user = await client.get(_account_data_path("@bob:test"), token="alice")

        assert own_rules.json == await get_rules(client, "")
        assert (of_other_user.status, of_other_user.errcode) == (403, "M_FORBIDDEN")


def _account_data_path(user_id: str) -> str:
    return f"/_matrix/client/v3/user/{user_id}/account_data/m.push_rules"
