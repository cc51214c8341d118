"""One-time keys among very many."""

from hs.storage import one_time_keys
from hs.storage.database import Database, Tx
from hs.storage.one_time_keys import Wanted

PLANS = {"sqlite": "EXPLAIN QUERY PLAN", "postgres": "EXPLAIN"}
DEVICES = 300
WANTED = [Wanted(f"@u{n}:hs.test", "DEVICE", "curve25519") for n in range(100)]


async def upload(tx: Tx) -> None:
    for n in range(DEVICES):
        keys = [("curve25519", f"{n}-{number}", b"{}") for number in range(10)]
        await one_time_keys.add(tx, f"@u{n}:hs.test", "DEVICE", keys)


async def plan_of(tx: Tx, statement: str) -> str:
    lists = [list(one) for one in zip(*WANTED, strict=True)]
    rows = await tx.fetch(f"{PLANS[tx.dialect.engine]} {statement}", *lists)
    return "\n".join(str(tuple(row)) for row in rows).lower()


async def test_the_keys_of_others_are_not_looked_at(database: Database) -> None:
    await database.write(upload)

    plan = await database.read(plan_of, getattr(one_time_keys.CLAIM, database.engine))

    assert "seq scan" not in plan
    assert "scan one_time_keys" not in plan


async def test_each_device_gives_its_oldest_key(database: Database) -> None:
    await database.write(upload)

    claimed = [await database.write(one_time_keys.claim, WANTED) for _ in range(2)]

    for number, keys in enumerate(claimed):
        found = {(one.user_id, one.key_id) for one in keys}
        assert found == {(f"@u{n}:hs.test", f"{n}-{number}") for n in range(100)}
