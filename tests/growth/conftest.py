"""The fixture `growth`, the settings of the collector, and the table in the summary of the run."""

import gc
from collections.abc import Iterator

import pytest

from hs.nursery.boot import tune_garbage_collector
from tests.growth.table import Growth

_TABLE = pytest.StashKey[Growth]()


@pytest.fixture
def growth(request: pytest.FixtureRequest) -> Growth:
    """The table that this run prints."""
    return request.config.stash.setdefault(_TABLE, Growth())


@pytest.fixture(autouse=True, scope="session")
def _collector() -> Iterator[None]:
    """Collect garbage as a server does."""
    thresholds = gc.get_threshold()
    tune_garbage_collector()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table."""
    table = config.stash.get(_TABLE, None)
    if table is not None and table.figures:
        terminalreporter.section("growth")
        for line in table.lines():
            terminalreporter.write_line(line)
