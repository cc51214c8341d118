"""Migration 0033: transaction IDs survive it, with the numbers of their events."""

from hs.storage.database import Tx
from hs.storage.rooms import transaction_ids
from hs.storage.rooms.transaction_ids import TransactionRecord
from tests.support.sql.migrated import filled_before

NUMBER = 33
EVENT = """
INSERT INTO events
    (stream_id, writer, event_id, room_id, type, sender, depth, origin_server_ts, pdu)
VALUES (7, 'main', '$sent', '!room', 'm.room.message', '@a:hs.test', 1, 1, x'7b7d')
"""
SENT = """
INSERT INTO transaction_ids (user_id, device_id, scope, txn_id, event_id, created_ms)
VALUES ('@a:hs.test', 'PHONE', '/send', 'txn', '$sent', 5)
"""
OUTCOME = """
INSERT INTO push_outcomes
    (stream_id, room_id, event_id, thread_id, sender, notify, highlight, actions)
VALUES (7, '!room', '$sent', 'main', '@a:hs.test', 1, 0, '[]')
"""


async def fill(tx: Tx) -> None:
    for statement in (EVENT, SENT, OUTCOME):
        await tx.execute(statement)


async def outcomes(tx: Tx) -> list[int]:
    return [row[0] for row in await tx.fetch("SELECT stream_id FROM push_outcomes")]


async def test_rows_are_kept_when_they_lose_their_event_ids() -> None:
    async with filled_before(NUMBER, fill) as database:
        sent = await database.read(transaction_ids.find, "@a:hs.test", "PHONE", "/send", "txn")
        recent = await database.read(transaction_ids.list_recent, "@a:hs.test", "PHONE", 10)
        by_event = await database.read(transaction_ids.find_by_events, "@a:hs.test", ["$sent"])
        assert sent == TransactionRecord(
            scope=transaction_ids.stored_scope("/send"),
            txn_id="txn",
            event_id="$sent",
            stream_id=7,
            room_id="!room",
        )
        assert recent == [sent]
        assert by_event == {"$sent": ("PHONE", "txn")}
        assert await database.read(outcomes) == [7]
