"""Rooms, histories and accounts of any size, written through the appender."""

from collections.abc import Sequence

from hs.core.ids import RoomID, UserID
from hs.services.rooms.append.drafts import AppendedEvent, Draft
from hs.storage.database import Database, Tx
from tests.support.rooms import World, member, message

BATCH = 200  # drafts that are appended at once


def user(number: int) -> UserID:
    """Return one of many users."""
    return UserID(f"@user{number}:test.example")


def users(count: int) -> list[UserID]:
    """Return many users."""
    return [user(number) for number in range(count)]


async def append_all(world: World, room_id: RoomID, drafts: Sequence[Draft]) -> list[AppendedEvent]:
    """Append many drafts to a room and return their events."""
    events: list[AppendedEvent] = []
    for start in range(0, len(drafts), BATCH):
        events += await world.append(room_id, *drafts[start : start + BATCH])
    await collect_statistics(world.database)
    return events


async def collect_statistics(database: Database) -> None:
    """Do what autovacuum does on PostgreSQL: a new table's plans are those of an empty one."""
    if database.engine == "postgres":
        await database.write(_analyze)


async def _analyze(tx: Tx) -> None:
    await tx.execute("ANALYZE")


async def add_history(
    world: World, room_id: RoomID, sender: UserID, count: int
) -> list[AppendedEvent]:
    """Send many messages, whose texts are numbered."""
    drafts = [message(sender, f"message {number}", None) for number in range(count)]
    return await append_all(world, room_id, drafts)


async def add_members(world: World, room_id: RoomID, members: Sequence[UserID]) -> None:
    """Let many users join."""
    await append_all(world, room_id, [member(user_id, "join") for user_id in members])
