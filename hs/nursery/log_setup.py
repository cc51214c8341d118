"""Sets up logging from `log_config`, and reopens log files after rotation."""

import logging
import logging.config
from collections.abc import Iterator
from logging.handlers import SysLogHandler

from hs.lib.log import configure, protect_handlers, text_handler
from hs.settings.errors import Problem, SettingsError
from hs.settings.log_config import log_files
from hs.settings.sections.server import LoggingSettings


def set_up_logging(settings: LoggingSettings) -> None:
    """Apply `log_config`; without it, log text to standard error.

    Raises: SettingsError, also if a handler could not write any record.
    """
    _apply(settings)
    record = logging.makeLogRecord({"name": __name__, "levelno": logging.INFO, "msg": "a record"})
    for handler in _handlers(settings):
        try:
            if handler.filter(record):
                handler.format(record)
            _check_socket(handler)
        except (ValueError, TypeError, LookupError, AttributeError, OSError) as error:
            place = ValueError(f"handler {handler.name!r}: {error}")
            raise SettingsError([_problem(settings, place)]) from None


def _apply(settings: LoggingSettings) -> None:
    if settings.config is None:
        configure(text_handler())
        protect_handlers()
        return
    try:
        logging.config.dictConfig(dict(settings.config))
        protect_handlers()
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        raise SettingsError([_problem(settings, error)]) from None


def _loggers(settings: LoggingSettings) -> list[logging.Logger]:
    names = dict((settings.config or {}).get("loggers") or {})
    return [logging.getLogger(), *(logging.getLogger(str(name)) for name in names)]


def _handlers(settings: LoggingSettings) -> Iterator[logging.Handler]:
    for logger in _loggers(settings):
        for handler in logger.handlers:
            target = getattr(handler, "target", None)
            yield from (handler, target) if isinstance(target, logging.Handler) else (handler,)


def _check_socket(handler: logging.Handler) -> None:
    """Raise OSError if a local syslog socket is missing, which Python's handler passes over."""
    if isinstance(handler, SysLogHandler) and isinstance(handler.address, str):
        try:
            handler.socket.getpeername()  # type: ignore[attr-defined]  # typeshed lacks it
        except OSError:
            raise OSError(f"no syslog service listens on {handler.address}") from None


def try_logging(settings: LoggingSettings) -> None:
    """Apply `log_config` and undo that, so that it leaves no new file. Raises: SettingsError."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    absent = [path for path in log_files(settings) if not path.exists()]
    try:
        set_up_logging(settings)
    finally:
        for logger in _loggers(settings):
            for handler in set(logger.handlers) - set(handlers):
                logger.removeHandler(handler)
                handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        for path in absent:
            path.unlink(missing_ok=True)


def _problem(settings: LoggingSettings, error: Exception) -> Problem:
    reason = f": {error.__cause__}" if error.__cause__ else ""
    return Problem(
        key=settings.key,
        message=f"{settings.log_config}: {error}{reason}",
        remedy="correct the file, or remove the key to log to standard error",
    )


def reopen_log_files(settings: LoggingSettings) -> None:
    """Reopen the log files, after logrotate has moved them; called at SIGHUP."""
    log = logging.getLogger(__name__)
    try:
        _apply(settings)
    except SettingsError as error:
        configure(text_handler())
        log.error("could not reopen the log files, logging to standard error: %s", error)
        return
    log.info("log files reopened")
