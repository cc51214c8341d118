"""Messages lost, repeated or late: the feed sees every row once, in order."""

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from hs.repl.feed import Batch, Feed
from hs.repl.intake import Intake
from hs.repl.message import Message, Saying, decode_message, encode_message, rows_message
from hs.repl.recent_rows import RecentBatch
from hs.repl.row_codec import decode_rows, encode_rows
from hs.repl.rows import (
    AccountDataRow,
    CacheRow,
    DeviceListRow,
    EventRow,
    FederationRow,
    PresenceRow,
    PusherRow,
    PushesRow,
    PushRulesRow,
    QueuedPush,
    RatesRow,
    ReceiptRow,
    ThreadSubscriptionRow,
    ToDeviceRow,
    TypingRow,
    Unread,
    UnreadRow,
)
from hs.repl.streams import CATALOGUE
from hs.storage import stream_log
from hs.storage.database import Database, Tx
from hs.storage.inline import open_inline
from hs.storage.stream_log import LoggedCommit
from tests.repl.conftest import NOTES, Note, make_tables

ROWS = {
    "events": EventRow("!r", "$e", "m.x", "@a:b", None, 1, 2, relates_to=("m.thread", "$p")),
    "backfill": EventRow("!r", "$e", "m.x", "@a:b", "", 1, 2, txn=("D", "t"), pdu=b"{}"),
    "receipts": ReceiptRow("!r", "m.read", "@a:b", "$e", None, 3, b"{}"),
    "typing": TypingRow("!r", ("@a:b",)),
    "presence": PresenceRow("@a:b", "online", 5),
    "account_data": AccountDataRow("@a:b", None, "m.tag"),
    "push_rules": PushRulesRow("@a:b"),
    "unread": UnreadRow("w", 3, (Unread(3, "!r", "$e", "main", "@a:b", True, False),)),
    "pushers": PusherRow("@a:b", "app", "key", removed=True),
    "pushes": PushesRow((QueuedPush(1, 2, "!r", "$e", "main", "[]", 3, ("@a:b",)),)),
    "thread_subscriptions": ThreadSubscriptionRow("@a:b", "!r", "$e", True),
    "to_device": ToDeviceRow((("@a:b", "D"), ("@c:b", "E")), (b"{}", b"[]"), head=b"{"),
    "device_lists": DeviceListRow("@a:b"),
    "federation": FederationRow(("x",), "pdu", b"\x00"),
    "rates": RatesRow((("message", "@a:b", 0.5),)),
    "caches": CacheRow("c", ("k",)),
}  # fmt: skip


def test_every_row_of_the_catalogue_crosses_unchanged() -> None:
    for stream in CATALOGUE:
        rows = [(7, ROWS[stream.name])]

        assert decode_rows(stream, encode_rows(rows)) == rows


def test_a_message_crosses_with_its_rows_still_encoded() -> None:
    batch = Batch(NOTES, "w1", 4, 6, [(5, Note("a")), (6, Note("b", b"\xff"))])

    told = decode_message(encode_message(rows_message("w1", batch, 9)))

    assert (told.stream, told.prev, told.position, told.epoch) == ("receipts", 4, 6, 9)
    assert decode_rows(NOTES, told.rows) == batch.rows


class NoWriter:
    async def since(self, stream: str, after: int) -> RecentBatch | None:
        raise AssertionError("table streams do not ask the writer")


async def log_commits(tx: Tx, count: int) -> None:
    await stream_log.take_over(tx, "receipts", "w1", "life")
    for number in range(1, count + 1):
        encoded = encode_rows([(number, Note(str(number)))])
        await stream_log.append(tx, "receipts", "w1", LoggedCommit(number, number - 1, encoded), 0)
        await stream_log.set_position(tx, "receipts", "w1", "life", number)


async def seen_of(database: Database, positions: list[int], pauses: set[int]) -> list[int]:
    feed = Feed()
    seen: list[int] = []
    feed.subscribe(NOTES, lambda batch: seen.extend(number for number, _ in batch.rows))
    intake = Intake(feed, "w2", database, lambda _: NoWriter(), {"receipts": NOTES})
    async with trio.open_nursery() as nursery:
        await nursery.start(intake.run)
        feed.start_at(NOTES, "w1", 0)
        for index, position in enumerate(positions):
            batch = Batch(NOTES, "w1", position - 1, position, [(position, Note(str(position)))])
            intake.accept(rows_message("w1", batch, 0))
            if index in pauses:
                await trio.testing.wait_all_tasks_blocked()
        intake.accept(Message(Saying.POSITION, "w1", "receipts", "w1", 12, 20))
        with trio.fail_after(60):
            assert await feed.wait_for(NOTES, "w1", 20, 60)
        nursery.cancel_scope.cancel()
    return seen


@settings(max_examples=40, deadline=None)
@given(
    positions=st.lists(st.integers(1, 12), max_size=20),
    pauses=st.sets(st.integers(0, 20)),
)
def test_whatever_is_lost_repeated_or_swapped_each_row_is_seen_once_in_order(
    positions: list[int], pauses: set[int]
) -> None:
    async def check() -> list[int]:
        async with open_inline() as database:
            await make_tables(database)
            await database.write(log_commits, 12)
            return await seen_of(database, positions, pauses)

    assert trio.run(check) == list(range(1, 13))
