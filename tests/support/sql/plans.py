"""How a database runs a statement: what an index bounds, and how many rows it walks.

`check_bounded` decides by the plan, not by time. On PostgreSQL the statement runs, and the rows
that each scan returned or dropped are counted; on SQLite, which does not count, the plan must name
the bounds of the index, and must not sort.
"""

import json
from typing import Any

from hs.storage.database import Database, Tx
from hs.storage.dialect import Query, Statement


async def explain(tx: Tx, statement: Query, *args: Any) -> str:
    """Return the plan of a statement as text."""
    if tx.dialect.engine == "postgres":
        text = statement.postgres if isinstance(statement, Statement) else statement
        rows = await tx.fetch(f"EXPLAIN {text}", *args)
        return "\n".join(str(row[0]) for row in rows)
    text = statement.sqlite if isinstance(statement, Statement) else statement
    rows = await tx.fetch(f"EXPLAIN QUERY PLAN {text}", *args)
    return "\n".join(str(row[3]) for row in rows)


async def explain_by_index(tx: Tx, statement: Query, *args: Any) -> str:
    """Return the plan of a statement as text, with a sequential scan only where no index serves.

    PostgreSQL rightly reads a small table whole, and what it takes for small depends on when the
    table was analyzed last.
    """
    if tx.dialect.engine == "postgres":
        await tx.execute("SELECT set_config('enable_seqscan', 'off', true)")
    return await explain(tx, statement, *args)


async def rows_walked(tx: Tx, statement: Query, *args: Any) -> int:
    """Run a statement on PostgreSQL; return how many rows its scans returned or dropped."""
    assert tx.dialect.engine == "postgres"
    text = statement.postgres if isinstance(statement, Statement) else statement
    plan = await tx.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {text}", *args)
    return sum(map(_walked, json.loads(plan) if isinstance(plan, str) else plan))


def _walked(node: dict[str, Any]) -> int:
    node = node.get("Plan", node)
    below = node.get("Plans", ())
    walked = sum(map(_walked, below))
    if not below or "Scan" in node["Node Type"]:
        dropped = sum(node.get(name, 0) for name in _DROPPED)
        walked += round((node["Actual Rows"] + dropped) * node["Actual Loops"])
    return walked


_DROPPED = (
    "Rows Removed by Filter",
    "Rows Removed by Index Recheck",
    "Rows Removed by Join Filter",
)


async def check_bounded(
    database: Database, statement: Query, *args: Any, rows: int, bounds: str, sorts: bool = False
) -> None:
    """Fail if a statement walks more than `rows` rows, or lacks `bounds` in SQLite's plan."""
    if database.engine == "postgres":
        walked = await database.read(rows_walked, statement, *args)
        plan = await database.read(explain, statement, *args)
        assert walked <= rows, f"{walked} rows walked:\n{plan}"
        return
    plan = await database.read(explain, statement, *args)
    assert bounds in plan, plan
    assert sorts or "TEMP B-TREE" not in plan, plan
