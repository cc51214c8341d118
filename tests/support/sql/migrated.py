"""A database whose rows were written before a migration."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from hs.storage.database import Database, Tx
from hs.storage.inline import open_inline
from hs.storage.migrate import bundled_migrations, migrate


@asynccontextmanager
async def filled_before(
    number: int, fill: Callable[[Tx], Coroutine[Any, Any, None]]
) -> AsyncIterator[Database]:
    """Open a database with all migrations; `fill` has written to it before the migration."""
    migrations = bundled_migrations()
    async with open_inline() as database:
        earlier = [migration for migration in migrations if migration.number < number]
        await migrate(database, earlier, ["pre", "post"])
        await database.write(fill)
        await migrate(database, migrations, ["pre", "post"])
        yield database
