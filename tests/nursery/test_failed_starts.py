"""A process that cannot start exits with a non-zero status and one line that names the cause."""

import hashlib
import logging
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from hs.nursery import boot
from hs.nursery.exit_causes import EXIT_FAILED, cause_of
from hs.settings.errors import EXIT_BAD_CONFIG
from hs.settings.settings import Settings
from tests.nursery.conftest import Load
from tests.support.servers.certificates import make_certificates
from tests.support.servers.processes import SERVER_NAME

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """Restore the logging of the test process, which starting a server replaces."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:], root.level = handlers, level


def error_line(settings: Settings, capsys: Capture, expected_status: int = EXIT_FAILED) -> str:
    """Start a process, which must fail; return the line that names the cause."""
    status = boot.main(settings)

    stderr = capsys.readouterr().err
    assert status == expected_status
    assert "Traceback" not in stderr
    lines = [line for line in stderr.splitlines() if line.startswith("hs: ")]
    assert len(lines) == 1
    return lines[0]


def test_port_in_use_is_named(load: Load, single_process: str, capsys: Capture) -> None:
    settings = load(single_process)
    port = settings.listeners[0].port
    assert port is not None
    with socket.create_server(("127.0.0.1", port)):
        error = error_line(settings, capsys)

    assert error.startswith("hs: main: ")
    assert error.endswith(f": listeners: Address already in use: 127.0.0.1 port {port}")


def test_socket_in_missing_directory_is_named(
    load: Load, single_process: str, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "none" / "hs.sock"
    text = single_process.partition("listeners:")[0]

    error = error_line(load(text + f"listeners: [{{path: {path}, type: http}}]"), capsys)

    assert error == f"hs: main: No such file or directory: {path}"


def test_unwritable_database_directory_is_named(
    load: Load, single_process: str, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "homeserver.db"

    error = error_line(load(single_process.replace(f"{tmp_path}/homeserver.db", str(path))), capsys)

    assert f"cannot open {path}: " in error


def test_database_of_synapse_is_refused_and_left_untouched(
    load: Load, single_process: str, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "homeserver.db"
    with sqlite3.connect(path) as synapse:
        synapse.execute("CREATE TABLE schema_version (version INTEGER)")
        synapse.execute("CREATE TABLE applied_schema_deltas (version INTEGER, file TEXT)")
        synapse.execute("CREATE TABLE events (event_id TEXT)")
    synapse.close()
    before = hashlib.sha256(path.read_bytes()).digest()

    error = error_line(load(single_process), capsys, EXIT_BAD_CONFIG)

    assert "this is Synapse's database" in error
    assert str(path) in error
    assert hashlib.sha256(path.read_bytes()).digest() == before
    assert [file.name for file in tmp_path.glob("homeserver.db*")] == ["homeserver.db"]


def test_database_of_a_newer_version_is_refused(
    load: Load, single_process: str, tmp_path: Path, capsys: Capture
) -> None:
    with sqlite3.connect(tmp_path / "homeserver.db") as newer:
        newer.execute("CREATE TABLE schema_migrations (number INTEGER, name TEXT)")
        newer.execute("INSERT INTO schema_migrations VALUES (9999, 'next_year')")
    newer.close()

    error = error_line(load(single_process), capsys, EXIT_BAD_CONFIG)

    assert "a newer version of hs has migrated this database (migration 9999 next_year)" in error


def test_file_that_is_not_a_database_is_named(
    load: Load, single_process: str, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "homeserver.db").write_text("This is my diary. " * 1000)

    error = error_line(load(single_process), capsys)

    assert "homeserver.db" in error
    assert "not a database" in error


def test_unreachable_database_server_is_named(
    load: Load, single_process: str, tmp_path: Path, capsys: Capture
) -> None:
    lines = [line for line in single_process.splitlines() if not line.startswith("database:")]
    args = f"{{host: {tmp_path}, port: 5433, database: hs, user: hs}}"

    error = error_line(
        load("\n".join([*lines, f"database: {{name: psycopg2, args: {args}}}"])), capsys
    )

    database = f"the database hs at {tmp_path}:5433 (key database)"
    assert error == f"hs: main: {database}: PostgreSQL: No such file or directory"


def test_missing_signing_key_file_is_named(
    load: Load, single_process: str, tmp_path: Path, capsys: Capture
) -> None:
    lines = [line for line in single_process.splitlines() if not line.startswith("signing_key:")]
    path = tmp_path / "signing.key"

    settings = load("\n".join([*lines, f"signing_key_path: {path}"]))
    error = error_line(settings, capsys, EXIT_BAD_CONFIG)

    assert (
        f"signing_key_path: cannot read a signing key from {path}: No such file or directory"
        in error
    )


def test_malformed_signing_key_is_rejected_and_not_printed(
    load: Load, single_process: str, capsys: Capture
) -> None:
    lines = [line for line in single_process.splitlines() if not line.startswith("signing_key:")]

    settings = load("\n".join([*lines, 'signing_key: "ed25519 a_test secret!"']))
    error = error_line(settings, capsys, EXIT_BAD_CONFIG)

    assert "signing_key: " in error
    assert "secret!" not in error


def test_unreadable_certificate_is_named(
    load: Load, single_process: str, tmp_path: Path, capsys: Capture
) -> None:
    certificates = make_certificates(tmp_path)
    text = single_process.replace("type: http", "type: http\n    tls: true")
    text += f"tls_certificate_path: {certificates.certificate}\n"
    text += f"tls_private_key_path: {certificates.key}\n"
    settings = load(text)
    certificates.key.write_text("not a key")

    error = error_line(settings, capsys)

    assert error.endswith(f": {certificates.certificate}, {certificates.key}")


def test_unwritable_pid_file_is_named(
    load: Load, single_process: str, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "none" / "hs.pid"

    error = error_line(load(f"{single_process}pid_file: {path}\n"), capsys)

    assert error == f"hs: main: No such file or directory: {path}"


def test_unwritable_log_file_is_named(
    load: Load, single_process: str, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "none" / "hs.log"
    (tmp_path / "log.yaml").write_text(
        f"handlers: {{file: {{class: logging.FileHandler, filename: {path}}}}}\n"
        "root: {handlers: [file]}\n"
    )

    settings = load(f"{single_process}log_config: log.yaml\n")
    error = error_line(settings, capsys, EXIT_BAD_CONFIG)

    assert "log_config" in error
    assert str(path) in error


def test_programming_error_is_reported_rather_than_other_errors() -> None:
    fault = KeyError("state")
    group = BaseExceptionGroup("", [BaseExceptionGroup("", [ValueError(SERVER_NAME), fault])])

    assert cause_of(group) == (f"ValueError: {SERVER_NAME}", True)
    assert cause_of(fault) == ("KeyError: 'state'", True)
