"""What keys cost the database."""

from typing import Any

from hs.storage.database import Database
from tests.support.counting import Count, CountingDatabase
from tests.support.devices import one_time_keys, open_devices, plain_keys
from tests.support.rooms import ALICE

# Rows to be written wait, and go with the last one: the stream's position.
ROUNDS_OF_AN_UPLOAD = 3


def rounds(count: Count) -> list[str]:
    return [one for one in count.statements if not one.startswith(("insert_rows", "update_rows"))]


async def test_an_upload_of_keys_asks_once_and_writes_once(database: Database) -> None:
    count = Count()
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
        first = rounds(count)
        count.statements.clear()
        await server.upload(phone, one_time_keys=one_time_keys(*range(50, 100)))

        assert uploaded.status == 200
        assert len(first) <= ROUNDS_OF_AN_UPLOAD, first
        assert len(rounds(count)) <= ROUNDS_OF_AN_UPLOAD, count.statements
