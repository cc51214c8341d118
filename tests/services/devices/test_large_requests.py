"""Requests for the keys of thousands of devices, which must not keep other clients waiting."""

import math
from typing import Any

import attrs
import pytest
import trio

from hs.core.ids import ServerName, UserID
from hs.lib import time_slice
from hs.services.devices import inbox_writer
from hs.services.devices.key_backup import MAX_STORED_AT_ONCE
from hs.services.devices.one_time_keys import MAX_CLAIMED_AT_ONCE
from hs.services.devices.remote_devices import MAX_SERVERS_AT_ONCE, ask_servers
from hs.storage.database import Database, Tx
from hs.storage.devices import key_backup
from tests.support.devices import V3, Process, one_time_keys, open_devices, plain_keys
from tests.support.rooms import ALICE, BOB
from tests.support.sql.counting import CountingDatabase, QueryCount

MANY = 1200
UNKNOWN = [UserID(f"@user{n}:{ALICE.partition(':')[2]}") for n in range(MANY)]


@attrs.define
class Turns:
    """Counts how often another task may run."""

    count: int = 0

    async def take(self) -> None:
        while True:
            self.count += 1
            await trio.lowlevel.checkpoint()


async def test_query_of_many_users_lets_other_tasks_run(
    server: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    phone = await server.device(ALICE, "PHONE")
    monkeypatch.setattr(time_slice, "MAX_S", 0.0)
    turns = Turns()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.take)
        answer = await server.query(phone, *UNKNOWN, BOB)
        nursery.cancel_scope.cancel()

    assert len(answer["device_keys"]) == MANY + 1
    assert turns.count >= 2 * MANY


async def test_messages_to_many_users_let_other_tasks_run(
    server: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    phone = await server.device(ALICE, "PHONE")
    monkeypatch.setattr(time_slice, "MAX_S", 0.0)
    turns = Turns()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.take)
        answer = await server.send(phone, "t", {user_id: {"D": {}} for user_id in UNKNOWN})
        nursery.cancel_scope.cancel()

    assert answer.status == 200
    assert turns.count >= MANY


async def test_large_claim_is_divided_between_transactions(database: Database) -> None:
    count = QueryCount()
    counting: Any = CountingDatabase(database, count)
    async with open_devices(counting) as server:
        phone = await server.device(ALICE, "PHONE")
        for token in (phone, await server.device(BOB, "TABLET")):
            user_id = ALICE if token == phone else BOB
            device_id = "PHONE" if token == phone else "TABLET"
            await server.upload(
                token,
                device_keys=plain_keys(user_id, device_id),
                one_time_keys=one_time_keys(1),
            )
        claim: dict[UserID, dict[str, str]] = {ALICE: {"PHONE": "signed_curve25519"}}
        claim |= {user_id: {"D": "signed_curve25519"} for user_id in UNKNOWN}
        claim[BOB] = {"TABLET": "signed_curve25519"}
        count.statements.clear()

        answer = await server.client.post(f"{V3}/keys/claim", {"one_time_keys": claim}, token=phone)

        assert answer.json["one_time_keys"].keys() == {ALICE, BOB}
        lookups = [
            text for text in count.statements if "SELECT d.user_id, d.device_id, d.inbox" in text
        ]
        assert len(lookups) >= MANY // MAX_CLAIMED_AT_ONCE


async def test_few_servers_are_asked_at_once() -> None:
    asked: list[ServerName] = []
    running = most = 0

    async def ask(server: ServerName) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.lowlevel.checkpoint()
        asked.append(server)
        running -= 1

    servers = [ServerName(f"s{n}.example") for n in range(MANY)]
    await ask_servers(servers, ask)

    assert sorted(asked) == sorted(servers)
    assert most == MAX_SERVERS_AT_ONCE


async def test_large_key_backup_is_stored_in_several_transactions(database: Database) -> None:
    count = QueryCount()
    counting: Any = CountingDatabase(database, count)
    async with open_devices(counting) as server:
        token = await server.device(ALICE, "PHONE")

        version = await _back_up(server, token, MANY)

        inserts = [text for text in count.statements if text == f"insert_rows {key_backup.PUT}"]
        assert len(inserts) == math.ceil(MANY / MAX_STORED_AT_ONCE)
        query = {"version": version}
        fetched = await server.client.get(f"{V3}/room_keys/keys", token=token, query=query)
        assert len(fetched.json["rooms"]["!room:test"]["sessions"]) == MANY


@pytest.mark.parametrize("path", ["/room_keys/keys", "/room_keys/version/{version}"])
async def test_large_key_backup_is_deleted_in_several_transactions(
    database: Database, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(key_backup, "MAX_DELETED_AT_ONCE", 3)
    count = QueryCount()
    counting: Any = CountingDatabase(database, count)
    async with open_devices(counting) as server:
        token = await server.device(ALICE, "PHONE")
        version = await _back_up(server, token, 8)
        count.statements.clear()

        deleted = await server.client.delete(
            V3 + path.format(version=version), token=token, query={"version": version}
        )

        assert deleted.status == 200
        assert len([text for text in count.statements if "length(session_data)" in text]) >= 3
        assert await database.read(_count_keys) == 0


async def test_cleanup_deletes_the_remaining_keys_of_a_deleted_backup(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_backup, "MAX_DELETED_AT_ONCE", 3)
    async with open_devices(database) as server:
        token = await server.device(ALICE, "PHONE")
        version = await _back_up(server, token, 8)
        # As if the process had died after the first transaction of the request.
        await database.write(key_backup.delete, ALICE, int(version))

        await server.clean_up()

        assert await database.read(_count_keys) == 0


async def _back_up(server: Process, token: str, amount: int) -> str:
    backup = {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {}}
    created = await server.client.post(f"{V3}/room_keys/version", backup, token=token)
    version: str = created.json["version"]
    key = {
        "first_message_index": 0,
        "forwarded_count": 0,
        "is_verified": False,
        "session_data": {"ciphertext": "x"},
    }
    body = {"rooms": {"!room:test": {"sessions": {f"s{n}": key for n in range(amount)}}}}
    stored = await server.client.put(
        f"{V3}/room_keys/keys", body, token=token, query={"version": version}
    )
    assert stored.json["count"] == amount
    return version


async def _count_keys(tx: Tx) -> int:
    number: int = await tx.fetchval("SELECT count(*) FROM key_backup_sessions")
    return number


async def test_messages_of_deleted_devices_are_deleted_in_several_transactions(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_writer, "MAX_DELETED_AT_ONCE", 3)
    count = QueryCount()
    counting: Any = CountingDatabase(database, count)
    async with open_devices(counting) as server:
        phone = await server.device(ALICE, "PHONE")
        await server.device(BOB, "TABLET")
        for n in range(8):
            await server.send(phone, f"t{n}", {BOB: {"TABLET": {"n": n}}})
        count.statements.clear()

        await server.log_out(BOB, "TABLET")

        deleted = [text for text in count.statements if "DELETE FROM inbox_messages" in text]
        assert len(deleted) == 3
        assert await database.read(_message_count) == 0


async def _message_count(tx: Tx) -> int:
    count: int = await tx.fetchval("SELECT count(*) FROM inbox_messages")
    return count
