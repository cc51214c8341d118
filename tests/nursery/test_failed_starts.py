"""A process that cannot live ends with a non-zero status and one readable cause."""

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hs.nursery import boot
from hs.nursery.exit_causes import cause_of
from hs.settings.settings import Settings
from tests.nursery.conftest import Load
from tests.support.certificates import make_certificates
from tests.support.processes import SERVER_NAME

Told = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _keep_logging() -> Iterator[None]:
    """Booting sets up the logs of the whole process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for one in set(root.handlers) - set(handlers):
        one.close()
    root.handlers[:], root.level = handlers, level


def told_of(settings: Settings, capsys: Told) -> str:
    """Boot, which must fail, and give the line that tells why."""
    status = boot.main(settings)

    told = capsys.readouterr().err
    assert status == boot.EXIT_FAILED
    assert "Traceback" not in told
    lines = [line for line in told.splitlines() if line.startswith("hs: ")]
    assert len(lines) == 1
    return lines[0]


def test_a_port_in_use(load: Load, alone: str, capsys: Told) -> None:
    settings = load(alone)
    port = settings.listeners[0].port
    assert port is not None
    with socket.create_server(("127.0.0.1", port)):
        told = told_of(settings, capsys)

    assert told == f"hs: main: Address already in use: 127.0.0.1 port {port}"


def test_a_socket_in_a_directory_that_is_not_there(
    load: Load, alone: str, tmp_path: Path, capsys: Told
) -> None:
    path = tmp_path / "none" / "hs.sock"
    text = alone.partition("listeners:")[0]

    told = told_of(load(text + f"listeners: [{{path: {path}, type: http}}]"), capsys)

    assert told == f"hs: main: No such file or directory: {path}"


def test_a_directory_where_sqlite_cannot_write(
    load: Load, alone: str, tmp_path: Path, capsys: Told
) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "homeserver.db"

    told = told_of(load(alone.replace(f"{tmp_path}/homeserver.db", str(path))), capsys)

    assert f"cannot open {path}: " in told


def test_a_file_that_is_no_database(load: Load, alone: str, tmp_path: Path, capsys: Told) -> None:
    (tmp_path / "homeserver.db").write_text("This is my diary. " * 1000)

    told = told_of(load(alone), capsys)

    assert "homeserver.db" in told
    assert "not a database" in told


def test_a_database_server_that_is_not_there(
    load: Load, alone: str, tmp_path: Path, capsys: Told
) -> None:
    lines = [line for line in alone.splitlines() if not line.startswith("database:")]
    args = f"{{host: {tmp_path}, port: 5433, database: hs, user: hs}}"

    told = told_of(load("\n".join([*lines, f"database: {{name: psycopg2, args: {args}}}"])), capsys)

    place = f"the database hs at {tmp_path}:5433 (key database)"
    assert told == f"hs: main: {place}: PostgreSQL: No such file or directory"


def test_a_signing_key_that_is_missing(
    load: Load, alone: str, tmp_path: Path, capsys: Told
) -> None:
    lines = [line for line in alone.splitlines() if not line.startswith("signing_key:")]
    path = tmp_path / "signing.key"

    told = told_of(load("\n".join([*lines, f"signing_key_path: {path}"])), capsys)

    assert (
        f"signing_key_path: cannot read a signing key from {path}: No such file or directory"
        in told
    )


def test_a_signing_key_that_is_none(load: Load, alone: str, capsys: Told) -> None:
    lines = [line for line in alone.splitlines() if not line.startswith("signing_key:")]

    told = told_of(load("\n".join([*lines, 'signing_key: "ed25519 a_test secret!"'])), capsys)

    assert "signing_key: " in told
    assert "secret!" not in told


def test_a_certificate_that_cannot_be_read(
    load: Load, alone: str, tmp_path: Path, capsys: Told
) -> None:
    made = make_certificates(tmp_path)
    text = alone.replace("type: http", "type: http\n    tls: true")
    tls = f"tls_certificate_path: {made.certificate}\ntls_private_key_path: {made.key}\n"
    settings = load(text + tls)
    made.key.write_text("not a key")

    told = told_of(settings, capsys)

    assert told.endswith(f": {made.certificate}, {made.key}")


def test_a_file_for_the_number_that_cannot_be_written(
    load: Load, alone: str, tmp_path: Path, capsys: Told
) -> None:
    path = tmp_path / "none" / "hs.pid"

    told = told_of(load(f"{alone}pid_file: {path}\n"), capsys)

    assert told == f"hs: main: No such file or directory: {path}"


def test_a_log_that_cannot_be_written(load: Load, alone: str, tmp_path: Path, capsys: Told) -> None:
    path = tmp_path / "none" / "hs.log"
    (tmp_path / "log.yaml").write_text(
        f"handlers: {{file: {{class: logging.FileHandler, filename: {path}}}}}\n"
        "root: {handlers: [file]}\n"
    )

    told = told_of(load(f"{alone}log_config: log.yaml\n"), capsys)

    assert "log_config" in told
    assert str(path) in told


def test_of_several_causes_the_fault_is_told_and_not_its_consequences() -> None:
    fault = KeyError("state")
    group = BaseExceptionGroup("", [BaseExceptionGroup("", [ValueError(SERVER_NAME), fault])])

    assert cause_of(group) == (f"ValueError: {SERVER_NAME}", True)
    assert cause_of(fault) == ("KeyError: 'state'", True)
