"""Log lines as text or JSON, with the ID of the request they belong to and without secrets."""

import logging
import re
import sys
import time
from contextlib import nullcontext
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TextIO

import orjson
import trio

MAX_BATCHED = 500
BATCHED_S = 0.2

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="-")

# What a LogRecord always has; anything else was given as `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "request",
    "request_id",
}
# Fewer fields than this, and none of them can be an extra.
_USUAL_SIZE = len(vars(logging.makeLogRecord({})))

_SECRET = re.compile(
    r"(access_token=|refresh_token=|login_token=|[Bb]earer\s+|\b(?:syt|syr|mat|hst)_)[^\s&\"',}]+"
)


# Whatever matches has one of these in it; looking for them costs a tenth of the expression.
_HINTS = ("token=", "earer", "syt_", "syr_", "mat_", "hst_")


def without_secrets(text: str) -> str:
    """Strike out what looks like an access token, a refresh token or a Bearer credential."""
    for hint in _HINTS:
        if hint in text:
            return _SECRET.sub(r"\1<redacted>", text)
    return text


def extras_of(record: logging.LogRecord) -> dict[str, Any]:
    """Give the values that the caller passed as `extra`."""
    fields = vars(record)
    if len(fields) <= _USUAL_SIZE:
        return {}
    return {name: value for name, value in fields.items() if name not in _STANDARD}


@lru_cache(maxsize=2)
def _second(timestamp: int) -> str:
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d %H:%M:%S")


class TextFormatter(logging.Formatter):
    """One line a record: time, level, logger, request ID, message, `name=value` extras."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the record."""
        when = f"{_second(int(record.created))}.{int(record.msecs):03d}"
        line = (
            f"{when} {record.levelname:<7} {record.name} [{REQUEST_ID.get()}] "
            f"{_one_line(record.getMessage())}"
        )
        for name, value in extras_of(record).items():
            line += f" {name}={_one_line(str(value))}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return without_secrets(line)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the record."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "request": REQUEST_ID.get(),
            "log": record.getMessage(),
            **extras_of(record),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return without_secrets(orjson.dumps(fields, default=str).decode())


class ContextFilter(logging.Filter):
    """Gives every record the attribute `request`, for formats that administrators write."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the ID of the request, unless the record has one; keep the record."""
        if not hasattr(record, "request"):
            record.request = REQUEST_ID.get()
        return True


class BatchedLines:
    """Lines of one logger, formatted and written together a few times a second.

    Formatting and flushing each by itself would cost more than many of the requests they tell
    of. They carry the time at which they were noted; while `run` does not run, each is written
    at once.
    """

    def __init__(self, logger: logging.Logger, level: int = logging.INFO) -> None:
        self._logger = logger
        self._level = level
        self._lines: list[tuple[float, str, str]] = []
        # Making a record anew costs ten times what copying one does.
        record = logging.LogRecord(logger.name, level, "", 0, "", None, None)
        self._first_ms = record.created * 1000 - record.relativeCreated
        self._fields = vars(record)
        self._is_running = False
        self._noted = trio.Event()

    def note(self, line: str) -> None:
        """Take a line; it belongs to the present request."""
        self._lines.append((time.time(), REQUEST_ID.get(), line))
        if not self._is_running or len(self._lines) >= MAX_BATCHED:
            self.write()
        else:
            self._noted.set()

    def write(self) -> None:
        """Write what waits."""
        lines, self._lines = self._lines, []
        present = REQUEST_ID.get()
        for handler in _handlers_of(self._logger):
            if handler.level <= self._level:
                self._write_to(handler, lines)
        REQUEST_ID.set(present)

    def _write_to(self, handler: logging.Handler, lines: list[tuple[float, str, str]]) -> None:
        records = (self._record(*line) for line in lines)
        stream = getattr(handler, "stream", None)
        if type(handler) not in _PLAIN_HANDLERS or stream is None:
            for record in records:
                handler.handle(record)
            return
        assert isinstance(handler, logging.StreamHandler)
        formatted = [
            handler.format(record) + handler.terminator
            for record in records
            if handler.filter(record)
        ]
        with handler.lock or nullcontext():
            try:
                stream.write("".join(formatted))
                handler.flush()
            except (OSError, ValueError):
                handler.handleError(self._record(*lines[-1]))

    def _record(self, created: float, request_id: str, line: str) -> logging.LogRecord:
        REQUEST_ID.set(request_id)
        record = logging.LogRecord.__new__(logging.LogRecord)
        vars(record).update(
            self._fields,
            msg=line,
            created=created,
            msecs=int((created - int(created)) * 1000) + 0.0,
            relativeCreated=created * 1000 - self._first_ms,
        )
        return record

    async def run(self) -> None:
        """Write a few times a second, and a last time when cancelled."""
        self._is_running = True
        try:
            while True:
                await self._noted.wait()
                await trio.sleep(BATCHED_S)
                self._noted = trio.Event()
                self.write()
        finally:
            self._is_running = False
            self.write()


# Those that only format, write and flush; any other may do more with a record.
_PLAIN_HANDLERS = (logging.StreamHandler, logging.FileHandler)


def _handlers_of(logger: logging.Logger) -> list[logging.Handler]:
    found: list[logging.Handler] = []
    one: logging.Logger | None = logger
    while one is not None:
        found += one.handlers
        one = one.parent if one.propagate else None
    return found


def _one_line(text: str) -> str:
    """Keep text from others from forging log lines or steering terminals."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def json_handler(stream: TextIO | None = None) -> logging.Handler:
    """Make a handler that writes JSON."""
    return _handler(JsonFormatter(), stream)


def text_handler(stream: TextIO | None = None) -> logging.Handler:
    """Make a handler that writes text."""
    return _handler(TextFormatter(), stream)


def _handler(formatter: logging.Formatter, stream: TextIO | None) -> logging.Handler:
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter)
    return handler


def configure(handler: logging.Handler, level: int | str = logging.INFO) -> None:
    """Send everything to one handler, once; what libraries tell from WARNING on only."""
    # Documented switches: what no formatter of ours writes need not be found out.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("aiohttp", "asyncio", "hypercorn", "quart", "redis", "trio", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
