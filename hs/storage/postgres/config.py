"""How to connect to PostgreSQL; separate, because installations with SQLite have no asyncpg."""

from typing import Any

import attrs


@attrs.frozen
class PostgresConfig:
    """Connection arguments and pool size; `connect` holds arguments of `asyncpg.connect`."""

    connect: dict[str, Any]
    min_connections: int = 2
    max_connections: int = 10
