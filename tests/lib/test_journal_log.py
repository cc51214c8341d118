"""Log records in the journal of systemd."""

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hs.lib import journal_log
from hs.lib.journal_log import JournalHandler
from hs.lib.log import instance_name, name_process


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Listen as systemd's journal does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.settimeout(10)
        journal.bind(str(path))
        yield journal


def record_of(message: str) -> logging.LogRecord:
    """Return a warning."""
    return logging.LogRecord("hs", logging.WARNING, "", 0, message, None, None)


def field(name: str, value: str) -> bytes:
    """Return a field as the journal's protocol writes it."""
    return f"{name}\n".encode() + len(value).to_bytes(8, "little") + f"{value}\n".encode()


def test_record_is_sent_with_the_configured_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    monkeypatch.setattr(journal_log, "SOCKET", str(path))
    with listening(path) as journal:
        handler = JournalHandler(SYSLOG_IDENTIFIER="matrix")

        handler.emit(record_of("two\nlines"))

        datagram = journal.recv(4096)
        handler.close()
    assert field("MESSAGE", "two\nlines") in datagram
    assert field("PRIORITY", "4") in datagram
    assert field("SYSLOG_IDENTIFIER", "matrix") in datagram


@pytest.mark.parametrize(
    ("name", "identifier"), [("main", "hs"), ("sync1", "hs-sync1"), ("", "hs")]
)
def test_record_names_the_process_as_the_units_do(
    name: str, identifier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    monkeypatch.setattr(journal_log, "SOCKET", str(path))
    named_before = instance_name()
    name_process(name)
    try:
        with listening(path) as journal:
            handler = JournalHandler()
            handler.emit(record_of("a line"))
            datagram = journal.recv(4096)
            handler.close()
    finally:
        name_process(named_before)

    assert field("INSTANCE", name) in datagram
    assert field("SYSLOG_IDENTIFIER", identifier) in datagram


def test_restarted_journal_is_connected_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    monkeypatch.setattr(journal_log, "SOCKET", str(path))
    with listening(path):
        handler = JournalHandler()
    path.unlink()
    handler.emit(record_of("lost"))
    with listening(path) as journal:
        handler.emit(record_of("kept"))

        assert b"kept" in journal.recv(4096)
    handler.close()


def test_missing_journal_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_log, "SOCKET", str(tmp_path / "none"))

    with pytest.raises(OSError, match="none"):
        JournalHandler()
