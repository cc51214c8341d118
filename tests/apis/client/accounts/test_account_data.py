"""Account data, tags and filters over HTTP, and the changes that sync reads."""

from typing import Any

import pytest
import trio

from hs.core.ids import EventID, RoomID, UserID
from hs.services.accounts.account_data import account_data as account_data_module
from hs.services.accounts.account_data import filters as filters_module
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


async def alice_token(accounts: Accounts) -> str:
    return (await accounts.user("alice")).access_token


@pytest.mark.parametrize("base", [GLOBAL, IN_ROOM])
async def test_account_data_is_returned_unchanged(accounts: Accounts, base: str) -> None:
    token = await alice_token(accounts)
    content = {"number": 1.5, "text": "ü\0", "list": [None, True]}

    before = await accounts.client.get(f"{base}/org.example.x", token=token)
    response = await accounts.client.put(f"{base}/org.example.x", content, token=token)
    after = await accounts.client.get(f"{base}/org.example.x", token=token)

    assert (before.status, before.errcode) == (404, "M_NOT_FOUND")
    assert response.json == {}
    assert after.json == content


@pytest.mark.parametrize("base", [GLOBAL, IN_ROOM])
@pytest.mark.parametrize("data_type", ["m.fully_read", "m.push_rules"])
async def test_server_managed_types_cannot_be_set(
    accounts: Accounts, base: str, data_type: str
) -> None:
    token = await alice_token(accounts)

    response = await accounts.client.put(f"{base}/{data_type}", {}, token=token)

    assert (response.status, response.errcode) == (405, "M_BAD_JSON")


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
async def test_invalid_account_data_is_rejected(
    accounts: Accounts, path: str, body: bytes, status: int, errcode: str
) -> None:
    token = await alice_token(accounts)

    response = await accounts.client.request("PUT", path, body=body, token=token)

    assert (response.status, response.errcode) == (status, errcode)


async def test_account_data_of_other_users_is_forbidden(accounts: Accounts) -> None:
    await accounts.user("alice")
    bob = await accounts.user("bob")

    for path in (f"{GLOBAL}/a.b", f"{IN_ROOM}/a.b", TAGS, f"{FILTER}/1"):
        response = await accounts.client.get(path, token=bob.access_token)
        assert (response.status, response.errcode) == (403, "M_FORBIDDEN")


async def test_tags_are_set_listed_and_deleted(accounts: Accounts) -> None:
    token = await alice_token(accounts)

    await accounts.client.put(f"{TAGS}/m.favourite", {"order": 0.25}, token=token)
    await accounts.client.put(f"{TAGS}/u.Work%20%2F%20x", {}, token=token)
    two_tags = await accounts.client.get(TAGS, token=token)
    await accounts.client.delete(f"{TAGS}/m.favourite", token=token)
    await accounts.client.delete(f"{TAGS}/m.favourite", token=token)

    assert two_tags.json == {"tags": {"m.favourite": {"order": 0.25}, "u.Work / x": {}}}
    assert (await accounts.client.get(TAGS, token=token)).json == {"tags": {"u.Work / x": {}}}
    stored = await accounts.account_data.all(ALICE)
    assert stored == [AccountDataEntry(ROOM, "m.tag", b'{"tags":{"u.Work / x":{}}}')]


async def test_concurrently_set_tags_are_all_stored(accounts: Accounts) -> None:
    token = await alice_token(accounts)

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
async def test_invalid_tag_is_rejected(
    accounts: Accounts, tag: str, body: Any, errcode: str
) -> None:
    token = await alice_token(accounts)

    response = await accounts.client.put(f"{TAGS}/{tag}", body, token=token)

    assert (response.status, response.errcode) == (400, errcode)


async def test_changes_are_listed_between_positions(accounts: Accounts) -> None:
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


async def test_setting_equal_content_is_not_a_change(accounts: Accounts) -> None:
    data = accounts.account_data
    await data.put(ALICE, None, "a", {"n": 1})
    position = accounts.account_data_stream.committed

    await data.put(ALICE, None, "a", {"n": 1})

    assert accounts.account_data_stream.committed == position


async def test_account_data_survives_a_restart(database: Database) -> None:
    async with open_accounts(database) as accounts:
        await accounts.account_data.put(ALICE, None, "a", {"n": 1})
        position = accounts.account_data_stream.committed
    async with open_accounts(database) as accounts:
        data = accounts.account_data
        assert await data.all(ALICE) == [AccountDataEntry(None, "a", b'{"n":1}')]
        assert await data.changes(ALICE, 0, position) == await data.all(ALICE)


async def test_ignored_users_take_effect_immediately(accounts: Accounts) -> None:
    data = accounts.account_data
    assert await data.ignored_by(ALICE) == frozenset()

    await data.put(ALICE, None, "m.ignored_user_list", {"ignored_users": {"@bob:test": {}}})
    assert await data.ignored_by(ALICE) == {"@bob:test"}

    await data.put(ALICE, None, "m.ignored_user_list", {"ignored_users": []})
    assert await data.ignored_by(ALICE) == frozenset()


async def test_users_cannot_ignore_themselves(accounts: Accounts) -> None:
    ignored: dict[str, Any] = {"ignored_users": {ALICE: {}, "@bob:test": {}}}
    await accounts.account_data.put(ALICE, None, "m.ignored_user_list", ignored)

    assert await accounts.account_data.ignored_by(ALICE) == {"@bob:test"}


async def test_fully_read_marker_is_stored(accounts: Accounts) -> None:
    data = accounts.account_data
    assert await data.content(ALICE, ROOM, "m.fully_read") is None

    await data.move_fully_read(ALICE, ROOM, EventID("$event"), 1)

    assert await data.content(ALICE, ROOM, "m.fully_read") == b'{"event_id":"$event"}'


async def test_equal_filters_are_stored_once(accounts: Accounts) -> None:
    token = await alice_token(accounts)
    definition = {"room": {"timeline": {"limit": 5}}, "event_fields": ["type"]}

    first = await accounts.client.post(FILTER, definition, token=token)
    repeated = await accounts.client.post(FILTER, definition, token=token)
    different = await accounts.client.post(FILTER, {}, token=token)
    filter_id = first.json["filter_id"]

    assert repeated.json == first.json
    assert different.json != first.json
    assert (await accounts.client.get(f"{FILTER}/{filter_id}", token=token)).json == definition
    assert (
        await accounts.services.filters.stored_filter(ALICE, filter_id)
    ).room.timeline.limit == 5


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
async def test_invalid_filter_is_rejected(accounts: Accounts, body: Any, errcode: str) -> None:
    token = await alice_token(accounts)

    response = await accounts.client.post(FILTER, body, token=token)

    assert (response.status, response.errcode) == (400, errcode)


@pytest.mark.parametrize("filter_id", ["0", "999", "x", "-1", "9" * 40, "%D9%A1"])
async def test_unknown_filter_is_not_found(accounts: Accounts, filter_id: str) -> None:
    token = await alice_token(accounts)

    response = await accounts.client.get(f"{FILTER}/{filter_id}", token=token)

    assert (response.status, response.errcode) == (404, "M_NOT_FOUND")


@pytest.mark.parametrize("scope", ["", "/rooms/!room:test"])
async def test_deletion_is_a_change_only_once(accounts: Accounts, scope: str) -> None:
    token = await alice_token(accounts)
    stable = f"{USER}{scope}/account_data/org.example.x"
    unstable = stable.replace("v3", "unstable/org.matrix.msc3391")
    await accounts.client.put(stable, {"a": 1}, token=token)

    deleted = [await accounts.client.delete(unstable, token=token) for _ in range(2)]
    after_deletion = await accounts.client.get(stable, token=token)
    changes = await accounts.account_data.changes(ALICE, 0, 2**62)
    entries = await accounts.account_data.all(ALICE)
    await accounts.client.put(stable, {"b": 1}, token=token)
    after_setting = await accounts.client.get(stable, token=token)

    assert [(response.status, response.json) for response in deleted] == [(200, {})] * 2
    assert after_deletion.status == 404
    assert [(change.type, change.content) for change in changes] == [("org.example.x", b"{}")]
    assert "org.example.x" not in {entry.type for entry in entries}
    assert (after_setting.status, after_setting.json) == (200, {"b": 1})


@pytest.mark.parametrize("scope", ["", "/rooms/!room:test"])
async def test_setting_an_empty_object_deletes(accounts: Accounts, scope: str) -> None:
    token = await alice_token(accounts)
    path = f"{USER}{scope}/account_data/org.example.x"
    await accounts.client.put(path, {"a": 1}, token=token)

    response = await accounts.client.put(path, {}, token=token)
    after_deletion = await accounts.client.get(path, token=token)
    changes = await accounts.account_data.changes(ALICE, 0, 2**62)

    assert (response.status, response.json) == (200, {})
    assert (after_deletion.status, after_deletion.errcode) == (404, "M_NOT_FOUND")
    assert [(change.type, change.content) for change in changes] == [("org.example.x", b"{}")]
    assert await accounts.account_data.all(ALICE) == []


async def test_setting_an_empty_object_is_always_a_change(accounts: Accounts) -> None:
    data = accounts.account_data

    # Clients wait until a sync response contains what they have set.
    for _ in range(2):
        before = accounts.account_data_stream.committed
        await data.put(ALICE, None, "a", {})
        changes = await data.changes(ALICE, before, accounts.account_data_stream.committed)
        assert changes == [AccountDataEntry(None, "a", b"{}")]


async def test_tag_can_be_set_after_all_tags_were_deleted(accounts: Accounts) -> None:
    token = await alice_token(accounts)
    unstable = IN_ROOM.replace("v3", "unstable/org.matrix.msc3391")
    await accounts.client.put(f"{TAGS}/one", {}, token=token)

    await accounts.client.delete(f"{unstable}/m.tag", token=token)
    await accounts.client.put(f"{TAGS}/two", {}, token=token)
    tags = await accounts.client.get(TAGS, token=token)

    assert tags.json == {"tags": {"two": {}}}


async def test_account_data_of_a_user_is_limited_and_can_shrink(accounts: Accounts) -> None:
    token = await alice_token(accounts)
    content = {"text": "x" * 1_000_000}
    statuses = [
        (await accounts.client.put(f"{GLOBAL}/org.example.{n}", content, token=token)).status
        for n in range(17)
    ]

    tag = await accounts.client.put(f"{TAGS}/u.a", {"text": "x" * 900_000}, token=token)
    same = await accounts.client.put(f"{GLOBAL}/org.example.0", {"a": 1}, token=token)
    freed = await accounts.client.put(f"{GLOBAL}/org.example.16", content, token=token)

    assert statuses == [200] * 16 + [413]
    assert (tag.status, tag.errcode) == (413, "M_TOO_LARGE")
    assert (same.status, freed.status) == (200, 200)


async def test_large_account_data_of_many_users_is_not_all_kept_in_memory(
    accounts: Accounts,
) -> None:
    content = {"text": "x" * 1_000_000}
    users = [await accounts.user(f"user{n}") for n in range(5)]
    for user in users:
        for n in range(15):
            await accounts.account_data.put(user.user_id, None, f"org.example.{n}", content)
        assert len(await accounts.account_data.all(user.user_id)) == 15

    assert accounts.account_data.cache.weight <= accounts.account_data.cache.limit < 75_000_000


async def test_large_filters_are_not_all_kept_in_memory(accounts: Accounts) -> None:
    filters = accounts.services.filters
    for n in range(60):
        types = [f"{n}.{k}" for k in range(6000)]
        await filters.add(ALICE, {"room": {"timeline": {"types": types}}})

    assert 0 < len(filters.cache) < 60
    assert filters.cache.weight <= filters.cache.limit <= 32 * 1024 * 1024


@pytest.mark.parametrize("name", ["types", "not_types"])
async def test_filter_with_too_many_wildcards_is_rejected(accounts: Accounts, name: str) -> None:
    token = await alice_token(accounts)
    statuses = []

    for count in (100, 101):
        definition = {"room": {"timeline": {name: [f"*{n}*" for n in range(count)]}}}
        statuses.append((await accounts.client.post(FILTER, definition, token=token)).status)

    assert statuses == [200, 400]


async def test_oldest_filters_of_a_user_are_deleted(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters_module, "MAX_FILTERS", 2)
    token = await alice_token(accounts)
    bob = await accounts.user("bob")
    of_bob = await accounts.services.filters.add(bob.user_id, {"event_format": "client"})
    ids = []
    for limit in (1, 2, 3):
        body = {"room": {"timeline": {"limit": limit}}}
        ids.append((await accounts.client.post(FILTER, body, token=token)).json["filter_id"])

    statuses = [
        (await accounts.client.get(f"{FILTER}/{filter_id}", token=token)).status
        for filter_id in ids
    ]

    assert statuses == [404, 200, 200]
    assert await accounts.services.filters.definition(bob.user_id, of_bob)


async def test_large_filter_is_rejected(accounts: Accounts) -> None:
    token = await alice_token(accounts)
    types = [f"{n}." + "x" * 200 for n in range(1500)]

    response = await accounts.client.post(
        FILTER, {"room": {"timeline": {"types": types}}}, token=token
    )

    assert (response.status, response.errcode) == (413, "M_TOO_LARGE")


async def test_tags_of_a_room_are_limited(accounts: Accounts) -> None:
    token = await alice_token(accounts)
    large = {"u.x": "x" * 40_000}

    first = await accounts.client.put(f"{TAGS}/u.a", large, token=token)
    second = await accounts.client.put(f"{TAGS}/u.b", large, token=token)
    all_tags = await accounts.client.put(
        f"{IN_ROOM}/m.tag", {"tags": {"u.a": large, "u.b": large}}, token=token
    )

    assert first.status == 200
    assert (second.status, second.errcode) == (413, "M_TOO_LARGE")
    assert (all_tags.status, all_tags.errcode) == (413, "M_TOO_LARGE")


async def test_tags_in_invented_rooms_count_as_entries(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_data_module, "MAX_ENTRIES", 2)
    token = await alice_token(accounts)

    responses = [
        await accounts.client.put(f"{USER}/rooms/!{room}:test/tags/u.a", {}, token=token)
        for room in ("one", "two", "three", "two")
    ]

    assert [response.status for response in responses] == [200, 200, 400, 200]
