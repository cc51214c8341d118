"""Every SQL statement of the package is understood by both engines."""

import importlib
import pkgutil
import re
from collections.abc import Iterator

import hs.repl
import hs.storage
from hs.storage.database import Database, DatabaseError, Tx
from hs.storage.dialect import Statement, numbered
from hs.storage.postgres.pool import LISTS
from hs.storage.rows import Change, Rows, UpdateRows

ONE_ENGINES_OWN = ("hs.storage.sqlite", "hs.storage.postgres", "hs.storage.migrate")
IS_STATEMENT = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\s")


def statements() -> Iterator[tuple[str, str, str]]:
    """Find each module's constants that are SQL: name, PostgreSQL's text, SQLite's text."""
    for package in (hs.storage, hs.repl):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.name.startswith(ONE_ENGINES_OWN):
                continue
            for name, constant in vars(importlib.import_module(found.name)).items():
                where = f"{found.name}.{name}"
                if isinstance(constant, Change):
                    constant = constant.statement
                if isinstance(constant, Statement | Rows | UpdateRows):
                    yield where, constant.postgres, constant.sqlite
                elif isinstance(constant, str) and IS_STATEMENT.match(constant):
                    yield where, constant, numbered(constant)


async def prepare_on_postgres(tx: Tx, statement: str) -> None:
    await tx.execute(f"PREPARE probe AS {statement}")
    await tx.execute("DEALLOCATE probe")


async def prepare_on_sqlite(tx: Tx, statement: str) -> None:
    highest = max((int(number) for number in re.findall(r"\?(\d+)", statement)), default=0)
    await tx.fetch(f"EXPLAIN {statement}", *[None] * highest)


async def test_every_statement_is_understood(database: Database) -> None:
    refused = []

    for where, postgres, sqlite in statements():
        try:
            if database.engine == "postgres":
                await database.read(prepare_on_postgres, postgres)
            else:
                await database.read(prepare_on_sqlite, sqlite)
        except DatabaseError as error:
            refused.append(f"{where}: {error}")

    assert refused == []


def test_each_type_of_lists_is_learned_as_a_connection_opens() -> None:
    types = {found for _, text, _ in statements() for found in re.findall(r"(\w+)\[\]", text)}

    # Those of text asyncpg knows by itself.
    assert types - {"text"} <= set(re.findall(r"(\w+)\[\]", LISTS))
