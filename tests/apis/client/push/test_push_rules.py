"""Push rules over HTTP: all kinds, their order, their properties, and what is refused."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import trio

from hs.apis.client.push.push_rules import PushRulesApi
from hs.lib.clock import FixedClock
from hs.repl.feed import Feed
from hs.repl.inproc import alone
from hs.repl.streams import PUSH_RULES
from hs.repl.writers import TableWriter
from hs.services.push.rules.push_rules import PushRules, PushRuleService, RulesTable
from hs.storage.database import Database
from tests.support.web import Tokens, WebClient, client_for

RULES = "/_matrix/client/v3/pushrules"
NOTIFY = {"actions": ["notify"]}


@asynccontextmanager
async def open_client(database: Database) -> AsyncIterator[WebClient]:
    """Serve push rules to Alice."""
    tokens = Tokens()
    tokens.user("alice")
    feed = Feed()
    writer = TableWriter(PUSH_RULES, "main", database, alone(feed), FixedClock().now_ms)
    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        service = PushRuleService(PushRules(database, feed), RulesTable(writer))
        yield client_for(PushRulesApi(service), tokens=tokens)
        nursery.cancel_scope.cancel()


async def put(client: WebClient, path: str, rule: Any, **query: str) -> tuple[int, str | None]:
    answer = await client.put(f"{RULES}/{path}", rule, token="alice", query=query)
    return answer.status, answer.errcode


async def get(client: WebClient, path: str) -> Any:
    return (await client.get(f"{RULES}/{path}", token="alice")).json


async def ids(client: WebClient, kind: str) -> list[str]:
    return [rule["rule_id"] for rule in await get(client, f"global/{kind}/")]


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
            assert await put(client, f"global/{path}", rule) == (200, None)
            found = await get(client, f"global/{path}")
            assert found == {
                **rule,
                "rule_id": path.partition("/")[2],
                "default": False,
                "enabled": True,
            }
            kind = path.partition("/")[0]
            whole = await get(client, "")
            assert found in whole["global"][kind]
            assert whole["global"] == await get(client, "global/")
            deleted = await client.delete(f"{RULES}/global/{path}", token="alice")
            assert (deleted.status, deleted.json) == (200, {})
            gone = await client.get(f"{RULES}/global/{path}", token="alice")
            assert (gone.status, gone.errcode) == (404, "M_NOT_FOUND")


async def test_rules_are_put_beside_others(database: Database) -> None:
    async with open_client(database) as client:
        for name in ("a", "b"):
            await put(client, f"global/room/{name}", NOTIFY)
        await put(client, "global/room/c", NOTIFY, before="a")
        await put(client, "global/room/d", NOTIFY, after="a")

        assert await ids(client, "room") == ["b", "c", "a", "d"]
        await put(client, "global/room/a", NOTIFY)
        assert await ids(client, "room") == ["b", "c", "a", "d"]
        assert (await put(client, "global/room/e", NOTIFY, after="z"))[1] == "M_UNKNOWN"


async def test_rules_are_turned_off_and_changed(database: Database) -> None:
    async with open_client(database) as client:
        default = "global/underride/.m.rule.message"
        assert await put(client, f"{default}/enabled", {"enabled": False}) == (200, None)
        assert await put(client, f"{default}/actions", {"actions": []}) == (200, None)

        assert await get(client, f"{default}/enabled") == {"enabled": False}
        assert await get(client, f"{default}/actions") == {"actions": []}
        rule = await get(client, default)
        assert (rule["enabled"], rule["actions"], rule["default"]) == (False, [], True)


@pytest.mark.parametrize("kind", ["override", "underride"])
async def test_a_rule_needs_no_conditions(database: Database, kind: str) -> None:
    async with open_client(database) as client:
        assert await put(client, f"global/{kind}/always", NOTIFY) == (200, None)

        assert (await get(client, f"global/{kind}/always"))["conditions"] == []


async def test_the_ids_of_users_stand_in_their_own_rules(database: Database) -> None:
    async with open_client(database) as client:
        rule = await get(client, "global/override/.m.rule.invite_for_me")

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
async def test_malformed_rules_are_refused(
    database: Database, path: str, rule: Any, errcode: str
) -> None:
    async with open_client(database) as client:
        assert await put(client, path, rule) == (400, errcode)


async def test_rules_that_are_not_there_cannot_be_changed(database: Database) -> None:
    async with open_client(database) as client:
        for name, content in (("enabled", {"enabled": True}), ("actions", NOTIFY)):
            found = await put(client, f"global/room/none/{name}", content)
            assert found == (404, "M_NOT_FOUND")
        deleted = await client.delete(f"{RULES}/global/override/.m.rule.master", token="alice")
        assert deleted.status == 404
        assert (await client.get(f"{RULES}/device", token="alice")).status == 400


async def test_rules_outlive_the_process(database: Database) -> None:
    async with open_client(database) as client:
        await put(client, "global/room/a", NOTIFY)
        before = orjson.dumps(await get(client, ""))

    async with open_client(database) as client:
        assert orjson.dumps(await get(client, "")) == before


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
async def test_lists_of_rules_are_under_paths_that_end_with_a_slash(
    database: Database, path: str, status: int, errcode: str
) -> None:
    async with open_client(database) as client:
        answer = await client.get(f"{RULES}{path}", token="alice")

        assert (answer.status, answer.errcode) == (status, errcode)


async def test_rules_are_read_as_account_data_by_their_owner(database: Database) -> None:
    async with open_client(database) as client:
        await put(client, "content/mine", {**NOTIFY, "pattern": "cake"})

        own = await client.get(_event_of("@alice:test"), token="alice")
        other = await client.get(_event_of("@bob:test"), token="alice")

        assert own.json == await get(client, "")
        assert (other.status, other.errcode) == (403, "M_FORBIDDEN")


def _event_of(user_id: str) -> str:
    return f"/_matrix/client/v3/user/{user_id}/account_data/m.push_rules"
