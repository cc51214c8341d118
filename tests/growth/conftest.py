"""The fixture `growth`, and the table in the summary of the run."""

import pytest

from tests.growth.table import Growth

_TABLE = pytest.StashKey[Growth]()


@pytest.fixture
def growth(request: pytest.FixtureRequest) -> Growth:
    """The table that this run prints."""
    return request.config.stash.setdefault(_TABLE, Growth())


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table."""
    table = config.stash.get(_TABLE, None)
    if table is not None and table.figures:
        terminalreporter.section("growth")
        for line in table.lines():
            terminalreporter.write_line(line)
