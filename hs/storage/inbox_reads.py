"""How far devices have acknowledged their messages, to whichever process."""

from hs.storage.database import Tx
from hs.storage.dialect import sql

ADVANCE = sql(
    lambda d: (
        "INSERT INTO inbox_reads (inbox, upto) "
        "SELECT inbox, $3 FROM devices WHERE user_id = $1 AND device_id = $2 "
        "ON CONFLICT (inbox) DO UPDATE "
        f"SET upto = {d.greatest('inbox_reads.upto', 'excluded.upto')} RETURNING upto"
    )
)


async def advance(tx: Tx, user_id: str, device_id: str, upto: int) -> int:
    """Note what a device has acknowledged; give up to where it has, maybe more than that."""
    found: int | None = await tx.fetchval(ADVANCE, user_id, device_id, upto)
    return upto if found is None else found
