"""Sets up logging as configured, and opens log files anew after they were rotated."""

import logging
import logging.config

from hs.lib.log import configure, text_handler
from hs.settings.server import LoggingSettings


def set_up_logs(settings: LoggingSettings) -> None:
    """Follow `log_config`, or write text to standard error."""
    if settings.config is None:
        configure(text_handler())
        return
    logging.config.dictConfig(dict(settings.config))


def reopen_logs(settings: LoggingSettings) -> None:
    """Open the log files again, for who moved them away; for SIGHUP."""
    set_up_logs(settings)
    logging.getLogger(__name__).info("log files are open anew")
