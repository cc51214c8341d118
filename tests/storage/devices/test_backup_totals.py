"""Migration 0034: the keys of existing backups are counted."""

from hs.storage.database import Tx
from hs.storage.devices import key_backup
from tests.support.sql.migrated import filled_before

NUMBER = 34
ALICE = "@a:hs.test"
VERSION = """
INSERT INTO key_backups (user_id, version, algorithm, auth_data, is_deleted)
VALUES ('@a:hs.test', $1, 'm.x', x'7b7d', $2)
"""
KEY = """
INSERT INTO key_backup_sessions VALUES ('@a:hs.test', 1, '!room', $1, 0, 0, 0, $2)
"""


async def fill(tx: Tx) -> None:
    await tx.execute(VERSION, 1, 0)
    await tx.execute(VERSION, 2, 1)
    await tx.execute(KEY, "first", b"{}")
    await tx.execute(KEY, "second", b'{"a":1}')


async def test_existing_keys_are_counted() -> None:
    async with filled_before(NUMBER, fill) as database:
        stored = await database.read(key_backup.find, ALICE, 1)
        deleted = await database.read(key_backup.find, ALICE, 2)
        assert stored is not None
        assert deleted is not None
        assert (stored.key_count, stored.key_bytes, stored.auth_data) == (2, 9, b"{}")
        assert (deleted.key_count, deleted.auth_data) == (0, b"")
