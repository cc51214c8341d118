"""One-time keys: claims, deletion with the device, and migration of older tables."""

import pytest

from hs.storage.database import Database, ForeignKeyViolation, Tx
from hs.storage.devices import devices, key_uploads, one_time_keys, to_device
from hs.storage.migrate import bundled_migrations, migrate, statements_for
from tests.support.rooms import ALICE
from tests.support.sql.plans import explain_by_index

DEVICES = 2000


async def upload_keys(tx: Tx) -> None:
    for n in range(DEVICES):
        await devices.ensure(tx, f"@u{n}:hs.test", "DEVICE", None, 1)
    devices_by_user = await to_device.inboxes_of_users(
        tx, [f"@u{n}:hs.test" for n in range(DEVICES)]
    )
    for n in range(DEVICES):
        inbox = devices_by_user[f"@u{n}:hs.test"]["DEVICE"]
        await one_time_keys.put(tx, inbox, {"x": [b"%d-%d" % (n, number) for number in range(3)]})


async def inboxes(tx: Tx, count: int) -> dict[int, int]:
    devices_by_user = await to_device.inboxes_of_users(tx, [f"@u{n}:hs.test" for n in range(count)])
    return {n: devices_by_user[f"@u{n}:hs.test"]["DEVICE"] for n in range(count)}


async def claim(tx: Tx, requested: list[int], algorithm: str) -> list[tuple[int, bytes]]:
    return await one_time_keys.claim_keys(tx, dict.fromkeys(requested, algorithm))


async def test_claim_takes_the_oldest_key_of_each_device(database: Database) -> None:
    await database.write(upload_keys)
    requested = await database.read(inboxes, 100)

    plan = await database.read_long(
        explain_by_index, one_time_keys.CLAIM.statement, list(requested.values())[:10], "x"
    )
    claims = [await database.write(claim, list(requested.values()), "x")]
    late = await database.write(one_time_keys.claim_deferred, requested.values(), "x")
    claims.append(one_time_keys.read_claimed(late.rows))

    # The plan looks at the keys of the requested devices only.
    assert "Seq Scan" not in plan
    assert "SCAN one_time_keys" not in plan
    for number, keys in enumerate(claims):
        assert set(keys) == {(requested[n], b"%d-%d" % (n, number)) for n in range(100)}


async def add_phone(tx: Tx) -> int:
    await devices.ensure(tx, ALICE, "PHONE", None, 1)
    return (await to_device.inboxes_of_users(tx, [ALICE]))[ALICE]["PHONE"]


async def claim_all(database: Database, inbox: int, algorithm: str) -> list[bytes]:
    """Claim keys until none is left."""
    keys: list[bytes] = []
    while claimed := await database.write(claim, [inbox], algorithm):
        keys += [key for _, key in claimed]
    return keys


async def test_keys_of_different_lengths_are_claimed_in_upload_order(database: Database) -> None:
    keys = [b"aa", b"b b", b"c", b"ddddd", b"ff", "g\u00fc".encode()]
    inbox = await database.write(add_phone)
    await database.write(one_time_keys.put, inbox, {"x": keys, "y": [b"other"]})

    assert await database.read(one_time_keys.counts, ALICE, "PHONE") == {"x": 6, "y": 1}
    assert await claim_all(database, inbox, "x") == keys
    assert await claim_all(database, inbox, "y") == [b"other"]
    assert await database.read(one_time_keys.counts, ALICE, "PHONE") == {}


async def test_keys_are_deleted_with_their_device_and_none_can_be_added_later(
    database: Database,
) -> None:
    inbox = await database.write(add_phone)
    await database.write(one_time_keys.put, inbox, {"x": [b"k"]})
    await database.write(one_time_keys.put_fallbacks, inbox, [("x", "id", b"k")])

    await database.write(devices.delete, ALICE, ["PHONE"])
    await database.write(add_phone)

    assert await claim_all(database, inbox, "x") == []
    assert await database.read(one_time_keys.counts, ALICE, "PHONE") == {}
    assert await database.read(one_time_keys.unused_fallback_algorithms, ALICE, "PHONE") == []
    with pytest.raises(ForeignKeyViolation):
        await database.write(one_time_keys.put, inbox, {"x": [b"k"]})


async def test_rows_without_unclaimed_keys_are_deleted(database: Database) -> None:
    inbox = await database.write(add_phone)
    await database.write(one_time_keys.put, inbox, {"x": [b"1"], "y": [b"2"]})
    await database.write(claim, [inbox], "x")

    known = await database.read(key_uploads.load, ALICE, "PHONE")
    await database.write(one_time_keys.delete_spent, inbox)

    assert known is not None
    assert (known.counts, known.spent_algorithms) == ({"y": 1}, frozenset({"x"}))
    after = await database.read(key_uploads.load, ALICE, "PHONE")
    assert after is not None
    assert (after.counts, after.spent_algorithms) == ({"y": 1}, frozenset())


async def restore_old_tables(tx: Tx, number: int, *tables: str) -> None:
    """Replace the key tables by those of an older migration."""
    await tx.execute("DROP TABLE one_time_keys")
    await tx.execute("DROP TABLE fallback_keys")
    await tx.execute("DELETE FROM schema_migrations WHERE number > $1 AND number <= 27", number)
    for migration in bundled_migrations()[:number]:
        for statement in statements_for(migration.text, tx.dialect.engine):
            if any(f"CREATE TABLE {table}" in statement for table in tables):
                await tx.execute(statement)


OLD_DEVICE = """
INSERT INTO devices (user_id, device_id, created_ms, inbox) VALUES ($1, 'PHONE', 1, 1)
"""
OLD_KEY = """
INSERT INTO one_time_keys (id, user_id, device_id, algorithm, key_id, content)
VALUES ($1, $2, 'PHONE', 'x', $3, $4)
"""
OLD_FALLBACK = """
INSERT INTO fallback_keys (user_id, device_id, algorithm, key_id, content, is_used)
VALUES ($1, $2, 'x', 'id', $3, 1)
"""
OLD_BATCH = """
INSERT INTO key_batches (user_id, device_id, algorithm, number, taken, amount, width, keys)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""


async def test_migration_keeps_keys_stored_one_per_row(database: Database) -> None:
    async def create_old_rows(tx: Tx) -> None:
        await restore_old_tables(tx, 25, "one_time_keys", "fallback_keys")
        await tx.execute(OLD_DEVICE, ALICE)
        for number, name in enumerate(["b", "a", 'q"\u00fc\n']):
            await tx.execute(OLD_KEY, number, ALICE, name, b'{"key":"%d"}' % number)
        await tx.execute(OLD_FALLBACK, ALICE, "PHONE", b"1")
        await tx.execute(OLD_FALLBACK, ALICE, "GONE", b"2")

    await database.write(create_old_rows)

    await migrate(database, bundled_migrations(), ["pre", "post"])

    known = await database.read(key_uploads.load, ALICE, "PHONE")
    assert known is not None
    assert known.counts == {"x": 3}
    assert known.named_keys().keys() == {"x:b", "x:a", 'x:q"\u00fc\n'}
    assert (await claim_all(database, 1, "x"))[:2] == [
        b'{"x:b":{"key":"0"}}',
        b'{"x:a":{"key":"1"}}',
    ]
    assert known.fallbacks["x"] == ("x", "id", b"1", 1)


async def test_migration_keeps_unclaimed_keys_of_batches(database: Database) -> None:
    batches = [
        ("PHONE", "x", 3, 0, 2, 4, b"long" + "l\u00fcn".encode()),
        ("PHONE", "x", 1, 1, 3, 2, b"aabbcc"),
        ("PHONE", "x", 2, 2, 2, 9, b"s" * 18),
        ("PHONE", "y", 4, 0, 1, 1, b"y"),
        ("PHONE", "z", 5, 1, 1, 1, b"z"),
        ("GONE", "x", 1, 0, 1, 1, b"?"),
        # Larger than an upload may be, so the migration drops it.
        ("PHONE", "huge", 1, 0, 1, 140_000, b"h" * 140_000),
        ("PHONE", "mixed", 1, 0, 1, 100_000, b"m" * 100_000),
        ("PHONE", "mixed", 2, 0, 2, 1, b"mm"),
    ]

    async def create_old_rows(tx: Tx) -> None:
        await restore_old_tables(tx, 26, "key_batches", "fallback_keys")
        await tx.execute("ALTER TABLE devices ADD COLUMN last_batch INTEGER NOT NULL DEFAULT 0")
        await tx.execute(OLD_DEVICE, ALICE)
        for batch in batches:
            await tx.execute(OLD_BATCH, ALICE, *batch)

    await database.write(create_old_rows)

    await migrate(database, bundled_migrations(), ["pre", "post"])

    assert await database.read(one_time_keys.counts, ALICE, "PHONE") == {"x": 4, "y": 1}
    assert await claim_all(database, 1, "x") == [b"bb", b"cc", b"long", "l\u00fcn".encode()]
    assert await claim_all(database, 1, "y") == [b"y"]
