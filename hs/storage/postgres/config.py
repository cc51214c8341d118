"""How to connect to PostgreSQL; separate, because installations with SQLite have no asyncpg."""

from typing import Any

import attrs


@attrs.frozen
class PostgresConfig:
    """Connection arguments and pool size; `connect` holds arguments of `asyncpg.connect`.

    A unit that runs for `suspect_s` makes the watchdog ask whether the server still answers, which
    it must do within `answer_s`.
    """

    connect: dict[str, Any]
    min_connections: int = 2
    max_connections: int = 10
    suspect_s: float = 5.0
    answer_s: float = 10.0
