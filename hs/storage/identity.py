"""The random name of this database, to recognise folders and messages that belong to it."""

from hs.storage.database import Tx
from hs.storage.dialect import Dialect, sql


def _on_postgres(dialect: Dialect, statement: str) -> str:
    """Return a statement that SQLite has no use for."""
    return "SELECT NULL" if dialect.engine == "sqlite" else statement


INSERT = """
INSERT INTO database_identity (row_number, identity) VALUES (1, $1)
ON CONFLICT (row_number) DO NOTHING
"""
READ = "SELECT identity FROM database_identity"
MAY_READ_SYSTEM = sql(
    lambda d: _on_postgres(d, "SELECT has_function_privilege('pg_control_system()', 'EXECUTE')")
)
SYSTEM = sql(lambda d: _on_postgres(d, "SELECT system_identifier::text FROM pg_control_system()"))
DATABASE = sql(
    lambda d: _on_postgres(
        d, "SELECT oid::bigint FROM pg_database WHERE datname = current_database()"
    )
)


async def identity_of(tx: Tx, new_identity: str) -> str:
    """Return the name of the database, which is `new_identity` from now on if it has none."""
    await tx.execute(INSERT, new_identity)
    identity: str = await tx.fetchval(READ)
    return identity


async def place_of(tx: Tx) -> str:
    """Return where the database is: the same after a restart and in a standby, not in a copy.

    A cluster of PostgreSQL has a number that its standbys share, and a database in it has another.
    So a database that was dumped and restored, or copied inside the cluster, is in another place. A
    copy of all files of a cluster is not: nothing tells it from a standby that was promoted.
    """
    if tx.dialect.engine == "sqlite":
        return ""
    # A role may lack the privilege, and a unit must not catch the error.
    system = await tx.fetchval(SYSTEM) if await tx.fetchval(MAY_READ_SYSTEM) else ""
    return f"{system}/{await tx.fetchval(DATABASE)}"
