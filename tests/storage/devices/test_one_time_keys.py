"""One-time keys in the rows of their devices, and among very many."""

import pytest

from hs.storage.database import Database, ForeignViolation, Tx
from hs.storage.devices import devices, key_uploads, one_time_keys, to_device
from hs.storage.migrate import bundled_migrations, migrate, statements_for
from tests.support.rooms import ALICE

PLANS = {"sqlite": "EXPLAIN QUERY PLAN", "postgres": "EXPLAIN"}
DEVICES = 2000


async def upload(tx: Tx) -> None:
    for n in range(DEVICES):
        await devices.ensure(tx, f"@u{n}:hs.test", "DEVICE", None, 1)
    found = await to_device.devices(tx, [f"@u{n}:hs.test" for n in range(DEVICES)])
    for n in range(DEVICES):
        inbox = found[f"@u{n}:hs.test"]["DEVICE"]
        await one_time_keys.put(tx, inbox, {"x": [b"%d-%d" % (n, number) for number in range(3)]})


async def inboxes(tx: Tx, count: int) -> dict[int, int]:
    found = await to_device.devices(tx, [f"@u{n}:hs.test" for n in range(count)])
    return {n: found[f"@u{n}:hs.test"]["DEVICE"] for n in range(count)}


async def plan_of(tx: Tx, wanted: list[int]) -> str:
    statement = getattr(one_time_keys.CLAIM.statement, tx.dialect.engine)
    rows = await tx.fetch(f"{PLANS[tx.dialect.engine]} {statement}", wanted, "x")
    return "\n".join(str(tuple(row)) for row in rows).lower()


async def claim(tx: Tx, wanted: list[int], algorithm: str) -> list[tuple[int, bytes]]:
    return await one_time_keys.claim_any(tx, dict.fromkeys(wanted, algorithm))


async def test_each_of_many_devices_gives_its_oldest_key(database: Database) -> None:
    await database.write(upload)
    wanted = await database.read(inboxes, 100)

    plan = await database.read(plan_of, list(wanted.values())[:10])
    given = [await database.write(claim, list(wanted.values()), "x")]
    late = await database.write(one_time_keys.claim, wanted.values(), "x")
    given.append(one_time_keys.claimed(late.rows))

    # The keys of others are not looked at.
    assert "seq scan" not in plan
    assert "scan one_time_keys" not in plan
    for number, keys in enumerate(given):
        assert set(keys) == {(wanted[n], b"%d-%d" % (n, number)) for n in range(100)}


async def phone(tx: Tx) -> int:
    await devices.ensure(tx, ALICE, "PHONE", None, 1)
    return (await to_device.devices(tx, [ALICE]))[ALICE]["PHONE"]


async def all_of(database: Database, inbox: int, algorithm: str) -> list[bytes]:
    """Claim until nothing is left."""
    found: list[bytes] = []
    while given := await database.write(claim, [inbox], algorithm):
        found += [key for _, key in given]
    return found


async def test_keys_of_any_length_come_in_the_order_of_their_upload(database: Database) -> None:
    keys = [b"aa", b"b b", b"c", b"ddddd", b"ff", "g\u00fc".encode()]
    inbox = await database.write(phone)
    await database.write(one_time_keys.put, inbox, {"x": keys, "y": [b"other"]})

    assert await database.read(one_time_keys.counts, ALICE, "PHONE") == {"x": 6, "y": 1}
    assert await all_of(database, inbox, "x") == keys
    assert await all_of(database, inbox, "y") == [b"other"]
    assert await database.read(one_time_keys.counts, ALICE, "PHONE") == {}


async def test_keys_go_with_their_device_and_none_come_after(database: Database) -> None:
    inbox = await database.write(phone)
    await database.write(one_time_keys.put, inbox, {"x": [b"k"]})
    await database.write(one_time_keys.put_fallbacks, inbox, [("x", "id", b"k")])

    await database.write(devices.delete, ALICE, ["PHONE"])
    await database.write(phone)

    assert await all_of(database, inbox, "x") == []
    assert await database.read(one_time_keys.counts, ALICE, "PHONE") == {}
    assert await database.read(one_time_keys.unused_fallbacks, ALICE, "PHONE") == []
    with pytest.raises(ForeignViolation):
        await database.write(one_time_keys.put, inbox, {"x": [b"k"]})


async def test_what_is_spent_goes_where_it_is_not_written_anew(database: Database) -> None:
    inbox = await database.write(phone)
    await database.write(one_time_keys.put, inbox, {"x": [b"1"], "y": [b"2"]})
    await database.write(claim, [inbox], "x")

    known = await database.read(key_uploads.known, ALICE, "PHONE")
    await database.write(one_time_keys.delete_spent, inbox)

    assert known is not None
    assert (known.counts, known.spent) == ({"y": 1}, frozenset({"x"}))
    after = await database.read(key_uploads.known, ALICE, "PHONE")
    assert after is not None
    assert (after.counts, after.spent) == ({"y": 1}, frozenset())


async def back_to(tx: Tx, number: int, *tables: str) -> None:
    """Make tables of keys as they were at a migration."""
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


async def test_keys_in_a_row_each_are_kept(database: Database) -> None:
    async def as_it_was(tx: Tx) -> None:
        await back_to(tx, 25, "one_time_keys", "fallback_keys")
        await tx.execute(OLD_DEVICE, ALICE)
        for number, name in enumerate(["b", "a", 'q"\u00fc\n']):
            await tx.execute(OLD_KEY, number, ALICE, name, b'{"key":"%d"}' % number)
        await tx.execute(OLD_FALLBACK, ALICE, "PHONE", b"1")
        await tx.execute(OLD_FALLBACK, ALICE, "GONE", b"2")

    await database.write(as_it_was)

    await migrate(database, bundled_migrations(), ["pre"])

    known = await database.read(key_uploads.known, ALICE, "PHONE")
    assert known is not None
    assert known.counts == {"x": 3}
    assert known.named_keys().keys() == {"x:b", "x:a", 'x:q"\u00fc\n'}
    assert (await all_of(database, 1, "x"))[:2] == [b'{"x:b":{"key":"0"}}', b'{"x:a":{"key":"1"}}']
    assert known.fallbacks["x"] == ("x", "id", b"1", 1)


async def test_keys_in_batches_are_kept_but_for_those_given_out(database: Database) -> None:
    batches = [
        ("PHONE", "x", 3, 0, 2, 4, b"long" + "l\u00fcn".encode()),
        ("PHONE", "x", 1, 1, 3, 2, b"aabbcc"),
        ("PHONE", "x", 2, 2, 2, 9, b"s" * 18),
        ("PHONE", "y", 4, 0, 1, 1, b"y"),
        ("PHONE", "z", 5, 1, 1, 1, b"z"),
        ("GONE", "x", 1, 0, 1, 1, b"?"),
        # As nobody may leave them any more.
        ("PHONE", "huge", 1, 0, 1, 140_000, b"h" * 140_000),
        ("PHONE", "mixed", 1, 0, 1, 100_000, b"m" * 100_000),
        ("PHONE", "mixed", 2, 0, 2, 1, b"mm"),
    ]

    async def as_it_was(tx: Tx) -> None:
        await back_to(tx, 26, "key_batches", "fallback_keys")
        await tx.execute("ALTER TABLE devices ADD COLUMN last_batch INTEGER NOT NULL DEFAULT 0")
        await tx.execute(OLD_DEVICE, ALICE)
        for batch in batches:
            await tx.execute(OLD_BATCH, ALICE, *batch)

    await database.write(as_it_was)

    await migrate(database, bundled_migrations(), ["pre"])

    assert await database.read(one_time_keys.counts, ALICE, "PHONE") == {"x": 4, "y": 1}
    assert await all_of(database, 1, "x") == [b"bb", b"cc", b"long", "l\u00fcn".encode()]
    assert await all_of(database, 1, "y") == [b"y"]
