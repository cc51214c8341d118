"""The errors that the processes of a simulation log: each one is a problem, unless expected."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PrefixOf = Callable[[logging.LogRecord], str | None]
"""Returns what comes before the text of an error; None if the error is expected."""


class _ErrorLog(logging.Handler):
    def __init__(self, prefix_of: PrefixOf, lines: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._prefix_of = prefix_of
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        prefix = self._prefix_of(record)
        if prefix is not None:
            self._lines.append(prefix + self.format(record))


@contextmanager
def recorded_errors(prefix_of: PrefixOf) -> Iterator[list[str]]:
    """Record the unexpected errors that are logged until the block ends; yield their texts."""
    lines: list[str] = []
    log, handler = logging.getLogger("hs"), _ErrorLog(prefix_of, lines)
    log.addHandler(handler)
    try:
        yield lines
    finally:
        log.removeHandler(handler)
