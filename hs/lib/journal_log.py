"""A logging handler that writes to the journal of systemd, in its native protocol.

It takes the arguments of `systemd.journal.JournalHandler`, so that log configurations that name
that class need no further library.
"""

import logging
import socket
from typing import Final

from hs.lib.log import instance_name

SOCKET: Final = "/run/systemd/journal/socket"
MAX_FIELD_BYTES: Final = 64 * 1024
_PRIORITIES: Final = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
_DEBUG: Final = 7
_IDENTIFIER: Final = "hs"
_MAIN: Final = "main"


class JournalHandler(logging.Handler):
    """Sends each record to the journal; `fields` are added to it, such as SYSLOG_IDENTIFIER.

    The field INSTANCE names the process, and so does SYSLOG_IDENTIFIER unless it is given.

    A record that the journal does not take at once is dropped: there is no other place to log that.
    Raises: OSError, if there is no journal on this machine.
    """

    def __init__(self, level: int = logging.NOTSET, **fields: object) -> None:
        super().__init__(level)
        self._fields = {name: str(value) for name, value in fields.items() if name.isupper()}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.connect(SOCKET)
        except OSError as error:
            self._socket.close()
            raise OSError(error.errno, error.strerror, SOCKET) from None

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        try:
            message = self.format(record)
        except (TypeError, ValueError):
            self.handleError(record)
            return
        fields = {
            "MESSAGE": message,
            "PRIORITY": str(_priority_of(record.levelno)),
            "LOGGER": record.name,
            "CODE_FUNC": record.funcName or "",
            **_origin(),
            **self._fields,
        }
        datagram = b"".join(_field(name, value) for name, value in fields.items())
        try:
            self._socket.send(datagram)
        except BlockingIOError:
            pass
        except OSError:
            self._reconnect(datagram)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()

    def _reconnect(self, datagram: bytes) -> None:
        """Send a datagram to a journal that was restarted."""
        try:
            self._socket.connect(SOCKET)
            self._socket.send(datagram)
        except OSError:
            pass


def _priority_of(level: int) -> int:
    return next((priority for least, priority in _PRIORITIES if level >= least), _DEBUG)


def _origin() -> dict[str, str]:
    """Return the fields that name this process; the identifier is that of the units of systemd."""
    name = instance_name()
    identifier = _IDENTIFIER if name in ("", _MAIN) else f"{_IDENTIFIER}-{name}"
    return {"INSTANCE": name, "SYSLOG_IDENTIFIER": identifier}


def _field(name: str, value: str) -> bytes:
    """Return a field; its length precedes the value, which may contain line breaks."""
    data = value.encode(errors="replace")[:MAX_FIELD_BYTES]
    return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
