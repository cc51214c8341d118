"""Finds out that PostgreSQL hangs, or that a connection was lost without a sign.

Rules:

- While units end in time, it only wakes up when the oldest running one may have become suspect.
  Once one runs for `suspect_s`, the watchdog opens a connection and asks what the server is doing.
- A server that does not answer within `answer_s` hangs: its processes are stopped, its disk or the
  network does not respond. The pool gives up all connections, so that every unit ends: one that is
  committing with CommitUnknown, all others with DatabaseUnavailable. New units are refused at once.
- The watchdog then asks again until the server answers.
- If the server answers, a unit that takes long is left alone as long as its connection is active
  there. If the server has been waiting for a statement of this connection for `suspect_s`, while
  the unit is waiting for the result of one, the connection was lost, and is terminated.
"""

import asyncio
import logging
from typing import Final

import asyncpg

from hs.storage.postgres.config import PostgresConfig
from hs.storage.postgres.pool import Pool
from hs.storage.postgres.tx import Connection

LOOKS_PER_SUSPECT: Final = 5
IDLE: Final = """
SELECT pid FROM pg_stat_activity
WHERE pid = ANY($1::integer[]) AND state LIKE 'idle%'
    AND state_change < clock_timestamp() - $2 * interval '1 second'
"""

log = logging.getLogger(__name__)


class PostgresWatchdog:
    """The watchdog of a pool; its methods run in the loop's thread."""

    def __init__(self, pool: Pool, config: PostgresConfig) -> None:
        self._pool = pool
        self._suspect_s = config.suspect_s
        self._answer_s = config.answer_s
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to watch the pool."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop to watch the pool."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._pause_s(loop.time()))
            moment = loop.time() - self._suspect_s
            suspects = self._pool.used_since(moment)
            if suspects or self._pool.fault or self._pool.is_connecting_since(moment):
                try:
                    await self._look(suspects)
                except Exception:
                    log.exception("the watchdog of PostgreSQL failed, going on")

    def _pause_s(self, now: float) -> float:
        """Return after how many seconds a unit may be suspect."""
        shortest_s = self._suspect_s / LOOKS_PER_SUSPECT
        if self._pool.fault:
            return shortest_s
        return max(shortest_s, self._pool.oldest_use(now) + self._suspect_s - now)

    async def _look(self, suspects: list[Connection]) -> None:
        by_pid = {conn.get_server_pid(): conn for conn in suspects if not conn.is_closed()}
        try:
            async with asyncio.timeout(self._answer_s):
                idle_pids = await self._ask(list(by_pid))
        except TimeoutError:
            self._give_up()
            return
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            # It refuses, but it answers: the units meet the same error and need no help.
            log.debug("PostgreSQL refuses the watchdog: %s", error)
            idle_pids = []
        if self._pool.fault is not None:
            self._pool.resume()
            log.warning("PostgreSQL answers again")
        in_use = set(self._pool.used_since(asyncio.get_running_loop().time() - self._suspect_s))
        for conn in [by_pid[pid] for pid in idle_pids]:
            if conn in in_use:
                log.warning("a connection to PostgreSQL was lost without a sign, closing it")
                conn.terminate()

    async def _ask(self, pids: list[int]) -> list[int]:
        """Return which of these server processes have been idle for `suspect_s`."""
        helper = await self._pool.connect_only()
        try:
            return [row[0] for row in await helper.fetch(IDLE, pids, self._suspect_s)]
        finally:
            helper.terminate()

    def _give_up(self) -> None:
        if self._pool.fault is None:
            fault = f"PostgreSQL does not answer (for {self._answer_s:g} s)"
            log.critical("%s: refusing all requests that need it until it does", fault)
            self._pool.give_up(fault)
