"""The identity servers at which users have bound their third-party identifiers."""

from hs.storage.database import Tx

ADD = """
INSERT INTO threepid_bindings (user_id, medium, address, id_server) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING
"""
OF_ADDRESS = """
SELECT id_server FROM threepid_bindings WHERE user_id = $1 AND medium = $2 AND address = $3
ORDER BY id_server
"""
OF_USER = """
SELECT medium, address, id_server FROM threepid_bindings WHERE user_id = $1
ORDER BY medium, address, id_server
"""
REMOVE = """
DELETE FROM threepid_bindings
WHERE user_id = $1 AND medium = $2 AND address = $3 AND id_server = $4
"""


async def add(tx: Tx, user_id: str, medium: str, address: str, id_server: str) -> None:
    """Record a binding; idempotent."""
    await tx.execute(ADD, user_id, medium, address, id_server)


async def identity_servers_of(tx: Tx, user_id: str, medium: str, address: str) -> list[str]:
    """List the identity servers at which a user's identifier is bound."""
    return [str(row[0]) for row in await tx.fetch(OF_ADDRESS, user_id, medium, address)]


async def list_of_user(tx: Tx, user_id: str) -> list[tuple[str, str, str]]:
    """List (medium, address, identity server) of all bindings of a user."""
    rows = await tx.fetch(OF_USER, user_id)
    return [(str(medium), str(address), str(server)) for medium, address, server in rows]


async def remove(tx: Tx, user_id: str, medium: str, address: str, id_server: str) -> None:
    """Delete a binding; idempotent."""
    await tx.execute(REMOVE, user_id, medium, address, id_server)
