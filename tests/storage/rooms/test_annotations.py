"""The lookup of a user's existing reaction to an event."""

from hs.storage.database import Database, Tx
from hs.storage.rooms import annotations, relation_writes
from hs.storage.rooms.relation_writes import RelationRecord
from tests.support.sql.plans import explain_by_index

REACTION = ("$parent", "m.reaction", "@u7:hs.test", "k")


async def react(tx: Tx, count: int) -> None:
    await relation_writes.insert(
        tx,
        [
            RelationRecord(
                event_id=f"$r{n}",
                room_id="!room",
                parent_id="$parent",
                rel_type="m.annotation",
                aggregation_key="k",
                type="m.reaction",
                sender=f"@u{n}:hs.test",
                depth=n,
                stream_id=n,
            )
            for n in range(count)
        ],
    )


async def test_reaction_is_looked_up_by_its_sender(database: Database) -> None:
    await database.write(react, 3000)

    event_id = await database.read(annotations.find_annotation, *REACTION)
    plan = await database.read_long(explain_by_index, annotations.FIND, *REACTION)

    assert event_id == "$r7"
    assert "relations_senders" in plan
