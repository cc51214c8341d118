"""Migration 0039: the servers in rooms that existed before it."""

from hs.storage.database import Tx
from hs.storage.rooms import room_servers
from tests.support.sql.migrated import filled_before

NUMBER = 39
MEMBERS = (
    ("@a:one.example:8448", "join"),
    ("@b:one.example:8448", "join"),
    ("@c:two.example", "join"),
    ("@d:three.example", "leave"),
)
MEMBER = """
INSERT INTO current_state (room_id, type, state_key, event_id, stream_id, membership)
VALUES ('!room', 'm.room.member', $1, $2, 7, $3)
"""


async def fill(tx: Tx) -> None:
    for user_id, membership in MEMBERS:
        await tx.execute(MEMBER, user_id, f"${user_id}", membership)


async def test_rooms_of_earlier_versions_have_their_servers() -> None:
    async with filled_before(NUMBER, fill) as database:
        keys = [("!room", server) for server in ("one.example:8448", "two.example")]
        assert await database.read(room_servers.counts, keys) == {keys[0]: 2, keys[1]: 1}
        assert sorted(await database.read(room_servers.servers_of, ["!room"])) == keys
