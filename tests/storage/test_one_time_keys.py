"""One-time keys in batches, and among very many."""

from hs.storage import key_uploads, one_time_keys
from hs.storage.database import Database, Tx
from hs.storage.migrate import bundled_migrations, migrate, statements_for
from hs.storage.one_time_keys import Wanted
from tests.support.rooms import ALICE

PLANS = {"sqlite": "EXPLAIN QUERY PLAN", "postgres": "EXPLAIN"}
DEVICES = 300
WANTED = [Wanted(f"@u{n}:hs.test", "DEVICE", "curve25519") for n in range(100)]


async def upload(tx: Tx) -> None:
    for n in range(DEVICES):
        for number in range(10):
            key = ("curve25519", b"%d-%d" % (n, number))
            await one_time_keys.add(tx, f"@u{n}:hs.test", "DEVICE", number, [key])


async def plan_of(tx: Tx, statement: str) -> str:
    lists = [list(one) for one in zip(*WANTED, strict=True)]
    rows = await tx.fetch(f"{PLANS[tx.dialect.engine]} {statement}", *lists)
    return "\n".join(str(tuple(row)) for row in rows).lower()


async def test_the_keys_of_others_are_not_looked_at(database: Database) -> None:
    await database.write(upload)

    plan = await database.read(plan_of, getattr(one_time_keys.CLAIM, database.engine))

    assert "seq scan" not in plan
    assert "scan key_batches" not in plan


async def test_each_device_gives_its_oldest_key(database: Database) -> None:
    await database.write(upload)

    claimed = [await database.write(one_time_keys.claim, WANTED) for _ in range(2)]

    for number, keys in enumerate(claimed):
        found = {(one.user_id, one.shown) for one in keys}
        assert found == {(f"@u{n}:hs.test", b"%d-%d" % (n, number)) for n in range(100)}


async def add(tx: Tx, last: int, *keys: tuple[str, bytes]) -> None:
    await one_time_keys.add(tx, ALICE, "PHONE", last, keys)


async def claimed(database: Database, algorithm: str, times: int) -> list[bytes]:
    wanted = [Wanted(ALICE, "PHONE", algorithm)]
    return [
        one.shown for _ in range(times) for one in await database.write(one_time_keys.claim, wanted)
    ]


async def test_keys_of_any_length_come_in_the_order_of_their_upload(database: Database) -> None:
    keys = [b"aa", b"bb", b"c", b"ddddd", b"eeeee", b"ff", "gü".encode()]
    mixed = [("x", key) for key in keys]
    await database.write(add, 0, *mixed[:3], ("y", b"other"), *mixed[3:])

    counted = await database.read(one_time_keys.counts, ALICE, "PHONE")

    assert counted == {"x": 7, "y": 1}
    assert await claimed(database, "x", 9) == keys
    assert await claimed(database, "y", 2) == [b"other"]
    assert await database.read(one_time_keys.counts, ALICE, "PHONE") == {}


async def test_many_keys_lie_in_several_batches(database: Database) -> None:
    keys = [b"%08d" % number * 128 for number in range(100)]

    async def batches(tx: Tx) -> int:
        number: int = await tx.fetchval("SELECT count(*) FROM key_batches")
        return number

    await database.write(add, 0, *[("x", key) for key in keys])

    assert await database.read(batches) == 4
    assert await claimed(database, "x", 101) == keys


async def as_it_was(tx: Tx) -> None:
    """Put the table of keys as it was before batches."""
    (first,) = [one for one in bundled_migrations() if one.number == 8]
    for statement in statements_for(first.text, tx.dialect.engine):
        if "CREATE TABLE one_time_keys" in statement:
            await tx.execute(statement)
    await tx.execute("DROP TABLE key_batches")
    await tx.execute("ALTER TABLE devices DROP COLUMN last_batch")
    await tx.execute("DELETE FROM schema_migrations WHERE number = 26")
    for number, name in enumerate(["b", "a", 'q"ü\n']):
        await tx.execute(
            "INSERT INTO one_time_keys (id, user_id, device_id, algorithm, key_id, content) "
            "VALUES ($1, $2, 'PHONE', 'x', $3, $4)",
            number,
            ALICE,
            name,
            b'{"key":"%d"}' % number,
        )
    await tx.execute(
        "INSERT INTO devices (user_id, device_id, created_ms, inbox) VALUES ($1, 'PHONE', 1, 1)",
        ALICE,
    )


async def test_keys_of_the_table_before_are_kept(database: Database) -> None:
    await database.write(as_it_was)

    await migrate(database, bundled_migrations(), ["pre"])

    known = await database.read(key_uploads.known, ALICE, "PHONE")
    assert known is not None
    assert (known.counts, known.last_batch) == ({"x": 3}, 3)
    assert known.named_keys().keys() == {"x:b", "x:a", 'x:q"ü\n'}
    assert (await claimed(database, "x", 2)) == [b'{"x:b":{"key":"0"}}', b'{"x:a":{"key":"1"}}']
