"""EDUs in floods, about the users of other servers, and with values of every kind."""

import random
from typing import Any

import pytest

from hs.core.ids import ServerName
from hs.storage.database import Tx
from tests.services.federation.hostile.conftest import ServerLog
from tests.services.federation.inbound.inbound_scene import ONE, THREE, TWO, Inbound, count_rows
from tests.services.federation.inbound.test_edus import typing_users
from tests.support.inputs.mutations import ODD_VALUES, mutated
from tests.support.peers import CORA
from tests.support.rooms import ALICE

TABLES = ("receipts", "inbox_messages")
SEEDS = range(2)


def edu(edu_type: str, content: Any) -> Any:
    return {"edu_type": edu_type, "content": content}


def valid_edus(inbound: Inbound) -> list[Any]:
    """Return an EDU of each type, in which Cora's server speaks for her."""
    receipt = {"event_ids": [inbound.history.ends[0]], "data": {"ts": 1, "thread_id": "main"}}
    keys = {"user_id": CORA, "device_id": "D", "algorithms": [], "keys": {}}
    return [
        edu("m.typing", {"room_id": inbound.room_id, "user_id": CORA, "typing": True}),
        edu("m.receipt", {inbound.room_id: {"m.read": {CORA: receipt}}}),
        edu("m.presence", {"push": [{"user_id": CORA, "presence": "online"}]}),
        edu(
            "m.direct_to_device",
            {"sender": CORA, "type": "t", "message_id": "1", "messages": {ALICE: {"*": {"a": 1}}}},
        ),
        edu(
            "m.device_list_update",
            {"user_id": CORA, "device_id": "D", "stream_id": 5, "prev_id": [4], "keys": keys},
        ),
        edu(
            "m.signing_key_update",
            {"user_id": CORA, "master_key": {"user_id": CORA, "keys": {"ed25519:a": "a"}}},
        ),
    ]


@pytest.mark.parametrize("seed", SEEDS)
async def test_edus_with_changed_values_are_taken_or_skipped(
    inbound: Inbound, seed: int, server_log: ServerLog
) -> None:
    rng = random.Random(seed)
    valid = valid_edus(inbound)
    for _ in range(6):
        edus = [mutated(rng, rng.choice(valid), rng.choice((1, 2, 4))) for _ in range(20)]

        assert await inbound.send(origin=THREE, edus=writable(edus)) == {}

    assert server_log.lines() == []


async def test_every_field_may_have_any_type(inbound: Inbound, server_log: ServerLog) -> None:
    edus = [
        edu(valid["edu_type"], {**valid["content"], field: value})
        for valid in valid_edus(inbound)
        for field in valid["content"]
        for value in ODD_VALUES
    ]
    for start in range(0, len(edus), 100):
        assert await inbound.send(origin=THREE, edus=writable(edus[start : start + 100])) == {}

    assert server_log.lines() == []


def writable(edus: list[Any]) -> list[Any]:
    """Leave out numbers that no server can send in canonical JSON."""
    return [each for each in edus if not _has_huge_number(each)]


def _has_huge_number(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_huge_number, value.values()))
    if isinstance(value, list):
        return any(map(_has_huge_number, value))
    return isinstance(value, int) and abs(value) >= 2**63


@pytest.mark.parametrize("origin", [ONE, TWO])
async def test_servers_speak_for_nobody_else(inbound: Inbound, origin: ServerName) -> None:
    database = inbound.server.world.database
    before = await database.read(count_rows, "receipts")

    await inbound.send(origin=origin, edus=valid_edus(inbound))

    assert typing_users(inbound) == ()
    assert await database.read(count_rows, "receipts") == before
    assert await database.read(count_rows, "inbox_messages") == 0
    edus = inbound.server.process.services.core.federation
    assert edus is not None


async def test_flood_of_equal_edus_changes_nothing_further(inbound: Inbound) -> None:
    database = inbound.server.world.database
    edus = valid_edus(inbound)
    await inbound.send(origin=THREE, edus=edus)
    counts = [await database.read(count_rows, table) for table in TABLES]

    for _ in range(3):
        await inbound.send(origin=THREE, edus=(edus * 20)[:100])

    assert typing_users(inbound) == (CORA,)
    assert [await database.read(count_rows, table) for table in TABLES] == counts


@pytest.mark.parametrize("time", [True, 1.5, -1, 2**60, "1", None])
async def test_receipt_with_a_wrong_time_is_published_with_another(
    inbound: Inbound, time: Any
) -> None:
    """Rows whose fields have wrong types would end the other processes (open_process checks it)."""
    receipt = {"event_ids": [inbound.history.ends[0]], "data": {"ts": time}}

    content = {inbound.room_id: {"m.read": {CORA: receipt}}}
    await inbound.send(origin=THREE, edus=[edu("m.receipt", content)])

    times = await inbound.server.process.base.database.read(_receipt_times, CORA)
    assert times == [inbound.server.process.clock.now_ms()]


async def _receipt_times(tx: Tx, user_id: str) -> list[int]:
    return [row[0] for row in await tx.fetch("SELECT ts FROM receipts WHERE user_id = $1", user_id)]
