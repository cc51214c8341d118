"""The database block, in the format of Synapse and psycopg2."""

import pytest

from tests.settings.conftest import Load, Refused

POSTGRES = "database: {name: psycopg2, args: {user: u, password: p, database: d, %s}}"


def test_arguments_of_psycopg2_are_kept(load: Load) -> None:
    database = load(POSTGRES % "host: db, port: 5433, sslmode: require, cp_max: 20").database

    assert database.args == {
        "user": "u",
        "password": "p",
        "host": "db",
        "port": 5433,
        "database": "d",
        "sslmode": "require",
        "cp_max": 20,
    }


def test_dbname_is_an_alias_of_database(load: Load) -> None:
    database = load("database: {name: psycopg2, args: {dbname: d, port: '5432'}}").database

    assert database.args == {"database": "d", "port": "5432"}
    assert database.label == "d"


def test_password_is_not_in_the_repr_of_settings(load: Load) -> None:
    assert "hush" not in repr(load(POSTGRES.replace("password: p", "password: hush") % ""))


def test_arguments_of_psycopg2s_pool_are_ignored_with_a_note(load: Load) -> None:
    settings = load(POSTGRES % "cp_reconnect: true")

    [notice] = settings.notices
    assert "cp_reconnect" not in settings.database.args
    assert notice.key == "database.args.cp_reconnect"
    assert not notice.is_warning


def test_unknown_argument_is_a_warning_with_a_suggestion(load: Load) -> None:
    [notice] = load(POSTGRES % "sslmod: require").notices

    assert "did you mean sslmode?" in notice.message


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{name: mysql}", "not a supported database"),
        ("{name: psycopg2, args: {user: u}}", "name of the database is missing"),
        ("{name: psycopg2, args: {database: d, cp_min: 5, cp_max: 2}}", "less than cp_min"),
        ("{name: psycopg2, args: {database: d, options: [search_path]}}", "expected a string"),
    ],
)
def test_invalid_database_is_rejected(refused: Refused, written: str, message: str) -> None:
    assert message in refused(f"database: {written}")


def test_in_memory_database_is_not_resolved_as_a_path(load: Load) -> None:
    database = load("database: {name: sqlite3, args: {database: ':memory:'}}").database

    assert str(database.path) == ":memory:"


DATABASES = """
databases:
  master:
    name: psycopg2
    data_stores: [main, state]
    args: {user: u, password: hush, host: db, database: d}
"""


def test_single_entry_of_databases_is_the_database(load: Load) -> None:
    settings = load(DATABASES)

    assert settings.database.engine == "postgres"
    assert settings.database.label == "d"
    assert settings.notices == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DATABASES + "  state: {name: psycopg2, args: {database: s}}\n", "found master, state"),
        (DATABASES + "database: {name: sqlite3}\n", "databases: database is set as well"),
        ("databases: [x]", "databases: expected a map"),
        ("databases: {master: psycopg2}", "databases.master: expected a map"),
        ("databases: {master: {name: oracle}}", "databases.master.name: 'oracle' is not"),
        ("database: {args: {user: u, host: db}}", "database.name: missing"),
        ("database_config: database.yaml", "database_config: no longer read"),
        ("databse: {name: psycopg2, args: {database: d}}", "databse: unknown key"),
    ],
)
def test_mistaken_database_does_not_begin_an_empty_one(
    refused: Refused, text: str, message: str
) -> None:
    assert message in refused(text)


def test_empty_databases_do_not_replace_the_database(load: Load) -> None:
    assert load("databases: {}\n" + POSTGRES % "").database.engine == "postgres"


def test_password_of_digits_is_read_as_psycopg2_does(load: Load) -> None:
    database = load(
        "database: {name: psycopg2, args: {user: u, password: 123456, database: 7}}"
    ).database

    assert database.args["password"] == "123456"
    assert database.label == "7"
