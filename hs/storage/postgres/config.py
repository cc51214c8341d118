"""How to reach a PostgreSQL database; known without asyncpg, which SQLite does without."""

from typing import Any

import attrs


@attrs.frozen
class PostgresConfig:
    """How to reach a database; `connect` are arguments of asyncpg.connect."""

    connect: dict[str, Any]
    min_connections: int = 2
    max_connections: int = 10
