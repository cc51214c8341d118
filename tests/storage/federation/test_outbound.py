"""What federation senders read: missed events, missed changes of devices, waiting messages."""

from hs.storage.database import Database, Tx
from hs.storage.federation import outbound, outgoing_to_device
from hs.storage.federation.outbound import MissedChangesRecord, SenderPositionRecord

FAR = "far.example"
SENDERS, OLD_SENDERS = '["a","b"]', '["a"]'


async def fill(tx: Tx) -> None:
    """Add rooms in which FAR is, was, or never was, and changes of devices of their members."""
    for room, members, joined_id, left_id, sent_id in (
        ("!in", 2, 5, None, 5),
        ("!old", 1, 1, None, 2),
        ("!left", 0, 1, 7, 9),
        ("!joined", 1, 9, None, 8),
        ("!received", 1, 1, None, None),
    ):
        await tx.execute(
            "INSERT INTO room_servers (room_id, server, joined_members, joined_id, left_id) "
            "VALUES ($1, $2, $3, $4, $5)",
            *(room, FAR, members, joined_id, left_id),
        )
        await tx.execute(
            "INSERT INTO room_heads (room_id, extremities, snapshot_id, depth, stream_id, sent_id) "
            "VALUES ($1, '[]', 0, 1, 9, $2)",
            *(room, sent_id),
        )
        await tx.execute(
            "INSERT INTO local_memberships "
            "(user_id, room_id, membership, event_id, stream_id, sender) "
            "VALUES ($1, $2, 'join', '$join', 1, $1)",
            *(f"@{room[1:]}:near.example", room),
        )
    for number, user, device in ((1, "in", "A"), (3, "in", None), (4, "left", "B"), (6, "in", "C")):
        await tx.execute(
            "INSERT INTO device_list_changes "
            "(stream_id, user_id, device_id, is_private, created_ms) VALUES ($1, $2, $3, 0, 1)",
            *(number, f"@{user}:near.example", device),
        )


async def test_missed_events_are_the_last_of_each_room(database: Database) -> None:
    await database.write(fill)

    missed = await database.read(outbound.missed_events, FAR, 2, 10)
    first = await database.read(outbound.missed_events, FAR, 0, 1)

    assert missed == [(5, True), (7, False)]
    assert first == [(2, True)]


async def test_missed_changes_are_those_of_users_in_shared_rooms(database: Database) -> None:
    await database.write(fill)

    missed = await database.read(outbound.missed_device_changes, FAR, 1, 10)

    assert missed == [MissedChangesRecord("@in:near.example", 6, 3, 6)]
    assert await database.read(outbound.device_of_change, 6) == "C"
    assert await database.read(outbound.previous_change, "@in:near.example", 6) == 1


async def test_positions_of_earlier_lists_are_deleted_once_all_have_stored(
    database: Database,
) -> None:
    def rows(sender: str, senders: str, position: int) -> list[SenderPositionRecord]:
        return [SenderPositionRecord(sender, "events", "main", position, senders)]

    await database.write(outbound.set_positions, rows("old", OLD_SENDERS, 3), OLD_SENDERS, 1)
    await database.write(outbound.set_positions, rows("a", SENDERS, 4), SENDERS, 2)
    await database.write(outbound.begin_positions, rows("b", SENDERS, 3) + rows("a", SENDERS, 1))
    before = {row.sender: row.position for row in await database.read(outbound.list_positions)}
    await database.write(outbound.set_positions, rows("b", SENDERS, 6), SENDERS, 2)
    after = {row.sender: row.position for row in await database.read(outbound.list_positions)}

    assert before == {"old": 3, "a": 4, "b": 3}
    assert after == {"a": 4, "b": 6}


async def test_oldest_waiting_messages_are_in_excess(database: Database) -> None:
    edus = [(FAR, b"0"), (FAR, b"1"), ("other.example", b"2"), (FAR, b"3")]
    await database.write(outgoing_to_device.insert, edus, 5)

    excess = await database.read(outgoing_to_device.list_excess, 2, 10)
    await database.write(outgoing_to_device.delete, excess)
    waiting = await database.read(outgoing_to_device.list_of_destination, FAR, 10)

    assert [edu for _, edu in waiting] == [b"1", b"3"]
    assert sorted(await database.read(outgoing_to_device.list_destinations)) == sorted(
        {FAR, "other.example"}
    )
    assert len(await database.read(outgoing_to_device.list_old, 6, 10)) == 3
