"""Log formats: lines of text or JSON with process and request ID, and with secrets redacted."""

import logging
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TextIO

import orjson
import trio

SAME_FAULT_S = 120.0
REMINDER_S = 600.0
FAULTS_REMEMBERED = 1000
MAX_BATCHED = 500
BATCHED_S = 0.2

NO_REQUEST = "-"
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default=NO_REQUEST)

# The attributes of every LogRecord; others come from `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "request",
    "request_id",
    "instance",
}
# A record with no more attributes than this has no extras.
_USUAL_SIZE = len(vars(logging.makeLogRecord({})))

_SECRET = re.compile(
    r"(access_token=|refresh_token=|login_token=|[Bb]earer\s+|\b(?:syt|syr|syl|mat|hst)_)[^\s&\"',}]+"
)


# Every match of _SECRET contains one of these; the search for them takes a tenth of its time.
_HINTS = ("token=", "earer", "syt_", "syr_", "syl_", "mat_", "hst_")


def without_secrets(text: str) -> str:
    """Redact anything that looks like an access token, refresh token or Bearer credential."""
    for hint in _HINTS:
        if hint in text:
            return _SECRET.sub(r"\1<redacted>", text)
    return text


def extras_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the values that the caller passed as `extra`."""
    fields = vars(record)
    if len(fields) <= _USUAL_SIZE:
        return {}
    return {name: value for name, value in fields.items() if name not in _STANDARD}


class _ProcessName:
    """The name of this process; there is one log, whoever writes to it."""

    text = ""


def name_process(name: str) -> None:
    """Write the name of this process in each line from now on."""
    _ProcessName.text = name


def instance_name() -> str:
    """Return the name of this process; "" before it is known."""
    return _ProcessName.text


@lru_cache(maxsize=2)
def _second(timestamp: int) -> str:
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d %H:%M:%S")


class TextFormatter(logging.Formatter):
    """A line per record: time, level, logger, origin, message and `name=value` extras.

    The origin is the name of the process and the request ID.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        time_text = f"{_second(int(record.created))}.{int(record.msecs):03d}"
        request_id, name = REQUEST_ID.get(), _ProcessName.text
        line = (
            f"{time_text} {record.levelname:<7} {record.name} "
            f"[{f'{name}/{request_id}' if name else request_id}] {_one_line(record.getMessage())}"
        )
        for name, value in extras_of(record).items():
            line += f" {name}={_one_line(str(value))}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return without_secrets(line)


class JsonFormatter(logging.Formatter):
    """A JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": _ProcessName.text,
            "request": REQUEST_ID.get(),
            "log": record.getMessage(),
            **extras_of(record),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return without_secrets(orjson.dumps(fields, default=str).decode())


class RedactingFormatter(logging.Formatter):
    """Redacts secrets from what another formatter writes."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        return without_secrets(self._inner.format(record))


class QuietRepeats(logging.Filter):
    """Drops repeated warnings and errors: a lasting fault is one line, not one for each attempt.

    A record is dropped if the same one came within SAME_FAULT_S, unless the last that was kept is
    older than REMINDER_S. Numbers with a fraction, such as the pause before the next attempt, make
    no difference.
    """

    def __init__(self) -> None:
        super().__init__()
        # For each record: when it came last, and when it was last kept.
        self._seen: dict[object, tuple[float, float]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to keep a record."""
        if record.levelno < logging.WARNING:
            return True
        key = _fault_of(record)
        now = record.created
        seen, kept = self._seen.pop(key, (0.0, 0.0))
        is_repeat = now - seen < SAME_FAULT_S and now - kept < REMINDER_S
        self._seen[key] = (now, kept if is_repeat else now)
        if len(self._seen) > FAULTS_REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return not is_repeat


def _fault_of(record: logging.LogRecord) -> object:
    args = record.args.values() if isinstance(record.args, Mapping) else record.args or ()
    error = record.exc_info[1] if record.exc_info else None
    details = tuple([str(arg) for arg in args if not isinstance(arg, float)])
    return record.name, record.msg, details, repr(error)


class ContextFilter(logging.Filter):
    """Adds the attributes `request` and `instance` to every record, for formats of administrators.

    `request` is its value outside of requests.
    """

    def __init__(self, name: str = "", request: str = NO_REQUEST) -> None:
        super().__init__(name)
        self._outside = request

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the request ID unless the record has one, and the process; always keep the record."""
        if not hasattr(record, "request"):
            request_id = REQUEST_ID.get()
            record.request = self._outside if request_id == NO_REQUEST else request_id
        record.instance = _ProcessName.text
        return True


class MetadataFilter(logging.Filter):
    """Adds fixed values to every record, which structured formats write."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        super().__init__()
        self._metadata = dict(metadata)

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the values; always keep the record."""
        vars(record).update(self._metadata)
        return True


class BatchedLines:
    """Lines of one logger that are formatted and written together, a few times a second.

    Writing each line of the request log by itself would cost more than serving many of the
    requests. Lines keep the time and the request ID of the moment they were noted. While `run` does
    not run, each line is written at once.
    """

    def __init__(self, logger: logging.Logger, level: int = logging.INFO) -> None:
        self._logger = logger
        self._level = level
        self._lines: list[tuple[float, str, str]] = []
        # Constructing a LogRecord takes ten times as long as copying the fields of one.
        record = logging.LogRecord(logger.name, level, "", 0, "", None, None)
        self._first_ms = record.created * 1000 - record.relativeCreated
        self._fields = vars(record)
        self._is_running = False
        self._noted = trio.Event()

    def note(self, line: str) -> None:
        """Add a line; it belongs to the current request."""
        self._lines.append((time.time(), REQUEST_ID.get(), line))
        if not self._is_running or len(self._lines) >= MAX_BATCHED:
            self.write()
        else:
            self._noted.set()

    def write(self) -> None:
        """Write all pending lines."""
        lines, self._lines = self._lines, []
        request_id = REQUEST_ID.get()
        for handler in _handlers_of(self._logger):
            if handler.level <= self._level:
                self._write_to(handler, lines)
        REQUEST_ID.set(request_id)

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
        """Write pending lines a few times a second, and once more when cancelled."""
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


# Handlers that only format, write and flush a record; subclasses may do more.
_PLAIN_HANDLERS = (logging.StreamHandler, logging.FileHandler)


def _handlers_of(logger: logging.Logger) -> list[logging.Handler]:
    handlers: list[logging.Handler] = []
    current: logging.Logger | None = logger
    while current is not None:
        handlers += current.handlers
        current = current.parent if current.propagate else None
    return handlers


def _one_line(text: str) -> str:
    """Escape unprintable text, so that users cannot forge log lines or control terminals."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def json_handler(stream: TextIO | None = None) -> logging.Handler:
    """Return a handler that writes JSON."""
    return _handler(JsonFormatter(), stream)


def text_handler(stream: TextIO | None = None) -> logging.Handler:
    """Return a handler that writes text."""
    return _handler(TextFormatter(), stream)


def _handler(formatter: logging.Formatter, stream: TextIO | None) -> logging.Handler:
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter)
    return handler


def protect_handlers() -> None:
    """Redact secrets and drop repeated faults in all handlers, whatever configured them."""
    for handler in _all_handlers():
        protect(handler)


def protect(handler: logging.Handler) -> None:
    """Redact secrets and drop repeated faults in one handler; idempotent."""
    formatter = handler.formatter or logging.Formatter()
    if not isinstance(formatter, (TextFormatter, JsonFormatter, RedactingFormatter)):
        handler.setFormatter(RedactingFormatter(formatter))
    if not any(isinstance(known, QuietRepeats) for known in handler.filters):
        handler.addFilter(QuietRepeats())


def _all_handlers() -> Iterator[logging.Handler]:
    for logger in (logging.getLogger(), *logging.getLogger().manager.loggerDict.values()):
        for handler in logger.handlers if isinstance(logger, logging.Logger) else ():
            # A handler that buffers records passes them to another one.
            target = getattr(handler, "target", None)
            yield target if isinstance(target, logging.Handler) else handler


def configure(handler: logging.Handler, level: int | str = logging.INFO) -> None:
    """Send all records to one handler; those of noisy libraries from WARNING on only."""
    # Documented switches of the logging module: no formatter here writes these values.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("aiohttp", "asyncio", "hypercorn", "quart", "redis", "trio", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
