"""The acknowledged position of each inbox; any process may advance it, and it never decreases."""

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


async def record_reads(tx: Tx, acknowledged: Collection[tuple[str, str, int]]) -> None:
    """Record acknowledgements: (user_id, device_id, last stream ID)."""
    await tx.executemany(MARK, sorted(acknowledged))


async def advance(tx: Tx, user_id: str, device_id: str, upto: int) -> int:
    """Record an acknowledgement; return the acknowledged position, which may be greater."""
    position: int | None = await tx.fetchval(ADVANCE, user_id, device_id, upto)
    return upto if position is None else position
