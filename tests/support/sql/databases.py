"""Fresh, migrated databases for tests: a copied SQLite file, or one PostgreSQL database emptied."""

import shutil
import sqlite3
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from functools import cache
from pathlib import Path

import asyncpg
import trio

from hs.lib.aio import Bridge, open_bridge
from hs.storage.database import Database
from hs.storage.inline import InlineDatabase
from hs.storage.migrate import bundled_migrations, migrate
from hs.storage.postgres.config import PostgresConfig
from hs.storage.postgres.database import open_postgres
from hs.storage.sqlite.threads import open_sqlite
from hs.storage.sqlite.tx import connect
from tests.support.servers.postgres import PostgresServer

TEMPLATE = "hs_template"
TESTED = "hs_test"

# The rows that migrations insert are copied to this schema, and restored after each test.
_KEEP_SEED = """
CREATE SCHEMA seed;
DO $$ DECLARE r record; filled boolean; BEGIN
  FOR r IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
    EXECUTE format('SELECT EXISTS (SELECT 1 FROM public.%I)', r.tablename) INTO filled;
    IF filled THEN
      EXECUTE format('CREATE TABLE seed.%I AS SELECT * FROM public.%I', r.tablename, r.tablename);
    END IF;
  END LOOP;
END $$
"""
_EMPTY = """
SET session_replication_role = replica;
DO $$ DECLARE r record; filled boolean; BEGIN
  FOR r IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
    EXECUTE format('SELECT EXISTS (SELECT 1 FROM public.%I)', r.tablename) INTO filled;
    IF filled THEN EXECUTE format('DELETE FROM public.%I', r.tablename); END IF;
  END LOOP;
  FOR r IN SELECT tablename FROM pg_tables WHERE schemaname = 'seed' LOOP
    EXECUTE format('INSERT INTO public.%I SELECT * FROM seed.%I', r.tablename, r.tablename);
  END LOOP;
  FOR r IN SELECT sequencename FROM pg_sequences
           WHERE schemaname = 'public' AND last_value IS NOT NULL LOOP
    EXECUTE format('ALTER SEQUENCE public.%I RESTART', r.sequencename);
  END LOOP;
END $$
"""
_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
_SEQUENCES = "SELECT sequencename FROM pg_sequences WHERE schemaname = 'public'"
# From the catalog, as the views of information_schema take 30 ms.
_SHAPE = """
SELECT string_agg(c.relname || '.' || a.attname || ':' || a.atttypid, ',' ORDER BY
                  c.relname, a.attnum)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'S')
  AND a.attnum > 0 AND NOT a.attisdropped
"""


def make_sqlite_template(path: Path) -> None:
    """Create a migrated file, to be copied for each test."""

    async def fill() -> None:
        async with open_sqlite(path) as database:
            await migrate(database, bundled_migrations(), ["pre", "post"])

    trio.run(fill)


def make_postgres_template(server: PostgresServer) -> None:
    """Create a migrated database, from which the test database is created."""
    server.psql(f"CREATE DATABASE {TEMPLATE}")

    async def fill() -> None:
        async with open_bridge() as bridge:
            async with open_postgres(_config(server, TEMPLATE), bridge) as database:
                await migrate(database, bundled_migrations(), ["pre", "post"])

    trio.run(fill)
    server.psql(_KEEP_SEED, database=TEMPLATE)


@cache
def _inline_template() -> sqlite3.Connection:
    conn = connect(":memory:")

    async def fill() -> None:
        await migrate(InlineDatabase(conn), bundled_migrations(), ["pre", "post"])

    # In a run of its own, so that a test's run goes the same way whether it is the first or not.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(trio.run, fill).result()
    return conn


def new_inline() -> InlineDatabase:
    """Return a migrated, empty SQLite database in memory, which may outlive a run of trio."""
    conn = connect(":memory:")
    _inline_template().backup(conn)
    return InlineDatabase(conn)


@asynccontextmanager
async def fresh_inline() -> AsyncIterator[Database]:
    """Open a migrated, empty SQLite database that needs no thread: for tests in virtual time."""
    with closing(new_inline()) as database:
        yield database


@asynccontextmanager
async def fresh_sqlite(template: Path, path: Path) -> AsyncIterator[Database]:
    """Open a copy of the template."""
    shutil.copyfile(template, path)
    async with open_sqlite(path) as database:
        yield database


@asynccontextmanager
async def fresh_postgres(server: PostgresServer, bridge: Bridge) -> AsyncIterator[Database]:
    """Open the test database, emptied, or created anew if a test changed its schema."""
    await bridge.run(_make_fresh, server)
    async with open_postgres(_config(server, TESTED), bridge) as database:
        yield database


async def _make_fresh(server: PostgresServer) -> None:
    try:
        conn = await asyncpg.connect(**server.arguments(TESTED))
    except asyncpg.InvalidCatalogNameError:
        await _recreate(server)
        return
    try:
        same_shape = await conn.fetchval(_SHAPE) == server.shape
        if not same_shape:
            for name in {row[0] for row in await conn.fetch(_TABLES)} - server.tables:
                await conn.execute(f'DROP TABLE "{name}" CASCADE')
            for name in {row[0] for row in await conn.fetch(_SEQUENCES)} - server.sequences:
                await conn.execute(f'DROP SEQUENCE "{name}"')
            same_shape = await conn.fetchval(_SHAPE) == server.shape
        if same_shape:
            await conn.execute(_EMPTY)
    finally:
        await conn.close()
    if not same_shape:
        await _recreate(server)


async def _recreate(server: PostgresServer) -> None:
    admin = await asyncpg.connect(**server.arguments("postgres"))
    try:
        await admin.execute(f"DROP DATABASE IF EXISTS {TESTED} WITH (FORCE)")
        await admin.execute(f"CREATE DATABASE {TESTED} TEMPLATE {TEMPLATE} STRATEGY file_copy")
    finally:
        await admin.close()
    conn = await asyncpg.connect(**server.arguments(TESTED))
    try:
        server.shape = await conn.fetchval(_SHAPE)
        server.tables = {row[0] for row in await conn.fetch(_TABLES)}
        server.sequences = {row[0] for row in await conn.fetch(_SEQUENCES)}
    finally:
        await conn.close()


def _config(server: PostgresServer, database: str) -> PostgresConfig:
    return PostgresConfig(server.arguments(database), min_connections=1, max_connections=5)
