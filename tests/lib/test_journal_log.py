"""Log records in the journal of systemd."""

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hs.lib import journal_log
from hs.lib.journal_log import JournalHandler


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


def test_record_is_sent_with_the_configured_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    monkeypatch.setattr(journal_log, "SOCKET", str(path))
    with listening(path) as journal:
        handler = JournalHandler(SYSLOG_IDENTIFIER="hs")

        handler.emit(record_of("two\nlines"))

        datagram = journal.recv(4096)
        handler.close()
    assert b"MESSAGE\n" + (9).to_bytes(8, "little") + b"two\nlines\n" in datagram
    assert b"PRIORITY\n" + (1).to_bytes(8, "little") + b"4\n" in datagram
    assert b"SYSLOG_IDENTIFIER\n" + (2).to_bytes(8, "little") + b"hs\n" in datagram


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
