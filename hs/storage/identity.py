"""The random name of this database, to recognise folders and messages that belong to it."""

from hs.storage.database import Tx

INSERT = """
INSERT INTO database_identity (row_number, identity) VALUES (1, $1)
ON CONFLICT (row_number) DO NOTHING
"""
READ = "SELECT identity FROM database_identity"


async def identity_of(tx: Tx, new_identity: str) -> str:
    """Return the name of the database, which is `new_identity` from now on if it has none."""
    await tx.execute(INSERT, new_identity)
    identity: str = await tx.fetchval(READ)
    return identity
