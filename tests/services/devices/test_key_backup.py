"""Key backups: versions, which keys win, and what is counted."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hs.services.devices.key_backup import is_better
from hs.storage.devices.key_backup import SessionRecord
from tests.support.devices import V3, Process
from tests.support.rooms import ALICE, BOB
from tests.support.web import Answer

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
    """Alice's backup, as her phone uses it."""

    def __init__(self, server: Process, token: str) -> None:
        self.client = server.client
        self.token = token

    async def create(self) -> str:
        body = {"algorithm": ALGORITHM, "auth_data": {"public_key": "abc"}}
        answer = await self.client.post(VERSION, body, token=self.token)
        assert answer.status == 200, answer.body
        version: str = answer.json["version"]
        return version

    async def put(self, path: str, version: str | None, body: Any) -> Answer:
        query = {} if version is None else {"version": version}
        return await self.client.put(KEYS + path, body, token=self.token, query=query)

    async def get(self, path: str, version: str) -> Answer:
        return await self.client.get(KEYS + path, token=self.token, query={"version": version})

    async def delete(self, path: str, version: str) -> Answer:
        return await self.client.delete(KEYS + path, token=self.token, query={"version": version})

    async def info(self, version: str = "") -> Answer:
        return await self.client.get(f"{VERSION}/{version}".rstrip("/"), token=self.token)


@pytest.fixture
async def backup(server: Process) -> Backup:
    """Nothing is backed up yet."""
    return Backup(server, await server.device(ALICE, "PHONE"))


async def test_the_latest_version_is_the_one_asked_for_without_a_name(backup: Backup) -> None:
    none = await backup.info()
    first, second = await backup.create(), await backup.create()

    latest, older = await backup.info(), await backup.info(first)

    assert (none.status, none.errcode) == (404, "M_NOT_FOUND")
    assert latest.json == {
        "version": second,
        "algorithm": ALGORITHM,
        "auth_data": {"public_key": "abc"},
        "etag": "0",
        "count": 0,
    }
    assert older.json["version"] == first


async def test_keys_are_put_and_got_at_three_depths(backup: Backup) -> None:
    version = await backup.create()

    one = await backup.put("/!a:x/s1", version, key(data="1"))
    room = await backup.put("/!a:x", version, {"sessions": {"s2": key(data="2")}})
    every = await backup.put("", version, {"rooms": {"!b:x": {"sessions": {"s3": key(data="3")}}}})

    assert [one.json, room.json, every.json] == [
        {"etag": "1", "count": 1},
        {"etag": "2", "count": 2},
        {"etag": "3", "count": 3},
    ]
    assert (await backup.get("/!a:x/s1", version)).json == key(data="1")
    in_a = {"sessions": {"s1": key(data="1"), "s2": key(data="2")}}
    assert (await backup.get("/!a:x", version)).json == in_a
    assert (await backup.get("/!none:x", version)).json == {"sessions": {}}
    in_all = {"rooms": {"!a:x": in_a, "!b:x": {"sessions": {"s3": key(data="3")}}}}
    assert (await backup.get("", version)).json == in_all
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
async def test_the_better_key_stays_whichever_comes_first(
    backup: Backup, better: Any, worse: Any
) -> None:
    version = await backup.create()
    await backup.put("/!a:x/up", version, worse)
    await backup.put("/!a:x/down", version, better)

    up = await backup.put("/!a:x/up", version, better)
    down = await backup.put("/!a:x/down", version, worse)

    assert (await backup.get("/!a:x/up", version)).json == better
    assert (await backup.get("/!a:x/down", version)).json == better
    assert (up.json["etag"], down.json["etag"]) == ("3", "3")


async def test_keys_go_into_the_latest_version_only(backup: Backup) -> None:
    nowhere = await backup.put("/!a:x/s1", "1", key())
    first = await backup.create()
    second = await backup.create()

    old = await backup.put("/!a:x/s1", first, key())
    unknown = await backup.put("/!a:x/s1", "999999", key())
    nameless = await backup.put("/!a:x/s1", None, key())

    assert (nowhere.status, nowhere.errcode) == (404, "M_NOT_FOUND")
    assert (old.status, old.errcode) == (403, "M_WRONG_ROOM_KEYS_VERSION")
    assert old.json["current_version"] == second
    assert (unknown.status, unknown.errcode) == (404, "M_NOT_FOUND")
    assert (nameless.status, nameless.errcode) == (400, "M_MISSING_PARAM")


async def test_keys_are_deleted_at_three_depths(backup: Backup) -> None:
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
    gone = await backup.delete("", "999999")
    assert (gone.status, gone.errcode) == (404, "M_NOT_FOUND")


async def test_a_version_is_deleted_once_and_for_all(backup: Backup) -> None:
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


async def test_only_the_data_of_a_version_can_be_changed(backup: Backup) -> None:
    version = await backup.create()

    async def update(**more: Any) -> Answer:
        body = {"algorithm": ALGORITHM, "auth_data": {"public_key": "new"}, **more}
        return await backup.client.put(f"{VERSION}/{version}", body, token=backup.token)

    refused = [await update(algorithm="other"), await update(version="other")]
    accepted = [await update(version=version), await update()]

    assert {(one.status, one.errcode) for one in refused} == {(400, "M_INVALID_PARAM")}
    assert [one.status for one in accepted] == [200, 200]
    assert (await backup.info()).json["auth_data"] == {"public_key": "new"}


async def test_backups_are_their_owners(server: Process, backup: Backup) -> None:
    version = await backup.create()
    bobs = Backup(server, await server.device(BOB, "PHONE"))

    assert (await bobs.info()).status == 404
    assert (await bobs.get("", version)).status == 404


async def test_data_of_other_algorithms_may_be_text(backup: Backup) -> None:
    body = {"algorithm": "m.megolm_backup.v1", "auth_data": "opaque"}
    version = (await backup.client.post(VERSION, body, token=backup.token)).json["version"]

    await backup.put("/!a:x/s1", version, {**key(), "session_data": "text"})

    assert (await backup.info()).json["auth_data"] == "opaque"
    assert (await backup.get("/!a:x/s1", version)).json["session_data"] == "text"


@pytest.mark.parametrize(
    "wrong",
    [
        {"first_message_index": "1"},
        {"is_verified": 1},
        {"session_data": 1},
        {"forwarded_count": 2**60},
    ],
)
async def test_malformed_keys_are_refused(backup: Backup, wrong: dict[str, Any]) -> None:
    version = await backup.create()
    bad = {**key(), **wrong}

    answers = [
        await backup.put("/!a:x/s1", version, bad),
        await backup.put("/!a:x", version, {"sessions": {"s1": bad}}),
    ]

    assert {(one.status, one.errcode) for one in answers} == {(400, "M_BAD_JSON")}


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
def test_of_two_keys_at_most_one_replaces_the_other(
    one: SessionRecord, other: SessionRecord
) -> None:
    assert not (is_better(one, other) and is_better(other, one))
    assert is_better(one, other) or is_better(other, one) or one == other
