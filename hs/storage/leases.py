"""Leases: rows that say which process holds a named lease, and until when.

- A lease can be taken when it is free, has expired, or already belongs to the same holder. The
  row's lock decides between processes that try at the same time: exactly one gets it.
- `fence` increases whenever the lease passes to another holder and never decreases; a released
  lease keeps its row for that reason. A renewal returns the fence: a holder that lost the lease,
  and took it again meanwhile, sees that it has increased.
- Times are wall-clock milliseconds passed by the caller, never the database's clock. A lease that
  ends much later than one taken now was taken before the clock was set back: it has expired too,
  or its holder's death would stop the others until that date.
"""

from collections.abc import Sequence
from typing import Final, ParamSpec, TypeVar

import attrs

from hs.storage.database import Tx, Unit
from hs.storage.dialect import sql

P = ParamSpec("P")
T = TypeVar("T")

Renewal = tuple[str, Sequence[str], int]
"""The arguments of `renew`."""

# The fence increases when the lease changes hands, not when the same holder takes it again.
FUTURE_MS: Final = 600_000
TAKE = f"""
INSERT INTO leases (name, holder, fence, expires_ms) VALUES ($1, $2, 1, $3)
ON CONFLICT (name) DO UPDATE SET
    fence = CASE WHEN leases.holder = excluded.holder THEN leases.fence ELSE leases.fence + 1 END,
    holder = excluded.holder,
    expires_ms = excluded.expires_ms
WHERE leases.expires_ms <= $4 OR leases.holder = excluded.holder
    OR leases.expires_ms > excluded.expires_ms + {FUTURE_MS}
RETURNING fence
"""
# Not a lease that anybody waits for: it says what its holder is about to do. Its expiry means
# nothing, and is past, so that it does not look like a lease of a process that is gone.
MARK = """
INSERT INTO leases (name, holder, fence, expires_ms) VALUES ($1, $2, 1, 0)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_ms = 0
"""
HOLDER = "SELECT holder, fence, expires_ms FROM leases WHERE name = $1"
# The row is kept so that the fence never decreases.
GIVE_BACK = "UPDATE leases SET expires_ms = 0, holder = '' WHERE name = $1 AND holder = $2"
# A renewal whose connection is slow, or was lost, may be carried out after later ones. The holder
# relies on the expiry that those have set.
LATE_MS: Final = 60_000
RENEW: Final = sql(
    lambda d: (
        f"""
UPDATE leases SET
    expires_ms = CASE WHEN expires_ms BETWEEN $3 AND $3 + {LATE_MS} THEN expires_ms ELSE $3 END
WHERE holder = $1 AND {d.any_of("name", 2, "text")}
RETURNING name, fence
"""
    )
)


@attrs.frozen
class LeaseRow:
    """The row of one lease: holder (empty if released), fence, and expiry."""

    holder: str
    fence: int
    expires_ms: int


async def take(tx: Tx, name: str, holder: str, expires_ms: int, now_ms: int) -> int | None:
    """Take a lease that is free, expired or already ours.

    Returns: its fence, or None if another holder has it.
    """
    fence: int | None = await tx.fetchval(TAKE, name, holder, expires_ms, now_ms)
    return fence


async def mark(tx: Tx, name: str, holder: str) -> None:
    """Store a holder under a name, whoever is stored there."""
    await tx.execute(MARK, name, holder)


async def renew(tx: Tx, holder: str, names: Sequence[str], expires_ms: int) -> dict[str, int]:
    """Extend leases of one holder; return the fences of those that it still holds.

    One that is carried out late, after others, shortens none.
    """
    rows = await tx.fetch(RENEW, holder, list(names), expires_ms)
    return {row[0]: row[1] for row in rows}


async def renew_after(
    tx: Tx, renewal: Renewal, unit: Unit[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> tuple[T, dict[str, int]]:
    """Run another unit of work, then `renew`; return the results of both."""
    return await unit(tx, *args, **kwargs), await renew(tx, *renewal)


async def release(tx: Tx, name: str, holder: str) -> None:
    """Release a lease if `holder` still holds it."""
    await tx.execute(GIVE_BACK, name, holder)


async def read(tx: Tx, name: str) -> LeaseRow | None:
    """Return the row of a lease, expired or not; None if it was never taken."""
    row = await tx.fetchrow(HOLDER, name)
    return LeaseRow(row[0], row[1], row[2]) if row is not None else None
