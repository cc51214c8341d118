"""Account data, tags and filters over HTTP, and what sync reads of them."""

from typing import Any

import pytest
import trio

from hs.core.ids import RoomID, UserID
from hs.services.accounts.account_data.account_data import AccountDataEntry
from hs.storage.database import Database
from tests.support.accounts import Accounts, open_accounts

ALICE = UserID("@alice:test")
ROOM = RoomID("!room:test")
USER = "/_matrix/client/v3/user/@alice:test"
GLOBAL = USER + "/account_data"
IN_ROOM = USER + "/rooms/!room:test/account_data"
TAGS = USER + "/rooms/!room:test/tags"
FILTER = USER + "/filter"


async def alice_of(accounts: Accounts) -> str:
    return (await accounts.user("alice")).access_token


@pytest.mark.parametrize("base", [GLOBAL, IN_ROOM])
async def test_what_is_put_is_given_back(accounts: Accounts, base: str) -> None:
    token = await alice_of(accounts)
    content = {"number": 1.5, "text": "ü\0", "list": [None, True]}

    before = await accounts.client.get(f"{base}/org.example.x", token=token)
    answer = await accounts.client.put(f"{base}/org.example.x", content, token=token)
    after = await accounts.client.get(f"{base}/org.example.x", token=token)

    assert (before.status, before.errcode) == (404, "M_NOT_FOUND")
    assert answer.json == {}
    assert after.json == content


@pytest.mark.parametrize("base", [GLOBAL, IN_ROOM])
@pytest.mark.parametrize("type_", ["m.fully_read", "m.push_rules"])
async def test_what_the_server_keeps_is_not_for_clients_to_set(
    accounts: Accounts, base: str, type_: str
) -> None:
    token = await alice_of(accounts)

    answer = await accounts.client.put(f"{base}/{type_}", {}, token=token)

    assert (answer.status, answer.errcode) == (405, "M_BAD_JSON")


@pytest.mark.parametrize(
    ("path", "body", "status", "errcode"),
    [
        (f"{GLOBAL}/a.b", b"[1]", 400, "M_BAD_JSON"),
        (f"{GLOBAL}/a.b", b"nonsense", 400, "M_NOT_JSON"),
        (f"{GLOBAL}/a.b", b"", 400, "M_NOT_JSON"),
        (f"{GLOBAL}/{'t' * 300}", b"{}", 400, "M_INVALID_PARAM"),
        (f"{GLOBAL}/a%00b", b"{}", 400, "M_INVALID_PARAM"),
        (f"{USER}/rooms/nonsense/account_data/a.b", b"{}", 400, "M_INVALID_PARAM"),
        ("/_matrix/client/v3/user/@bob:test/account_data/a.b", b"{}", 403, "M_FORBIDDEN"),
        ("/_matrix/client/v3/user/bob/account_data/a.b", b"{}", 400, "M_INVALID_PARAM"),
        (f"{IN_ROOM}/m.tag", b'{"tags": []}', 400, "M_BAD_JSON"),
        (f"{IN_ROOM}/m.tag", b'{"tags": {"u.a": 1}}', 400, "M_BAD_JSON"),
        (f"{GLOBAL}/a.b", b'{"a": "' + b"x" * (1 << 20) + b'"}', 413, "M_TOO_LARGE"),
    ],
)
async def test_bad_account_data_is_refused(
    accounts: Accounts, path: str, body: bytes, status: int, errcode: str
) -> None:
    token = await alice_of(accounts)

    answer = await accounts.client.ask("PUT", path, body=body, token=token)

    assert (answer.status, answer.errcode) == (status, errcode)


async def test_others_do_not_read_it(accounts: Accounts) -> None:
    await accounts.user("alice")
    bob = await accounts.user("bob")

    for path in (f"{GLOBAL}/a.b", f"{IN_ROOM}/a.b", TAGS, f"{FILTER}/1"):
        answer = await accounts.client.get(path, token=bob.access_token)
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


async def test_tags_are_set_listed_and_removed(accounts: Accounts) -> None:
    token = await alice_of(accounts)

    await accounts.client.put(f"{TAGS}/m.favourite", {"order": 0.25}, token=token)
    await accounts.client.put(f"{TAGS}/u.Work%20%2F%20x", {}, token=token)
    both = await accounts.client.get(TAGS, token=token)
    await accounts.client.delete(f"{TAGS}/m.favourite", token=token)
    await accounts.client.delete(f"{TAGS}/m.favourite", token=token)

    assert both.json == {"tags": {"m.favourite": {"order": 0.25}, "u.Work / x": {}}}
    assert (await accounts.client.get(TAGS, token=token)).json == {"tags": {"u.Work / x": {}}}
    stored = await accounts.account_data.all(ALICE)
    assert stored == [AccountDataEntry(ROOM, "m.tag", b'{"tags":{"u.Work / x":{}}}')]


async def test_tags_set_at_once_do_not_lose_each_other(accounts: Accounts) -> None:
    token = await alice_of(accounts)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(
                lambda number: accounts.client.put(f"{TAGS}/u.{number}", {}, token=token), number
            )

    tags = (await accounts.client.get(TAGS, token=token)).json["tags"]
    assert len(tags) == 20


@pytest.mark.parametrize(
    ("tag", "body", "errcode"),
    [
        ("m.favourite", {"order": "first"}, "M_BAD_JSON"),
        ("m.favourite", {"order": True}, "M_BAD_JSON"),
        ("m.favourite", [], "M_BAD_JSON"),
        ("t" * 300, {}, "M_INVALID_PARAM"),
    ],
)
async def test_bad_tags_are_refused(accounts: Accounts, tag: str, body: Any, errcode: str) -> None:
    token = await alice_of(accounts)

    answer = await accounts.client.put(f"{TAGS}/{tag}", body, token=token)

    assert (answer.status, answer.errcode) == (400, errcode)


async def test_changes_are_told_by_position(accounts: Accounts) -> None:
    data = accounts.account_data
    assert await data.all(ALICE) == []
    await data.put(ALICE, None, "a", {"n": 1})
    first = accounts.account_data_stream.committed
    await data.put(ALICE, ROOM, "b", {})
    await data.put(ALICE, None, "a", {"n": 2})
    last = accounts.account_data_stream.committed

    assert await data.changes(ALICE, 0, first) == []
    assert await data.changes(ALICE, first, last) == [
        AccountDataEntry(ROOM, "b", b"{}"),
        AccountDataEntry(None, "a", b'{"n":2}'),
    ]
    assert await data.changes(ALICE, last, last) == []


async def test_setting_what_is_there_is_no_change(accounts: Accounts) -> None:
    data = accounts.account_data
    await data.put(ALICE, None, "a", {"n": 1})
    position = accounts.account_data_stream.committed

    await data.put(ALICE, None, "a", {"n": 1})

    assert accounts.account_data_stream.committed == position


async def test_account_data_outlives_a_restart(database: Database) -> None:
    async with open_accounts(database) as accounts:
        await accounts.account_data.put(ALICE, None, "a", {"n": 1})
        position = accounts.account_data_stream.committed
    async with open_accounts(database) as accounts:
        data = accounts.account_data
        assert await data.all(ALICE) == [AccountDataEntry(None, "a", b'{"n":1}')]
        assert await data.changes(ALICE, 0, position) == await data.all(ALICE)


async def test_ignored_users_are_known_as_soon_as_they_are_set(accounts: Accounts) -> None:
    data = accounts.account_data
    assert await data.ignored_by(ALICE) == frozenset()

    await data.put(ALICE, None, "m.ignored_user_list", {"ignored_users": {"@bob:test": {}}})
    assert await data.ignored_by(ALICE) == {"@bob:test"}

    await data.put(ALICE, None, "m.ignored_user_list", {"ignored_users": []})
    assert await data.ignored_by(ALICE) == frozenset()


async def test_nobody_ignores_themselves(accounts: Accounts) -> None:
    ignored: dict[str, Any] = {"ignored_users": {ALICE: {}, "@bob:test": {}}}
    await accounts.account_data.put(ALICE, None, "m.ignored_user_list", ignored)

    assert await accounts.account_data.ignored_by(ALICE) == {"@bob:test"}


async def test_the_marker_of_what_was_read_is_kept_here(accounts: Accounts) -> None:
    data = accounts.account_data
    assert await data.fully_read(ALICE, ROOM) is None

    await data.set_fully_read(ALICE, ROOM, "$event")  # type: ignore[arg-type]  # any text will do

    assert await data.fully_read(ALICE, ROOM) == "$event"


async def test_filters_are_stored_once_and_given_back(accounts: Accounts) -> None:
    token = await alice_of(accounts)
    definition = {"room": {"timeline": {"limit": 5}}, "event_fields": ["type"]}

    first = await accounts.client.post(FILTER, definition, token=token)
    same = await accounts.client.post(FILTER, definition, token=token)
    other = await accounts.client.post(FILTER, {}, token=token)
    filter_id = first.json["filter_id"]

    assert same.json == first.json
    assert other.json != first.json
    assert (await accounts.client.get(f"{FILTER}/{filter_id}", token=token)).json == definition
    assert (await accounts.filters.stored_filter(ALICE, filter_id)).room.timeline.limit == 5


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({"room": {"timeline": {"limit": "5"}}}, "M_BAD_JSON"),
        ({"room": []}, "M_BAD_JSON"),
        ({"event_format": "other"}, "M_BAD_JSON"),
        ({"presence": {"senders": ["nonsense"]}}, "M_BAD_JSON"),
        ([], "M_BAD_JSON"),
    ],
)
async def test_bad_filters_are_refused(accounts: Accounts, body: Any, errcode: str) -> None:
    token = await alice_of(accounts)

    answer = await accounts.client.post(FILTER, body, token=token)

    assert (answer.status, answer.errcode) == (400, errcode)


@pytest.mark.parametrize("filter_id", ["0", "999", "x", "-1", "9" * 40, "%D9%A1"])
async def test_unknown_filters_are_not_found(accounts: Accounts, filter_id: str) -> None:
    token = await alice_of(accounts)

    answer = await accounts.client.get(f"{FILTER}/{filter_id}", token=token)

    assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")


@pytest.mark.parametrize("where", ["", "/rooms/!room:test"])
async def test_what_is_deleted_is_gone_and_told_once(accounts: Accounts, where: str) -> None:
    token = await alice_of(accounts)
    stable = f"{USER}{where}/account_data/org.example.x"
    unstable = stable.replace("v3", "unstable/org.matrix.msc3391")
    await accounts.client.put(stable, {"a": 1}, token=token)

    deleted = [await accounts.client.delete(unstable, token=token) for _ in range(2)]
    gone = await accounts.client.get(stable, token=token)
    changed = await accounts.account_data.changes(ALICE, 0, 2**62)
    held = await accounts.account_data.all(ALICE)
    await accounts.client.put(stable, {"b": 1}, token=token)
    back = await accounts.client.get(stable, token=token)

    assert [(one.status, one.json) for one in deleted] == [(200, {})] * 2
    assert gone.status == 404
    assert [(one.type, one.content) for one in changed] == [("org.example.x", b"{}")]
    assert "org.example.x" not in {one.type for one in held}
    assert (back.status, back.json) == (200, {"b": 1})


@pytest.mark.parametrize("where", ["", "/rooms/!room:test"])
async def test_setting_an_empty_object_is_deleting(accounts: Accounts, where: str) -> None:
    token = await alice_of(accounts)
    path = f"{USER}{where}/account_data/org.example.x"
    await accounts.client.put(path, {"a": 1}, token=token)

    emptied = await accounts.client.put(path, {}, token=token)
    gone = await accounts.client.get(path, token=token)
    changed = await accounts.account_data.changes(ALICE, 0, 2**62)

    assert (emptied.status, emptied.json) == (200, {})
    assert (gone.status, gone.errcode) == (404, "M_NOT_FOUND")
    assert [(one.type, one.content) for one in changed] == [("org.example.x", b"{}")]
    assert await accounts.account_data.all(ALICE) == []


async def test_who_sets_an_empty_object_hears_of_it_whatever_was_there(accounts: Accounts) -> None:
    data = accounts.account_data

    # Clients wait until a sync brings what they set.
    for _ in range(2):
        before = accounts.account_data_stream.committed
        await data.put(ALICE, None, "a", {})
        told = await data.changes(ALICE, before, accounts.account_data_stream.committed)
        assert told == [AccountDataEntry(None, "a", b"{}")]


async def test_a_tag_can_be_set_after_all_were_deleted(accounts: Accounts) -> None:
    token = await alice_of(accounts)
    unstable = IN_ROOM.replace("v3", "unstable/org.matrix.msc3391")
    await accounts.client.put(f"{TAGS}/one", {}, token=token)

    await accounts.client.delete(f"{unstable}/m.tag", token=token)
    await accounts.client.put(f"{TAGS}/two", {}, token=token)
    tags = await accounts.client.get(TAGS, token=token)

    assert tags.json == {"tags": {"two": {}}}
