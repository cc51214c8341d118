"""Guest accounts."""

from collections.abc import Sequence

from hs.storage.database import Tx
from hs.storage.dialect import sql

AMONG = sql(
    lambda d: (
        f"SELECT user_id FROM users WHERE {d.any_of('user_id', 1, 'text')} AND is_guest = 1 "
        "ORDER BY user_id"
    )
)


async def guests_among(tx: Tx, user_ids: Sequence[str]) -> list[str]:
    """List those of the users who are guests."""
    return [row[0] for row in await tx.fetch(AMONG, list(user_ids))]
