"""Every SQL statement of the package is valid on both engines."""

import importlib
import pkgutil
import re
from collections.abc import Iterator

import hs.repl
import hs.storage
from hs.storage.database import Database, DatabaseError, Tx
from hs.storage.dialect import Statement, sqlite_parameters
from hs.storage.postgres.pool import ARRAY_TYPES
from hs.storage.rows import ChangeReturning, InsertRows, UpdateRows

ENGINE_SPECIFIC = (
    "hs.storage.sqlite",
    "hs.storage.postgres",
    "hs.storage.migrate",
    "hs.storage.connect",
)
IS_STATEMENT = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\s")


def statements() -> Iterator[tuple[str, str, str]]:
    """Yield each SQL constant of the modules: its name, PostgreSQL's text, SQLite's text."""
    for package in (hs.storage, hs.repl):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.startswith(ENGINE_SPECIFIC):
                continue
            for name, constant in vars(importlib.import_module(module.name)).items():
                where = f"{module.name}.{name}"
                if isinstance(constant, ChangeReturning):
                    constant = constant.statement
                if isinstance(constant, Statement | InsertRows | UpdateRows):
                    yield where, constant.postgres, constant.sqlite
                elif isinstance(constant, str) and IS_STATEMENT.match(constant):
                    yield where, constant, sqlite_parameters(constant)


async def prepare_on_postgres(tx: Tx, statement: str) -> None:
    await tx.execute(f"PREPARE probe AS {statement}")
    await tx.execute("DEALLOCATE probe")


async def prepare_on_sqlite(tx: Tx, statement: str) -> None:
    highest = max((int(number) for number in re.findall(r"\?(\d+)", statement)), default=0)
    await tx.fetch(f"EXPLAIN {statement}", *[None] * highest)


async def test_every_statement_can_be_prepared(database: Database) -> None:
    errors = []

    for where, postgres, sqlite in statements():
        try:
            if database.engine == "postgres":
                await database.read(prepare_on_postgres, postgres)
            else:
                await database.read(prepare_on_sqlite, sqlite)
        except DatabaseError as error:
            errors.append(f"{where}: {error}")

    assert errors == []


def test_new_connections_look_up_every_array_type_in_use() -> None:
    types = {name for _, text, _ in statements() for name in re.findall(r"(\w+)\[\]", text)}

    # asyncpg knows text arrays without a lookup.
    assert types - {"text"} <= set(re.findall(r"(\w+)\[\]", ARRAY_TYPES))
