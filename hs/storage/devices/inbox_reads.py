"""How far devices have acknowledged their messages, to whichever process."""

from collections.abc import Collection

from hs.storage.database import Tx
from hs.storage.dialect import sql

_OF_DEVICE = """
(inbox, upto) SELECT inbox, $3 FROM devices WHERE user_id = $1 AND device_id = $2
ON CONFLICT (inbox) DO UPDATE SET upto =
"""
MARK = f"""
INSERT INTO inbox_reads {_OF_DEVICE} excluded.upto WHERE inbox_reads.upto < excluded.upto
"""
ADVANCE = sql(
    lambda d: (
        f"INSERT INTO inbox_reads {_OF_DEVICE} "
        f"{d.greatest('inbox_reads.upto', 'excluded.upto')} RETURNING upto"
    )
)


async def mark(tx: Tx, got: Collection[tuple[str, str, int]]) -> None:
    """Note what devices have got, so that it is not given again: (user_id, device_id, up to)."""
    await tx.executemany(MARK, sorted(got))


async def advance(tx: Tx, user_id: str, device_id: str, upto: int) -> int:
    """Note what a device has acknowledged; give up to where it has, maybe more than that."""
    found: int | None = await tx.fetchval(ADVANCE, user_id, device_id, upto)
    return upto if found is None else found
