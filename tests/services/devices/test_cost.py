"""The number of database round trips of key uploads."""

from typing import Any

from hs.storage.database import Database
from tests.support.devices import one_time_keys, open_devices, plain_keys
from tests.support.rooms import ALICE
from tests.support.sql.counting import CountingDatabase, QueryCount

# Written rows are buffered and sent with the last statement, which stores the stream's position.
MAX_UPLOAD_ROUND_TRIPS = 3


def round_trips(count: QueryCount) -> list[str]:
    return [
        statement
        for statement in count.statements
        if not statement.startswith(("insert_rows", "update_rows"))
    ]


async def test_key_upload_reads_once_and_writes_once(database: Database) -> None:
    count = QueryCount()
    counting: Any = CountingDatabase(database, count)
    fallback = {"signed_curve25519:fb": {"key": "public"}}
    async with open_devices(counting) as server:
        phone = await server.device(ALICE, "PHONE")
        count.statements.clear()

        uploaded = await server.upload(
            phone,
            device_keys=plain_keys(ALICE, "PHONE"),
            one_time_keys=one_time_keys(*range(50)),
            fallback_keys=fallback,
        )
        first_statements = round_trips(count)
        count.statements.clear()
        await server.upload(phone, one_time_keys=one_time_keys(*range(50, 100)))

        assert uploaded.status == 200
        assert len(first_statements) <= MAX_UPLOAD_ROUND_TRIPS, first_statements
        assert len(round_trips(count)) <= MAX_UPLOAD_ROUND_TRIPS, count.statements
