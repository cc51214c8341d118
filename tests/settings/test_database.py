"""The database block, in the form that psycopg2 takes."""

import pytest

from tests.settings.conftest import Load, Refused

POSTGRES = "database: {name: psycopg2, args: {user: u, password: p, database: d, %s}}"


def test_the_arguments_of_psycopg2_are_translated(load: Load) -> None:
    database = load(
        POSTGRES % "host: db, port: 5433, cp_min: 5, cp_max: 20, connect_timeout: 3,"
        "sslmode: verify-full, sslrootcert: /ca.pem,"
        "options: '-c search_path=synapse -cstatement_timeout=5s', application_name: x"
    ).database

    assert database.connect == {
        "user": "u",
        "password": "p",
        "host": "db",
        "port": 5433,
        "database": "d",
        "timeout": 3.0,
    }
    assert (database.pool_min, database.pool_max) == (5, 20)
    assert database.dsn == "postgresql://?sslmode=verify-full&sslrootcert=%2Fca.pem"
    assert database.server_settings == {
        "application_name": "x",
        "search_path": "synapse",
        "statement_timeout": "5s",
    }


def test_dbname_is_another_word_for_database(load: Load) -> None:
    database = load("database: {name: psycopg2, args: {dbname: d, port: '5432'}}").database

    assert database.connect == {"database": "d", "port": 5432}


def test_arguments_of_the_old_pool_are_noted(load: Load) -> None:
    [notice] = load(POSTGRES % "cp_reconnect: true").notices

    assert notice.key == "database.args.cp_reconnect"
    assert not notice.is_warning


def test_an_unknown_argument_is_a_warning(load: Load) -> None:
    [notice] = load(POSTGRES % "sslmod: require").notices

    assert "did you mean sslmode?" in notice.message


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("{name: mysql}", "not a database"),
        ("{name: psycopg2, args: {user: u}}", "name is missing"),
        ("{name: psycopg2, args: {database: d, cp_min: 5, cp_max: 2}}", "less than cp_min"),
        ("{name: psycopg2, args: {database: d, options: search_path}}", "not understood"),
    ],
)
def test_a_wrong_database_is_refused(refused: Refused, written: str, told: str) -> None:
    assert told in refused(f"database: {written}")


def test_memory_is_not_a_path(load: Load) -> None:
    database = load("database: {name: sqlite3, args: {database: ':memory:'}}").database

    assert str(database.path) == ":memory:"
