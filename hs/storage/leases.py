"""Rows of leases: who holds what, until when."""

import attrs

from hs.storage.database import Tx

# The fence grows when the lease changes hands, not when it is renewed.
TAKE = """
INSERT INTO leases (name, holder, fence, expires_ms) VALUES ($1, $2, 1, $3)
ON CONFLICT (name) DO UPDATE SET
    fence = CASE WHEN leases.holder = excluded.holder THEN leases.fence ELSE leases.fence + 1 END,
    holder = excluded.holder,
    expires_ms = excluded.expires_ms
WHERE leases.expires_ms <= $4 OR leases.holder = excluded.holder
RETURNING fence
"""
HOLDER = "SELECT holder, fence, expires_ms FROM leases WHERE name = $1"
# The row stays, so that the fence goes on growing.
GIVE_BACK = "UPDATE leases SET expires_ms = 0, holder = '' WHERE name = $1 AND holder = $2"
RENEW = """
UPDATE leases SET expires_ms = $3 WHERE name = $1 AND holder = $2 AND fence = $4
"""


@attrs.frozen
class LeaseRow:
    """Who holds a lease."""

    holder: str
    fence: int
    expires_ms: int


async def take(tx: Tx, name: str, holder: str, expires_ms: int, now_ms: int) -> int | None:
    """Take a lease that is free or ours; give its fence, or None when another holds it."""
    fence: int | None = await tx.fetchval(TAKE, name, holder, expires_ms, now_ms)
    return fence


async def renew(tx: Tx, name: str, holder: str, fence: int, expires_ms: int) -> bool:
    """Keep a lease for longer; False when it was lost."""
    return await tx.execute(RENEW, name, holder, expires_ms, fence) == 1


async def give_back(tx: Tx, name: str, holder: str) -> None:
    """Free a lease, if it is still ours."""
    await tx.execute(GIVE_BACK, name, holder)


async def read(tx: Tx, name: str) -> LeaseRow | None:
    """Tell who had a lease last."""
    row = await tx.fetchrow(HOLDER, name)
    return LeaseRow(row[0], row[1], row[2]) if row is not None else None
