"""Reading which of our users asked to be erased."""

from collections.abc import Sequence

from hs.storage.database import Tx
from hs.storage.dialect import sql

ERASED = sql(
    lambda d: f"SELECT user_id FROM users WHERE {d.any_of('user_id', 1, 'text')} AND is_erased = 1"
)


async def erased_among(tx: Tx, user_ids: Sequence[str]) -> set[str]:
    """Give those of the users who asked to be erased."""
    return {row[0] for row in await tx.fetch(ERASED, list(user_ids))}
