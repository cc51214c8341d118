"""What tells a database from copies of it."""

import pytest

from hs.lib.aio import Bridge
from hs.storage.identity import place_of
from hs.storage.postgres.config import PostgresConfig
from hs.storage.postgres.database import open_postgres
from tests.support.servers.postgres import PostgresServer
from tests.support.sql.databases import TEMPLATE

COPY = "hs_copy"
ROLE = "hs_plain"

pytestmark = pytest.mark.postgres


async def place_in(server: PostgresServer, bridge: Bridge, database: str, role: str = "") -> str:
    arguments = server.arguments(database) | ({"user": role} if role else {})
    async with open_postgres(PostgresConfig(arguments, 1, 1), bridge) as opened:
        return await opened.read(place_of)


async def test_copied_database_has_its_identity_and_another_place(
    postgres_server: PostgresServer, bridge: Bridge
) -> None:
    postgres_server.psql(f"DROP DATABASE IF EXISTS {COPY}")
    postgres_server.psql(f"DROP ROLE IF EXISTS {ROLE}")
    postgres_server.psql(f"CREATE ROLE {ROLE} LOGIN")
    postgres_server.psql(f"CREATE DATABASE {COPY} TEMPLATE {TEMPLATE}")
    try:
        original = await place_in(postgres_server, bridge, TEMPLATE)
        again = await place_in(postgres_server, bridge, TEMPLATE)
        by_role = await place_in(postgres_server, bridge, TEMPLATE, ROLE)
        copy = await place_in(postgres_server, bridge, COPY)
        postgres_server.psql(
            "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC", database=COPY
        )
        without_privilege = await place_in(postgres_server, bridge, COPY, ROLE)
    finally:
        postgres_server.psql(f"DROP DATABASE {COPY}")
        postgres_server.psql(f"DROP ROLE {ROLE}")

    assert original == again == by_role
    assert copy.partition("/")[0] == original.partition("/")[0] != ""
    assert copy != original
    assert without_privilege == f"/{copy.partition('/')[2]}"
