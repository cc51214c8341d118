"""The verify keys of other servers, and the responses in which they published them."""

from collections.abc import Sequence
from typing import NamedTuple

from hs.storage.database import Tx
from hs.storage.dialect import sql
from hs.storage.rows import InsertRows

_KEY_COLUMNS = "server text, key_id text, verify_key text, valid_until_ms bigint"
_SET = "verify_key = excluded.verify_key, valid_until_ms ="
REPLACE_KEYS = InsertRows(
    "server_keys",
    _KEY_COLUMNS,
    conflict=f"ON CONFLICT (server, key_id) DO UPDATE SET {_SET} excluded.valid_until_ms",
)
EXTEND_KEYS = InsertRows(
    "server_keys",
    _KEY_COLUMNS,
    conflict=(
        f"ON CONFLICT (server, key_id) DO UPDATE SET {_SET} excluded.valid_until_ms "
        "WHERE excluded.valid_until_ms > server_keys.valid_until_ms "
        "AND excluded.verify_key = server_keys.verify_key"
    ),
)
# Those that were valid last are kept. SQLite wants a limit before an offset.
TRIM = """
DELETE FROM server_keys WHERE server = $1 AND key_id IN (
    SELECT key_id FROM server_keys WHERE server = $1
    ORDER BY valid_until_ms DESC, key_id LIMIT 100000 OFFSET $2
)
"""
KEYS_OF = sql(
    lambda d: (
        "SELECT server, key_id, verify_key, valid_until_ms FROM server_keys "
        f"WHERE {d.any_of('server', 1, 'text')}"
    )
)
SAVE_RESPONSE = (
    "INSERT INTO server_key_responses (server, response, fetched_ms, valid_until_ms) "
    "VALUES ($1, $2, $3, $4) ON CONFLICT (server) DO UPDATE SET response = excluded.response, "
    "fetched_ms = excluded.fetched_ms, valid_until_ms = excluded.valid_until_ms"
)
RESPONSES_OF = sql(
    lambda d: (
        "SELECT server, response, fetched_ms, valid_until_ms FROM server_key_responses "
        f"WHERE {d.any_of('server', 1, 'text')}"
    )
)
FORMER = sql(
    lambda d: (
        "SELECT server, key_id, response, valid_until_ms FROM former_key_responses "
        f"WHERE {d.any_of('server', 1, 'text')} ORDER BY server, key_id"
    )
)
KEEP_FORMER = InsertRows(
    "former_key_responses",
    "server text, key_id text, response bytea, valid_until_ms bigint",
    conflict=(
        "ON CONFLICT (server, key_id) DO UPDATE SET response = excluded.response, "
        "valid_until_ms = excluded.valid_until_ms"
    ),
)
TIMES_OF = sql(
    lambda d: (
        "SELECT server, fetched_ms, valid_until_ms FROM server_key_responses "
        f"WHERE {d.any_of('server', 1, 'text')}"
    )
)


class KeyRecord(NamedTuple):
    """A row of `server_keys`."""

    server: str
    key_id: str
    verify_key: str
    valid_until_ms: int


class KeyResponse(NamedTuple):
    """A row of `server_key_responses`; `response` is JSON."""

    server: str
    response: bytes
    fetched_ms: int
    valid_until_ms: int


class FormerResponse(NamedTuple):
    """A row of `former_key_responses`: the last response of a server with a key."""

    server: str
    key_id: str
    response: bytes
    valid_until_ms: int


class KeyTimes(NamedTuple):
    """When a server was last asked for its keys, and until when they are valid."""

    server: str
    fetched_ms: int
    valid_until_ms: int


async def save_published(
    tx: Tx, response: KeyResponse, keys: Sequence[KeyRecord], most: int
) -> None:
    """Store what a server itself published, and keep `most` of its keys that are stored."""
    await tx.execute(SAVE_RESPONSE, *response)
    await tx.execute(TRIM, response.server, most)
    await tx.insert_rows(REPLACE_KEYS, keys)


async def extend(tx: Tx, server: str, keys: Sequence[KeyRecord], most: int) -> None:
    """Store keys of a server from a notary, which may be older than those that are stored.

    `most` of the stored keys are kept.
    """
    await tx.execute(TRIM, server, most)
    await tx.insert_rows(EXTEND_KEYS, keys)


async def keys_of(tx: Tx, servers: Sequence[str]) -> tuple[list[KeyRecord], list[KeyTimes]]:
    """Return the keys of servers, and when they were fetched."""
    keys = [KeyRecord(*row) for row in await tx.fetch(KEYS_OF, list(servers))]
    return keys, [KeyTimes(*row) for row in await tx.fetch(TIMES_OF, list(servers))]


async def responses_of(tx: Tx, servers: Sequence[str]) -> list[KeyResponse]:
    """Return the stored responses of servers."""
    rows = await tx.fetch(RESPONSES_OF, list(servers))
    return [KeyResponse(row[0], bytes(row[1]), row[2], row[3]) for row in rows]


async def former_responses(tx: Tx, servers: Sequence[str]) -> list[FormerResponse]:
    """Return the stored responses with keys that later ones lack."""
    rows = await tx.fetch(FORMER, list(servers))
    return [FormerResponse(row[0], row[1], bytes(row[2]), row[3]) for row in rows]


async def keep_former(tx: Tx, responses: Sequence[FormerResponse]) -> None:
    """Store responses with keys that later ones lack."""
    await tx.insert_rows(KEEP_FORMER, responses)
