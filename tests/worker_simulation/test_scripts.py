"""Each script keeps all promises, and does not with a bug that it must find."""

import pytest

from tests.support.sql.databases import new_inline
from tests.worker_simulation.planted import PLANTED
from tests.worker_simulation.scenario import run_script
from tests.worker_simulation.scripts import CASES, Case


@pytest.fixture(scope="module", autouse=True)
def template() -> None:
    """Migrate the template of databases, which would use up chance."""
    new_inline().close()


def test_every_planted_bug_has_a_script() -> None:
    assert PLANTED.keys() == {bug for case in CASES for bug in case.bugs}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.script.__name__)
def test_script_keeps_all_promises(case: Case) -> None:
    assert run_script(case.plan, case.script).problems == []


@pytest.mark.parametrize(
    ("case", "bug"), [pytest.param(case, bug, id=bug) for case in CASES for bug in case.bugs]
)
def test_script_finds_a_planted_bug(case: Case, bug: str) -> None:
    with PLANTED[bug]():
        assert run_script(case.plan, case.script).problems != []
