"""Finding a reaction that somebody has made already."""

from hs.storage.database import Database, Tx
from hs.storage.rooms import annotations, relation_writes
from hs.storage.rooms.relation_writes import RelationRecord

PLANS = {"sqlite": "EXPLAIN QUERY PLAN", "postgres": "EXPLAIN"}
SAME = ("$parent", "m.reaction", "@u7:hs.test", "k")


async def plan_of(tx: Tx, statement: str) -> str:
    rows = await tx.fetch(f"{PLANS[tx.dialect.engine]} {statement}", *SAME)
    return "\n".join(str(tuple(row)) for row in rows)


async def react(tx: Tx, count: int) -> None:
    await relation_writes.insert(
        tx,
        [
            RelationRecord(
                f"$r{n}",
                "!room",
                "$parent",
                "m.annotation",
                "k",
                "m.reaction",
                f"@u{n}:hs.test",
                n,
                n,
            )
            for n in range(count)
        ],
    )


async def test_ones_own_reaction_is_found_among_many_by_its_sender(database: Database) -> None:
    await database.write(react, 3000)

    found = await database.read(annotations.find, *SAME)
    plan = await database.read(plan_of, annotations.FIND)

    assert found == "$r7"
    assert "relations_senders" in plan
