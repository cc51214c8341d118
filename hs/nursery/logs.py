"""Sets up logging as configured, and opens log files anew after they were rotated."""

import logging
import logging.config

from hs.lib.log import configure, text_handler
from hs.settings.errors import Problem, SettingsError
from hs.settings.sections.server import LoggingSettings


def set_up_logs(settings: LoggingSettings) -> None:
    """Follow `log_config`, or write text to standard error. Raises: SettingsError."""
    if settings.config is None:
        configure(text_handler())
        return
    try:
        logging.config.dictConfig(dict(settings.config))
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        raise SettingsError([_problem(settings, error)]) from None


def _problem(settings: LoggingSettings, error: Exception) -> Problem:
    reason = f": {error.__cause__}" if error.__cause__ else ""
    return Problem(
        key="log_config",
        message=f"{settings.log_config}: {error}{reason}",
        remedy="correct the file, or remove the key to log to standard error",
    )


def reopen_logs(settings: LoggingSettings) -> None:
    """Open the log files again, for who moved them away; for SIGHUP."""
    log = logging.getLogger(__name__)
    try:
        set_up_logs(settings)
    except SettingsError as error:
        configure(text_handler())
        log.error("the log files cannot be opened, writing to standard error: %s", error)
        return
    log.info("log files are open anew")
