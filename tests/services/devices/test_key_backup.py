"""Key backups: versions, replacement of keys, counts and etags."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hs.services.devices import key_backup
from hs.services.devices.key_backup import is_better
from hs.storage.devices.key_backup import SessionRecord
from tests.support.devices import V3, Process
from tests.support.rooms import ALICE, BOB
from tests.support.web import WebResponse

ALGORITHM = "m.megolm_backup.v1.curve25519-aes-sha2"
KEYS = f"{V3}/room_keys/keys"
VERSION = f"{V3}/room_keys/version"


def key(index: int = 0, forwarded: int = 0, verified: bool = False, data: str = "x") -> Any:
    return {
        "first_message_index": index,
        "forwarded_count": forwarded,
        "is_verified": verified,
        "session_data": {"ciphertext": data},
    }


class Backup:
    """A client of the backup API with one device's access token."""

    def __init__(self, server: Process, token: str) -> None:
        self.client = server.client
        self.token = token

    async def create(self) -> str:
        body = {"algorithm": ALGORITHM, "auth_data": {"public_key": "abc"}}
        answer = await self.client.post(VERSION, body, token=self.token)
        assert answer.status == 200, answer.body
        version: str = answer.json["version"]
        return version

    async def put(self, path: str, version: str | None, body: Any) -> WebResponse:
        query = {} if version is None else {"version": version}
        return await self.client.put(KEYS + path, body, token=self.token, query=query)

    async def get(self, path: str, version: str) -> WebResponse:
        return await self.client.get(KEYS + path, token=self.token, query={"version": version})

    async def delete(self, path: str, version: str) -> WebResponse:
        return await self.client.delete(KEYS + path, token=self.token, query={"version": version})

    async def delete_version(self, version: str) -> WebResponse:
        return await self.client.delete(f"{VERSION}/{version}", token=self.token)

    async def info(self, version: str = "") -> WebResponse:
        return await self.client.get(f"{VERSION}/{version}".rstrip("/"), token=self.token)


@pytest.fixture
async def backup(server: Process) -> Backup:
    """The backup API as Alice's phone uses it, without any version."""
    return Backup(server, await server.device(ALICE, "PHONE"))


async def test_current_version_is_the_latest(backup: Backup) -> None:
    missing = await backup.info()
    first, second = await backup.create(), await backup.create()

    latest, older = await backup.info(), await backup.info(first)

    assert (missing.status, missing.errcode) == (404, "M_NOT_FOUND")
    assert latest.json == {
        "version": second,
        "algorithm": ALGORITHM,
        "auth_data": {"public_key": "abc"},
        "etag": "0",
        "count": 0,
    }
    assert older.json["version"] == first


async def test_keys_are_stored_and_read_by_session_room_and_version(backup: Backup) -> None:
    version = await backup.create()

    session = await backup.put("/!a:x/s1", version, key(data="1"))
    room = await backup.put("/!a:x", version, {"sessions": {"s2": key(data="2")}})
    whole_version = await backup.put(
        "", version, {"rooms": {"!b:x": {"sessions": {"s3": key(data="3")}}}}
    )

    assert [session.json, room.json, whole_version.json] == [
        {"etag": "1", "count": 1},
        {"etag": "2", "count": 2},
        {"etag": "3", "count": 3},
    ]
    assert (await backup.get("/!a:x/s1", version)).json == key(data="1")
    room_a = {"sessions": {"s1": key(data="1"), "s2": key(data="2")}}
    assert (await backup.get("/!a:x", version)).json == room_a
    assert (await backup.get("/!none:x", version)).json == {"sessions": {}}
    all_rooms = {"rooms": {"!a:x": room_a, "!b:x": {"sessions": {"s3": key(data="3")}}}}
    assert (await backup.get("", version)).json == all_rooms
    missing = await backup.get("/!a:x/s9", version)
    assert (missing.status, missing.errcode) == (404, "M_NOT_FOUND")


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (key(5, 5, True), key(0, 0, False)),
        (key(1, 5), key(2, 0)),
        (key(1, 1), key(1, 2)),
    ],
)
async def test_better_key_is_kept_in_either_order(backup: Backup, better: Any, worse: Any) -> None:
    version = await backup.create()
    await backup.put("/!a:x/up", version, worse)
    await backup.put("/!a:x/down", version, better)

    up = await backup.put("/!a:x/up", version, better)
    down = await backup.put("/!a:x/down", version, worse)

    assert (await backup.get("/!a:x/up", version)).json == better
    assert (await backup.get("/!a:x/down", version)).json == better
    assert (up.json["etag"], down.json["etag"]) == ("3", "3")


async def test_keys_are_added_to_the_current_version_only(backup: Backup) -> None:
    without_version = await backup.put("/!a:x/s1", "1", key())
    first = await backup.create()
    second = await backup.create()

    old_version = await backup.put("/!a:x/s1", first, key())
    unknown = await backup.put("/!a:x/s1", "999999", key())
    missing_parameter = await backup.put("/!a:x/s1", None, key())

    assert (without_version.status, without_version.errcode) == (404, "M_NOT_FOUND")
    assert (old_version.status, old_version.errcode) == (403, "M_WRONG_ROOM_KEYS_VERSION")
    assert old_version.json["current_version"] == second
    assert (unknown.status, unknown.errcode) == (404, "M_NOT_FOUND")
    assert (missing_parameter.status, missing_parameter.errcode) == (400, "M_MISSING_PARAM")


async def test_keys_are_deleted_by_session_room_and_version(backup: Backup) -> None:
    version = await backup.create()
    rooms = {name: {"sessions": {"s1": key(), "s2": key()}} for name in ("!a:x", "!b:x", "!c:x")}
    await backup.put("", version, {"rooms": rooms})

    states = [
        (await backup.delete(path, version)).json for path in ("/!a:x/s1", "/!b:x", "/!b:x", "")
    ]

    assert states == [
        {"etag": "2", "count": 5},
        {"etag": "3", "count": 3},
        {"etag": "3", "count": 3},
        {"etag": "4", "count": 0},
    ]
    unknown_version = await backup.delete("", "999999")
    assert (unknown_version.status, unknown_version.errcode) == (404, "M_NOT_FOUND")


async def test_deleted_version_stays_deleted(backup: Backup) -> None:
    first, second = await backup.create(), await backup.create()
    client, token = backup.client, backup.token

    statuses = [
        (await client.delete(f"{VERSION}/{version}", token=token)).status
        for version in (second, second, "999999", "none")
    ]

    assert statuses == [200, 200, 404, 404]
    assert (await backup.info()).json["version"] == first
    assert (await backup.info(second)).status == 404
    assert (await backup.get("", second)).status == 404


async def test_only_auth_data_of_a_version_can_be_changed(backup: Backup) -> None:
    version = await backup.create()

    async def update(**extra: Any) -> WebResponse:
        body = {"algorithm": ALGORITHM, "auth_data": {"public_key": "new"}, **extra}
        return await backup.client.put(f"{VERSION}/{version}", body, token=backup.token)

    rejected = [await update(algorithm="other"), await update(version="other")]
    accepted = [await update(version=version), await update()]

    assert {(response.status, response.errcode) for response in rejected} == {
        (400, "M_INVALID_PARAM")
    }
    assert [response.status for response in accepted] == [200, 200]
    assert (await backup.info()).json["auth_data"] == {"public_key": "new"}


async def test_backups_belong_to_their_user(server: Process, backup: Backup) -> None:
    version = await backup.create()
    bobs = Backup(server, await server.device(BOB, "PHONE"))

    assert (await bobs.info()).status == 404
    assert (await bobs.get("", version)).status == 404


async def test_data_of_other_algorithms_can_be_strings(backup: Backup) -> None:
    body = {"algorithm": "m.megolm_backup.v1", "auth_data": "opaque"}
    version = (await backup.client.post(VERSION, body, token=backup.token)).json["version"]

    await backup.put("/!a:x/s1", version, {**key(), "session_data": "text"})

    assert (await backup.info()).json["auth_data"] == "opaque"
    assert (await backup.get("/!a:x/s1", version)).json["session_data"] == "text"


@pytest.mark.parametrize(
    "changes",
    [
        {"first_message_index": "1"},
        {"is_verified": 1},
        {"session_data": 1},
        {"forwarded_count": 2**60},
    ],
)
async def test_malformed_keys_are_rejected(backup: Backup, changes: dict[str, Any]) -> None:
    version = await backup.create()
    malformed = {**key(), **changes}

    answers = [
        await backup.put("/!a:x/s1", version, malformed),
        await backup.put("/!a:x", version, {"sessions": {"s1": malformed}}),
    ]

    assert {(answer.status, answer.errcode) for answer in answers} == {(400, "M_BAD_JSON")}


async def test_stored_keys_are_counted_as_they_change(backup: Backup) -> None:
    version = await backup.create()
    sessions = {"sessions": {f"s{n}": key(index=5) for n in range(3)}}
    states = [
        await backup.put("/!a:x", version, sessions),
        await backup.put("/!a:x/s0", version, key(index=1, data="longer")),
        await backup.put("/!a:x/s9", version, key()),
        await backup.delete("/!a:x/s1", version),
        await backup.delete("/!a:x/s1", version),
    ]

    assert [state.json["count"] for state in states] == [3, 3, 4, 3, 3]
    assert [state.json["etag"] for state in states] == ["1", "2", "3", "4", "4"]
    assert (await backup.info()).json["count"] == 3


async def test_keys_of_one_user_are_limited_across_versions(
    backup: Backup, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await backup.create()
    await backup.put("/!a:x/s1", first, key(index=2))
    second = await backup.create()
    await backup.put("/!a:x/s1", second, key(index=2))
    stored_bytes = 2 * (250 + len('{"ciphertext":"x"}'))
    monkeypatch.setattr(key_backup, "MAX_BYTES", stored_bytes + 100)

    refused = await backup.put("/!a:x/s2", second, key())
    replaced = await backup.put("/!a:x/s1", second, key(index=1))
    await backup.delete_version(first)
    stored = await backup.put("/!a:x/s2", second, key())

    assert (refused.status, refused.errcode) == (413, "M_TOO_LARGE")
    assert (replaced.status, stored.status, stored.json["count"]) == (200, 200, 2)


async def test_versions_are_limited_and_deletion_makes_room(
    backup: Backup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_backup, "MAX_VERSIONS", 2)
    monkeypatch.setattr(key_backup, "MAX_DELETED_VERSIONS", 1)
    body = {"algorithm": ALGORITHM, "auth_data": {}}
    first, second = await backup.create(), await backup.create()

    refused = await backup.client.post(VERSION, body, token=backup.token)
    await backup.delete_version(first)
    await backup.delete_version(second)
    third = await backup.create()

    assert (refused.status, refused.errcode) == (413, "M_TOO_LARGE")
    # Only the numbers of the latest deleted versions are remembered.
    assert [(await backup.delete_version(version)).status for version in (first, second)] == [
        404,
        200,
    ]
    assert (await backup.info()).json["version"] == third


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/!a:x/s1", key(data="x" * 65_536)),
        ("/!a:x", {"sessions": {"s1": key(data="x" * 65_536)}}),
    ],
)
async def test_keys_that_are_too_large_are_rejected(backup: Backup, path: str, body: Any) -> None:
    version = await backup.create()

    answer = await backup.put(path, version, body)

    assert (answer.status, answer.errcode) == (413, "M_TOO_LARGE")


async def test_version_with_too_large_auth_data_is_rejected(backup: Backup) -> None:
    version = await backup.create()
    body = {"algorithm": ALGORITHM, "auth_data": {"x": "x" * 65_536}}

    created = await backup.client.post(VERSION, body, token=backup.token)
    updated = await backup.client.put(f"{VERSION}/{version}", body, token=backup.token)

    assert [answer.errcode for answer in (created, updated)] == ["M_TOO_LARGE"] * 2


async def test_overlong_names_of_keys_and_algorithms_are_rejected(backup: Backup) -> None:
    version = await backup.create()
    long = "x" * 256

    answers = [
        await backup.put(f"/!a:x/{long}", version, key()),
        await backup.put(f"/!{long}", version, {"sessions": {"s1": key()}}),
        await backup.client.post(VERSION, {"algorithm": long, "auth_data": {}}, token=backup.token),
    ]

    assert {(answer.status, answer.errcode) for answer in answers} == {(400, "M_INVALID_PARAM")}


records = st.builds(
    SessionRecord,
    room_id=st.just("!a:x"),
    session_id=st.just("s"),
    first_message_index=st.integers(0, 3),
    forwarded_count=st.integers(0, 3),
    is_verified=st.integers(0, 1),
    session_data=st.just(b"{}"),
)


@given(records, records)
def test_exactly_one_of_two_different_keys_is_better(
    first: SessionRecord, second: SessionRecord
) -> None:
    assert not (is_better(first, second) and is_better(second, first))
    assert is_better(first, second) or is_better(second, first) or first == second
